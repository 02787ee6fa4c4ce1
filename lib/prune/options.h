// SPDX-License-Identifier: Apache-2.0
// What the user asks `prune` for.
#pragma once

#include <string>
#include <vector>

#include "eval/checked_texts.h"

namespace thimble::prune {

struct PruneOptions : eval::CheckedTextOptions {
    std::string model, output, method, format;
    bool overwrite = false;
    std::vector<std::string> only;
    void visit(OptionVisitor& v);

    [[nodiscard]] std::string output_path() const;
};

}  // namespace thimble::prune
