// SPDX-License-Identifier: Apache-2.0
#include "cost/time_model.h"

#include <algorithm>

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
        out.layers += 2 * hidden * (2 * queries + 2 * keys);  // q, output; k, v
        out.attention_per_key += 4 * queries;                 // q.k and p.v
    }
    for (const RecurrentLayer& layer : spec.recurrent)  // three gates, output
        out.layers += 2 * hidden * 4 * static_cast<double>(layer.channels);
    // gate, up, down
    out.layers += 2 * hidden * 3 * static_cast<double>(spec.all_ffn);
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

namespace {

// Bytes of F32 that one token moves through norms, gates, rotations and sums of one layer, forward;
// backward moves kBackward times as much.
constexpr double kHiddenMoves = 14, kFfnMoves = 5, kBackward = 2.5;
// What thin products reach of the rate of square ones.
constexpr double kThin = 0.25;

double disk_seconds(const MachineProfile& profile, const TrainingWork::Disk& disk) {
    return disk.read_bytes / profile.disk_read_bytes_per_second +
           disk.written_bytes / profile.disk_write_bytes_per_second;
}

}  // namespace

TrainingTime training_time(const Machine& machine, const ModelSpec& spec,
                           const TrainingWork& work) {
    const StepOps ops = step_ops(spec);
    const RateAtThreads rate = machine.profile.at(machine.threads);
    const auto n = static_cast<double>(work.tokens);
    const double dense = work.bf16 ? rate.dense_bf16_ops_per_second : rate.dense_f32_ops_per_second;
    const double products = n * (work.layer_passes * ops.layers + work.head_passes * ops.head);
    // Backward computes the scores anew and has four products beside them.
    const double attention = n * ops.attention_per_key * static_cast<double>(work.document) / 2 *
                             (work.layer_forwards + 2.5);
    const double moved = 4 * n *
                         (kHiddenMoves * static_cast<double>(spec.layers * spec.hidden) +
                          kFfnMoves * static_cast<double>(spec.all_ffn)) *
                         (work.layer_forwards + kBackward);
    TrainingTime time;
    time.compute = work.runs * (products / dense + 2 * n * work.low_rank_uses / (kThin * dense) +
                                attention / rate.dense_f32_ops_per_second +
                                (moved + work.operand_bytes) / rate.copy_bytes_per_second);
    time.update = work.update_bytes / rate.copy_bytes_per_second;
    const double passes = disk_seconds(machine.profile, work.passes);
    const double state = disk_seconds(machine.profile, work.state);
    time.disk = passes + state;
    time.step = work.in_backward ? std::max(time.compute + time.update, time.disk)
                                 : std::max(time.compute, passes) + std::max(time.update, state);
    return time;
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
