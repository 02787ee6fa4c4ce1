// SPDX-License-Identifier: Apache-2.0
// One quantisation from open model to finished file: chosen formats, exact output size and memory
// before work begins, then rows streamed through fixed buffers, whatever the model's size.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>

#include "core/plan.h"
#include "core/team.h"
#include "quant/rules.h"
#include "quant/tensor_error.h"

namespace thimble {

// What became of one tensor.
struct TensorReport {
    const TensorChoice* choice = nullptr;
    std::uint64_t bytes_in = 0, bytes_out = 0;
    std::optional<TensorError> error;   // where it was measured
    std::optional<TensorError> change;  // by merging adapters, before encoding
};

// Called on the caller's thread.
struct QuantizeEvents {
    // How far the work is, between tensors and between pieces of large ones. Returning false stops
    // the work and leaves no output, but for what --resume goes on from.
    std::function<bool(std::uint64_t bytes_done, std::uint64_t bytes_total)> progress;
    std::function<void(const TensorReport&)> stored;  // (optional) after each tensor
};

class QuantizeJob {
  public:
    // Reads headers only. `version` goes into the output's provenance.
    QuantizeJob(const QuantizeOptions& options, std::string_view version);
    ~QuantizeJob();

    // Memory with `threads` workers. Row buffers shrink to fit what `ram_limit_bytes` leaves after
    // `baseline_bytes` (which is not part of the plan), down to one row per worker; what still does
    // not fit is for check_budget to refuse.
    [[nodiscard]] Plan plan(int threads, std::uint64_t baseline_bytes,
                            std::optional<std::uint64_t> ram_limit_bytes);

    // Writes the output; false when progress stopped it. Buffers are as the last plan() said. With
    // --resume, Error(kAgain) says that it was stopped.
    [[nodiscard]] bool run(Team& team, Isa isa, const QuantizeEvents& events);

    [[nodiscard]] const std::vector<TensorReport>& reports() const noexcept;
    [[nodiscard]] const std::string& output_path() const noexcept;
    [[nodiscard]] std::uint64_t input_bytes() const noexcept;   // of all tensors
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;  // of the file
    // Input of the tensors and rows that an earlier run had stored already.
    [[nodiscard]] std::uint64_t resumed_bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
