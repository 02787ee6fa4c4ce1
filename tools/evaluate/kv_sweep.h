// SPDX-License-Identifier: Apache-2.0
// evaluate --kv-sweep: policies of the KV cache, each at several budgets, on one model and text.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/tool.h"
#include "eval/kv_sweep.h"

namespace thimble::evaluate {

struct KvSweepToolOptions {
    std::string model, file, output, svg;
    std::vector<std::string> policies, budgets;
    eval::KvSweepOptions sweep;
    std::int64_t batch = 512;
    std::string activations = "auto", type_k = "f16", type_v = "f16";
    void visit(OptionVisitor& v);
};

class KvSweepPipeline {
  public:
    KvSweepToolOptions options;
    [[nodiscard]] Plan plan(const cli::CommonOptions& common);
    void run(cli::Context& context);

  private:
    void open(const cli::CommonOptions& common);
    [[nodiscard]] RunnerOptions runner_options(const std::string& policy) const;
    [[nodiscard]] std::uint64_t token_bytes() const;

    Device device_ = Device::kCpu;
    Isa isa_ = Isa::kPortable;
    std::unique_ptr<ModelSource> source_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::vector<std::vector<Token>> texts_;
    std::unique_ptr<eval::KvNeedles> needles_;
};

}  // namespace thimble::evaluate
