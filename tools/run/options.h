// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "cost/probe.h"
#include "decode/prompt_repeat.h"
#include "decode/session.h"
#include "decode/workers.h"
#include "model/adapted_store.h"

namespace thimble::run {

struct RunOptions {
    std::string model, prompt, file;
    bool parse_special = false;
    bool chat = false, interactive = false;
    std::string system, chat_template;
    PromptRepeat repeat;
    GenerateOptions generate;
    KvOptions kv;
    std::string kv_save, kv_load, kv_dump;
    WorkerOptions workers;
    AdapterOptions adapters;
    std::int64_t batch = 512;
    std::string activations = "auto", act_sparsity = "auto";
    std::int64_t gpu_layers = -1;
    bool repack = true, profile = false;
    std::string machine, probe;
    cost::ProbeOptions probing;
    void visit(OptionVisitor& v);

  private:
    void visit_computation(OptionVisitor& v);
};

}  // namespace thimble::run
