// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "train/loop.h"

namespace thimble::train {

struct ToolOptions {
    std::string model, output, container;
    std::string init = "pretrained", config, tokenizer;
    std::string precision = "auto", loss = "cut", outtype = "auto";
    std::string metrics;
    std::string offload, offload_directory;
    bool merge = false, keep_state = false, force = false;
    std::string state;
    LoopOptions loop;
    void visit(OptionVisitor& v);

  private:
    void visit_model(OptionVisitor& v);
    void visit_memory(OptionVisitor& v);
};

}  // namespace thimble::train
