// SPDX-License-Identifier: Apache-2.0
// What a trainer reads and how it is cut into rows: the flags of its data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/options.h"

namespace thimble::train {

struct DataOptions {
    std::vector<std::string> train, validation;
    double validation_split = 0;
    std::string format = "auto";
    std::int64_t context_tokens = 2048;
    std::string pack = "bfd";
    std::int64_t pack_window = 1024;
    std::string too_long = "split";
    bool shuffle = true;
    bool mask_prompt = true;
    std::string chat_template;
    bool add_eos = true;
    bool parse_special = true;
    std::string text_split = "none";
    std::string document_separator;
    void visit(OptionVisitor& v);
    // Error(kUsage) for options that exclude one another.
    void check() const;

  private:
    void visit_rows(OptionVisitor& v);
    void visit_samples(OptionVisitor& v);
};

}  // namespace thimble::train
