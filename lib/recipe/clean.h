// SPDX-License-Identifier: Apache-2.0
// Removes what recipes' runs have left in a work directory: outputs, and .thimble with its cache.
#pragma once

#include <string>

#include "io/json.h"

namespace thimble::recipe {

struct CleanOptions {
    bool force = false;  // also outputs that have been changed since
    bool dry = false;    // tells only
};

// Outputs of this directory's runs with the bytes that a step wrote, and the cache; never a file
// outside the work directory, also not through a symbolic link. The lock file stays.
// {removed: [paths], kept: [{path, why}]}
[[nodiscard]] Json clean(const std::string& workdir, const CleanOptions& options);

}  // namespace thimble::recipe
