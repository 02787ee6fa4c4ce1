// SPDX-License-Identifier: Apache-2.0
// A model whose layers' matrices become products of two thinner ones, as many bytes of them as are
// asked for: what each matrix multiplies is measured on a text, each is factored for that
// (calib/factor_matrix.h), all ranks are chosen together (compress/rank_choice.h), and the
// result is compared with the model. Embedding, head and norms stay as they are, and so do matrices
// that factors would not make smaller.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/plan.h"
#include "core/team.h"
#include "eval/checked_texts.h"
#include "eval/quality.h"
#include "kernels/layout/isa.h"

namespace thimble {

struct FactorOptions : eval::CheckedTextOptions {
    std::string model, output, weighting = "full", ranks = "global", format;
    double ratio = 0.8, damp = 0.01;
    std::vector<std::string> only;
    bool overwrite = false;
    void visit(OptionVisitor& v);
};

// What became of one matrix.
struct FactorReport {
    std::string name;
    std::int64_t rank = 0;  // 0: it is as it was
    std::uint64_t bytes_before = 0, bytes = 0;
    double loss = 0;  // |(W - B A) X|^2 over |W X|^2, or what the weighting makes of it
};

class FactorJob {
  public:
    // Reads headers and the text.
    FactorJob(const FactorOptions& options, std::string_view version);
    ~FactorJob();
    // Layers are read from disk where `ram_limit_bytes` leaves no room for them.
    [[nodiscard]] Plan plan(int threads, Isa isa, std::uint64_t baseline_bytes,
                            std::optional<std::uint64_t> ram_limit_bytes);
    // False when `progress` stopped it; then there is no output. Error(kGateFailed) where the
    // divergence is larger than asked for; then there is none, either.
    [[nodiscard]] bool run(Team& team, Isa isa, const Progress& progress);
    [[nodiscard]] const std::vector<FactorReport>& reports() const noexcept;
    [[nodiscard]] const std::optional<eval::Quality>& quality() const noexcept;
    [[nodiscard]] std::uint64_t input_bytes() const noexcept;
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
