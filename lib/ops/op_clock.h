// SPDX-License-Identifier: Apache-2.0
// Where the time of forward steps goes, operation by operation. An operation that Exec::clock is
// set for is timed from its entry to its end (Timed), with the bytes of weights, keys and values
// that it reads; what it calls belongs to it. Time between operations is the phase's own, so that a
// phase's rows and its rest add up to the time that passed. Of one thread, the caller's.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/team.h"
#include "format/packed.h"
#include "ops/ops.h"

namespace thimble {

class OpClock {
  public:
    enum class Phase : std::uint8_t { kNone, kPrompt, kDecode };

    // Weights of one layout that a call reads.
    struct Weights {
        LayoutId layout = LayoutId::k_f32;
        LayoutParams params = {};
        bool coded = false;
        std::int64_t rows = 0;  // of all matrices of the layout
        std::uint64_t bytes = 0;
    };
    // As files name their layout: a resident one holds the same codes.
    [[nodiscard]] static std::string name_of(const Weights& weights);
    // All calls of one kind: of one operation, with matrices of the same layouts and shape.
    struct Row {
        const char* operation = "";
        std::int64_t cols = 0;         // of a product's matrices, else 0
        std::vector<Weights> weights;  // of one call
        std::int64_t calls = 0;
        double seconds = 0;
        double waiting = 0;  // seconds of these for other threads
        std::uint64_t bytes = 0;

        [[nodiscard]] std::string name() const;  // "matmul q4_0 960x576"
        [[nodiscard]] std::int64_t weights_per_call() const noexcept;
    };
    struct Total {
        std::int64_t tokens = 0;
        double seconds = 0;  // that passed
        TeamWaits waits;
        std::vector<Row> rows;

        [[nodiscard]] double other_seconds() const noexcept;  // outside operations
    };

    explicit OpClock(Team& team);
    ~OpClock();
    OpClock(const OpClock&) = delete;
    OpClock& operator=(const OpClock&) = delete;

    // What comes is of this phase, and has so many tokens, besides those that it had.
    void enter(Phase phase, std::int64_t tokens);
    [[nodiscard]] const Total& total(Phase phase) const noexcept {
        return totals_[static_cast<std::size_t>(phase)];
    }

    // For Timed. Operations without a phase are not counted.
    void begin(const char* operation, std::uint64_t bytes);
    void begin(const char* operation, std::span<const ops::Matmul> problems);
    void add_bytes(std::uint64_t bytes) noexcept;
    void end() noexcept;

  private:
    using Clock = std::chrono::steady_clock;
    Row& row_of(const char* operation, std::int64_t cols);
    void start(Row& row, std::uint64_t bytes);

    Team& team_;
    TeamWaits waits_, waits_before_, waits_of_phase_;
    Total totals_[3];
    Phase phase_ = Phase::kNone;
    Clock::time_point entered_, begun_;
    int depth_ = 0;
    std::size_t running_ = SIZE_MAX;  // row of the outermost operation; none
    std::vector<Weights> weights_;    // of the call that begins
};

// Enters a phase, where a clock is set.
void enter_phase(const Exec& exec, OpClock::Phase phase, std::int64_t tokens);

namespace ops {

// An operation, for as long as it lives; the outermost counts.
class Timed {
  public:
    Timed(const Exec& exec, const char* operation, std::uint64_t bytes = 0) : clock_(exec.clock) {
        if (clock_ != nullptr) clock_->begin(operation, bytes);
    }
    Timed(const Exec& exec, std::span<const Matmul> problems) : clock_(exec.clock) {
        if (clock_ != nullptr) clock_->begin("matmul", problems);
    }
    Timed(const Exec& exec, const Attention& problem);
    ~Timed() {
        if (clock_ != nullptr) clock_->end();
    }
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;
    void add_bytes(std::uint64_t bytes) noexcept {
        if (clock_ != nullptr) clock_->add_bytes(bytes);
    }

  private:
    OpClock* clock_;
};

// Bytes of the keys and values that some query of the problem sees, each once.
[[nodiscard]] std::uint64_t bytes_seen(const Attention& problem);

}  // namespace ops
}  // namespace thimble
