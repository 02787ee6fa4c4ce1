// SPDX-License-Identifier: Apache-2.0
// Loads a model's weights and runs forward steps.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/plan.h"
#include "kv/engine.h"
#include "model/source.h"

namespace thimble {

struct RunnerOptions {
    Device device = Device::kCpu;
    Isa isa = Isa::kPortable;
    Activations activations = Activations::kAuto;
    std::int64_t step_tokens =
        512;             // most tokens per forward step (prefill chunk); also -b/--batch-size
    bool repack = true;  // build resident layouts
    std::int64_t logit_rows = 0;  // most logits rows materialised at once; 0: as many as fit 32 MiB
    KvOptions kv;
};

class Runner {
  public:
    Runner(std::unique_ptr<ModelSource> source, const RunnerOptions& options, Team& team);
    ~Runner();
    [[nodiscard]] const ModelSpec& spec() const noexcept;
    [[nodiscard]] const ModelSource& source() const noexcept;
    [[nodiscard]] KvEngine& kv() noexcept;
    [[nodiscard]] const Exec& exec() const noexcept;

    // Receives logits rows [first, first + logits.rows) of the requested range, in order; the view
    // (dtype of exec) is valid during the call only.
    using LogitsSink = std::function<void(std::int64_t first, View logits)>;
    // Appends tokens to the sequence (any number: split into steps of step_tokens) and delivers the
    // logits of the last `logits` of them (0: none, and the head is not computed).
    void forward(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t logits,
                 const LogitsSink& sink);

    // State bytes moved per decoded token at a context of n tokens: weights read + KV read and
    // written.
    [[nodiscard]] std::uint64_t bytes_per_token(std::int64_t context_tokens) const;
    // Adds what a Runner of this source and options holds at its peak with `tokens` tokens in each
    // of `sequences` sequences: weights, KV, activations, logits. Exact: equals the ledger.
    static void add_to_plan(Plan& plan, const ModelSource& source, const RunnerOptions& options,
                            std::int64_t tokens, std::int64_t sequences, std::int64_t logits);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
