// SPDX-License-Identifier: Apache-2.0
#include "cost/time_model.h"

namespace thimble::cost {
namespace {

double ops_per_second(const Machine& machine) {
    const RateAtThreads rate = machine.profile.at(machine.threads);
    return machine.i8_activations ? rate.i8_ops_per_second : rate.f32_ops_per_second;
}

}  // namespace

StepOps step_ops(const ModelSpec& spec) {
    StepOps out;
    const auto hidden = static_cast<double>(spec.hidden);
    for (const AttentionSpec& layer : spec.attention) {
        const auto queries = static_cast<double>(layer.shape.heads) * layer.shape.head_dim;
        const auto keys = static_cast<double>(layer.shape.kv_heads) * layer.shape.head_dim;
        out.layers += 2 * hidden * (2 * queries + 2 * keys);           // q, output; k, v
        out.layers += 2 * hidden * 3 * static_cast<double>(spec.ffn);  // gate, up, down
        out.attention_per_key += 4 * queries;                          // q.k and p.v
    }
    out.head = 2 * hidden * static_cast<double>(spec.vocab);
    return out;
}

double prefill_seconds(const Machine& machine, const ModelSpec& spec, std::int64_t tokens,
                       std::int64_t logit_rows) {
    const StepOps ops = step_ops(spec);
    const auto n = static_cast<double>(tokens);
    const double attention = ops.attention_per_key * n * (n + 1) / 2;
    // Attention runs in float whatever the weights' input is.
    return (n * ops.layers + static_cast<double>(logit_rows) * ops.head) / ops_per_second(machine) +
           attention / machine.profile.at(machine.threads).f32_ops_per_second;
}

double decode_seconds(const Machine& machine, std::uint64_t bytes_per_token, std::int64_t tokens) {
    return static_cast<double>(tokens) * static_cast<double>(bytes_per_token) /
           machine.profile.at(machine.threads).read_bytes_per_second;
}

double load_seconds(const Machine& machine, std::uint64_t bytes) {
    return static_cast<double>(bytes) / machine.profile.disk_read_bytes_per_second;
}

double training_seconds(const Machine& machine, const ModelSpec& spec, const TrainingWork& work) {
    const StepOps ops = step_ops(spec);
    const auto n = static_cast<double>(work.tokens);
    const double f32 = machine.profile.at(machine.threads).f32_ops_per_second;
    const double products = n * (work.layer_passes * ops.layers + work.head_passes * ops.head);
    // Backward computes the scores anew and has four products beside them.
    const double attention = n * ops.attention_per_key * static_cast<double>(work.document) / 2 *
                             (work.layer_passes - 1 + 1.5);
    return (products / (work.bf16 ? 2 : 1) + attention) / f32;
}

double quantize_seconds(const Machine& machine, const QuantizeWork& work) {
    const RateAtThreads rate = machine.profile.at(machine.threads);
    // An encoder pass does about four operations per weight and streams it as F32.
    const double pass = static_cast<double>(work.weights) *
                        (4 / rate.f32_ops_per_second + sizeof(float) / rate.copy_bytes_per_second);
    return static_cast<double>(work.read_bytes) / machine.profile.disk_read_bytes_per_second +
           work.encoder_passes * pass +
           static_cast<double>(work.written_bytes) / machine.profile.disk_write_bytes_per_second;
}

}  // namespace thimble::cost
