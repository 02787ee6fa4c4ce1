// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "decode/prompt_repeat.h"
#include "eval/speed.h"
#include "kv/engine.h"
#include "model/adapted_store.h"

namespace thimble::evaluate {

struct EvaluateOptions {
    std::string model, reference, output, samples, lm_eval, baseline, machine;
    std::vector<std::string> texts, tasks, asserts;
    std::int64_t chunks = 0, limit = 0, shots = 0;
    std::int64_t batch = 512;
    std::int64_t gpu_layers = -1;
    std::string activations = "auto", act_sparsity = "auto";
    bool bench = false;
    eval::SpeedOptions speed;
    AdapterOptions adapters;
    PromptRepeat repeat;
    KvOptions kv = {.context_tokens = 512};
    void visit(OptionVisitor& v);

  private:
    void visit_results(OptionVisitor& v);
    void visit_speed(OptionVisitor& v);
};

struct CompareOptions {
    std::vector<std::string> results;
    std::string output;
    void visit(OptionVisitor& v);
};

struct ReportOptions {
    std::vector<std::string> results;
    std::string output, sort;
    void visit(OptionVisitor& v);
};

}  // namespace thimble::evaluate
