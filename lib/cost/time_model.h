// SPDX-License-Identifier: Apache-2.0
// Closed-form times from a machine profile: decode is bound by the bytes it moves, prefill by
// arithmetic, quantize by the disk or the encoder. First-order figures for plans, not benchmarks.
#pragma once

#include <cstdint>

#include "cost/profile.h"
#include "model/spec.h"

namespace thimble::cost {

struct Machine {
    const MachineProfile& profile;
    std::int64_t threads = 1;
    bool i8_activations = false;
};

// Multiply-adds count as two. Per token; the head only for tokens whose logits are wanted.
struct StepOps {
    double layers = 0, head = 0;
    double attention_per_key = 0;  // times the keys a token sees
};
[[nodiscard]] StepOps step_ops(const ModelSpec& spec);

[[nodiscard]] double prefill_seconds(const Machine& machine, const ModelSpec& spec,
                                     std::int64_t tokens, std::int64_t logit_rows);
[[nodiscard]] double decode_seconds(const Machine& machine, std::uint64_t bytes_per_token,
                                    std::int64_t tokens);
// Reading weights once from disk.
[[nodiscard]] double load_seconds(const Machine& machine, std::uint64_t bytes);

// One step of training.
struct TrainingWork {
    std::int64_t tokens = 0;
    std::int64_t document = 0;  // tokens that see one another
    double runs = 1;            // through the whole model: 2 where a pass before finds the norm
    // Products of a forward pass that the weights take part in: forward, once more where layers are
    // computed again, for the gradient of the input, for that of the weights.
    double layer_passes = 3, head_passes = 3;
    double layer_forwards = 1;  // of them forward
    double low_rank_uses = 0;   // elements of adapters times the products that each is part of
    bool bf16 = false;          // operands
    double operand_bytes = 0;   // read and written to make weights into operands
    double update_bytes = 0;    // moved to clear, sum up and use gradients
    bool in_backward = false;   // the update overlaps the passes
    struct Disk {
        double read_bytes = 0, written_bytes = 0;
    } passes, state;  // while the model runs; while the optimizer does
};
struct TrainingTime {
    double compute = 0, update = 0, disk = 0;  // seconds
    double step = 0;                           // disk behind what it overlaps
};
[[nodiscard]] TrainingTime training_time(const Machine& machine, const ModelSpec& spec,
                                         const TrainingWork& work);

struct QuantizeWork {
    std::uint64_t read_bytes = 0, written_bytes = 0;
    std::uint64_t weights = 0;
    double encoder_passes = 1;  // over the weights as F32: 1 for plain rounding, ~50 for searches
};
// Reading, encoding and writing follow each other.
[[nodiscard]] double quantize_seconds(const Machine& machine, const QuantizeWork& work);

}  // namespace thimble::cost
