// SPDX-License-Identifier: Apache-2.0
// A model whose layers' matrices become signed blocks (model/stacked_tensor.h), to be run at any
// size from the first block of each to all of them: "BitStack: Any-Size Compression of Large
// Language Models in Variable Memory Environments" (2025). Embedding, head and norms stay as they
// are. One matrix at a time is in memory.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/plan.h"
#include "core/team.h"
#include "kernels/layout/isa.h"

namespace thimble {

struct StackOptions {
    std::string model, output, imatrix, calibration, order = "layers";
    std::int64_t rank = 16, levels = 16, chunk_tokens = 512, chunks = 64, order_chunks = 4;
    bool overwrite = false;
    void visit(OptionVisitor& v);
};

// What became of one matrix.
struct StackReport {
    std::string name;
    std::uint64_t weights = 0, block_bytes = 0;
    bool scaled = false;
    std::vector<double> errors;  // after each block: |residual| / |weights|, both scaled
};

class StackJob {
  public:
    // Reads headers, and the importance matrix if there is one.
    StackJob(const StackOptions& options, std::string_view version);
    ~StackJob();
    [[nodiscard]] Plan plan();

    using Progress = std::function<bool(const char* what, std::int64_t done, std::int64_t total)>;
    // False when `progress` stopped it; then there is no output.
    [[nodiscard]] bool run(Team& team, Isa isa, const Progress& progress);
    [[nodiscard]] const std::vector<StackReport>& reports() const noexcept;
    [[nodiscard]] std::uint64_t input_bytes() const noexcept;
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;
    [[nodiscard]] std::uint64_t least_bytes() const noexcept;  // the file's, with one block each

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
