// SPDX-License-Identifier: Apache-2.0
// A file tier over any engine: open_file_tier() chooses one, tests bring their own.
#pragma once

#include "storage/engine.h"
#include "storage/tier.h"

namespace thimble::storage {

// Null where the system refuses it.
using MakeEngine = std::function<std::unique_ptr<IoEngine>(IoEngine::Done done)>;
// Null when make() gives null.
[[nodiscard]] std::unique_ptr<StorageTier> make_file_tier(const std::string& directory,
                                                          const MakeEngine& make);

}  // namespace thimble::storage
