// SPDX-License-Identifier: Apache-2.0
// One invocation of offload-train: what it will hold, the training, the result.
#pragma once

#include <memory>

#include "cli/tool.h"
#include "options.h"
#include "train/output.h"

namespace thimble::train {

// Resident memory of the process before any work.
inline constexpr std::uint64_t kBaselineBytes = std::uint64_t{14} << 20;
// What MPI adds to it where ranks are joined.
inline constexpr std::uint64_t kMpiBytes = std::uint64_t{16} << 20;

class Pipeline {
  public:
    ToolOptions options;

    [[nodiscard]] Plan plan(const cli::CommonOptions& common);
    void run(cli::Context& context);

  private:
    void open_model(std::uint64_t seed);
    void open(const cli::CommonOptions& common);
    [[nodiscard]] ResultTarget result() const;
    void report_tier(cli::Context& context) const;
    void report(cli::Context& context, double seconds, std::int64_t tokens) const;

    [[nodiscard]] dist::Communicator& ranks() const { return *options.loop.trainer.ranks; }

    std::unique_ptr<ModelSource> source_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::uint64_t tokenizer_bytes_ = 0;  // predicted
    std::unique_ptr<Loop> loop_;
};

}  // namespace thimble::train
