// SPDX-License-Identifier: Apache-2.0
#include "cost/serving.h"

#include <algorithm>
#include <cmath>

namespace thimble::cost {
namespace {

std::int64_t kept(const ServedLayer& layer, std::int64_t tokens) {
    return layer.most_keys > 0 ? std::min(layer.most_keys, tokens) : tokens;
}

// Of one key met by the queries of all heads.
double ops_per_key(const ServedLayer& layer) {
    return 4 * static_cast<double>(layer.heads * layer.head_dim);  // q.k and p.v
}

bool closed_form_holds(std::int64_t prompt, std::int64_t generated, std::int64_t most_keys) {
    return most_keys == 0 || generated >= most_keys - prompt;
}

double keys_by(Count count, std::int64_t prompt, std::int64_t generated, std::int64_t most_keys) {
    if (count == Count::kClosed && closed_form_holds(prompt, generated, most_keys))
        return keys_read_closed(prompt, generated, most_keys);
    return static_cast<double>(keys_read(prompt, generated, most_keys));
}

}  // namespace

double kv_bytes(const ServedModel& model, std::int64_t tokens) {
    double sum = model.state_bytes;
    for (const ServedLayer& layer : model.layers)
        sum += layer.bytes_per_key * static_cast<double>(kept(layer, tokens));
    return sum;
}

std::int64_t concurrency(const ServedModel& model, const Hardware& hardware, std::int64_t tokens) {
    const double room = hardware.memory_bytes - model.weight_bytes - model.workspace_bytes;
    const double one = kv_bytes(model, tokens);
    if (room <= 0) return 0;
    return one > 0 ? static_cast<std::int64_t>(std::min(room / one, 1e18)) : INT64_MAX;
}

PrefillOps prefill_ops(const ServedModel& model, std::int64_t tokens) {
    PrefillOps out;
    const auto n = static_cast<double>(tokens);
    out.weights = 2 * model.prompt_parameters * n;
    for (const ServedLayer& layer : model.layers) {
        out.attention +=
            ops_per_key(layer) * static_cast<double>(keys_read(0, tokens, layer.prompt_keys));
        const std::int64_t most =
            layer.prompt_keys > 0 ? std::min(layer.prompt_keys, tokens) : tokens;
        out.square_attention += ops_per_key(layer) * n * static_cast<double>(most);
    }
    return out;
}

double prefill_seconds(const ServedModel& model, const Hardware& hardware, std::int64_t tokens) {
    const PrefillOps ops = prefill_ops(model, tokens);
    return (ops.weights + ops.attention) / hardware.ops_per_second;
}

double decode_seconds(const ServedModel& model, const Hardware& hardware, std::int64_t tokens,
                      std::int64_t users) {
    return (model.read_bytes + static_cast<double>(users) * kv_bytes(model, tokens)) /
           hardware.bytes_per_second;
}

double switch_seconds(const ServedModel& model, const Hardware& hardware, std::int64_t tokens) {
    return kv_bytes(model, tokens) / hardware.link_bytes_per_second;
}

std::int64_t keys_read(std::int64_t prompt, std::int64_t generated, std::int64_t most_keys) {
    std::int64_t sum = 0;
    for (std::int64_t step = 1; step <= generated; ++step)
        sum += most_keys > 0 ? std::min(most_keys, prompt + step) : prompt + step;
    return sum;
}

double keys_read_closed(std::int64_t prompt, std::int64_t generated, std::int64_t most_keys) {
    const auto in = static_cast<double>(prompt), out = static_cast<double>(generated);
    if (most_keys == 0) return (2 * in + out) * out / 2;
    const double growing = std::max(static_cast<double>(most_keys) - in, 0.0);
    return static_cast<double>(most_keys) * out - growing * growing / 2;
}

TestTimeCost test_time_cost(const ServedModel& model, const TestTime& work, Count count) {
    TestTimeCost out;
    const auto samples = static_cast<double>(work.samples);
    const auto generated = static_cast<double>(work.generated);
    out.ops = samples * 2 * model.decode_parameters * generated;
    for (const ServedLayer& layer : model.layers) {
        const double keys = keys_by(count, work.prompt, work.generated, layer.most_keys);
        const double all = keys_by(count, work.prompt, work.generated, 0);
        // All samples read the prompt's keys together; of kept keys each has its own.
        const double shared = generated * static_cast<double>(work.prompt);
        const double read =
            layer.most_keys > 0 ? samples * keys : shared + samples * (keys - shared);
        out.ops += samples * ops_per_key(layer) * keys;
        out.bytes += layer.bytes_per_key * read;
        if (work.block == 0 || layer.most_keys == 0) continue;
        // A mean key for each block of all keys: one product, no value.
        const auto block = static_cast<double>(work.block);
        out.ops += samples * ops_per_key(layer) / 2 * all / block;
        out.bytes += layer.bytes_per_key / 2 * (shared + samples * (all - shared)) / block;
    }
    return out;
}

}  // namespace thimble::cost
