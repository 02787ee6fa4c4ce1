// SPDX-License-Identifier: Apache-2.0
// What the user asks `prune` for.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"

namespace thimble::prune {

struct PruneOptions {
    std::string model, output, method, format;
    bool overwrite = false;
    std::string file, chat_template, check_file;
    std::int64_t context_tokens = 512, chunks = 64, check_chunks = 8;
    bool parse_special = false;
    double max_kld = 0;  // 0: none
    std::vector<std::string> only;
    void visit(OptionVisitor& v);

    [[nodiscard]] std::string output_path() const;
};

}  // namespace thimble::prune
