// SPDX-License-Identifier: Apache-2.0
// One pruning from open model to checked file: what the method needs to know is measured, the
// output written tensor by tensor under another name, compared with the model, and renamed.
// Methods that zero weights go layer by layer, each seeing what the pruned layers before it leave.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "core/plan.h"
#include "core/team.h"
#include "eval/quality.h"
#include "kernels/layout/isa.h"
#include "prune/calibration.h"
#include "prune/options.h"

namespace thimble::prune {

// Zeros of one matrix after pruning.
struct Zeros {
    std::string tensor;
    std::uint64_t weights = 0, zeros = 0;
    bool stored = true;  // as any other weight; else by the format
};

struct PruneReport {
    Cut cut;  // of the source
    ModelConfig before, after;
    std::vector<Zeros> zeros;
    std::uint64_t input_bytes = 0, output_bytes = 0;
    std::uint64_t plain_bytes = 0;  // of a file that stores the zeros, too; 0: the output does
    std::int64_t calibration_tokens = 0;
    std::optional<eval::Quality> quality;
    std::vector<double> dropped;  // share of activations, by layer, where thresholds were made
};

class PruneJob {
  public:
    // Reads headers and the text. `version` goes into the output's provenance.
    PruneJob(const PruneOptions& options, std::string_view version);
    ~PruneJob();
    // With so many threads; layers are read from disk where `ram_limit_bytes` leaves no room for
    // them.
    [[nodiscard]] Plan plan(int threads, Isa isa, std::uint64_t baseline_bytes,
                            std::optional<std::uint64_t> ram_limit_bytes);
    // False when `progress` stopped it; then there is no output. Error(kGateFailed) where the
    // divergence is larger than asked for: report() then says how large, and there is no output.
    [[nodiscard]] bool run(Team& team, Isa isa, const Progress& progress);
    [[nodiscard]] const PruneReport& report() const noexcept;
    [[nodiscard]] const std::string& output_path() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble::prune
