// SPDX-License-Identifier: Apache-2.0
// evaluate find-retrieval-heads: the sidecar that --kv-policy compresskv reads.
#pragma once

#include <memory>
#include <string>

#include "cli/tool.h"
#include "eval/retrieval_heads.h"

namespace thimble::evaluate {

class RetrievalHeads {
  public:
    void visit(OptionVisitor& v);
    [[nodiscard]] Plan plan(const cli::CommonOptions& common);
    void run(cli::Context& context);

  private:
    void open();
    [[nodiscard]] RunnerOptions runner_options(Device device, Isa isa) const;

    std::string model_, text_, output_;
    eval::RetrievalOptions options_;
    std::unique_ptr<ModelSource> source_;
    std::unique_ptr<Tokenizer> tokenizer_;
};

}  // namespace thimble::evaluate
