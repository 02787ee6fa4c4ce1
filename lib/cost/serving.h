// SPDX-License-Identifier: Apache-2.0
// What a model costs at long context, in closed form, before anything runs: "Challenges in
// Deploying Long-Context Transformers: A Theoretical Peak Performance Analysis" (2024), and the
// cost law of "Kinetics: Rethinking Test-Time Scaling Laws" (2025). Bytes are bytes: GB are 10^9
// and GiB 2^30 of them. Attention is counted with the keys that a causal mask leaves, and per layer
// with those that its window or the KV policy's budget leaves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace thimble::cost {

struct Hardware {
    std::string name;
    double ops_per_second = 0;    // peak; a multiply and an add count as two
    double bytes_per_second = 0;  // of memory
    double memory_bytes = 0;
    double link_bytes_per_second = 0;  // to where caches wait
    // Operations that take as long as a byte of memory traffic.
    [[nodiscard]] double ops_per_byte() const { return ops_per_second / bytes_per_second; }
};

struct ServedLayer {
    std::int64_t heads = 0, head_dim = 0;
    double bytes_per_key = 0;      // a position's keys and values, of all KV heads
    std::int64_t most_keys = 0;    // that are kept and read; 0: all
    std::int64_t prompt_keys = 0;  // that a prompt's query reads at most, before any is dropped
};
struct ServedModel {
    double weight_bytes = 0;       // in memory
    double read_bytes = 0;         // of these, read for each step of decoding
    double prompt_parameters = 0;  // that each token of a prompt is multiplied with
    double decode_parameters = 0;  // that each generated token is: the head's, too
    double workspace_bytes = 0;
    double state_bytes = 0;  // of recurrent layers, for each user, however long the text
    std::vector<ServedLayer> layers;
};

[[nodiscard]] double kv_bytes(const ServedModel& model, std::int64_t tokens);
// Users whose caches fit beside the weights.
[[nodiscard]] std::int64_t concurrency(const ServedModel& model, const Hardware& hardware,
                                       std::int64_t tokens);
struct PrefillOps {
    double weights = 0;
    double attention = 0;         // what a causal mask leaves
    double square_attention = 0;  // all keys for all queries, as some figures are counted
};
[[nodiscard]] PrefillOps prefill_ops(const ServedModel& model, std::int64_t tokens);
[[nodiscard]] double prefill_seconds(const ServedModel& model, const Hardware& hardware,
                                     std::int64_t tokens);
// One token for each of `users`, all with so many tokens: weights are read once for all.
[[nodiscard]] double decode_seconds(const ServedModel& model, const Hardware& hardware,
                                    std::int64_t tokens, std::int64_t users);
// One cache, one way.
[[nodiscard]] double switch_seconds(const ServedModel& model, const Hardware& hardware,
                                    std::int64_t tokens);

// `samples` answers of `generated` tokens to one prompt, which they share.
struct TestTime {
    std::int64_t prompt = 0, generated = 0, samples = 1;
    std::int64_t block = 0;  // keys that block search has one mean for; 0: none
};
// Keys that the tokens generated after a prompt read in all: of at most `most_keys` (0: no limit)
// the k-th reads those of the prompt and its own k. Step by step, in integers; and in closed form,
// where half a token per growing step is left out and which holds once the limit is reached
// (generated >= most_keys - prompt) or there is none.
[[nodiscard]] std::int64_t keys_read(std::int64_t prompt, std::int64_t generated,
                                     std::int64_t most_keys);
[[nodiscard]] double keys_read_closed(std::int64_t prompt, std::int64_t generated,
                                      std::int64_t most_keys);
// Operations, and operations' worth of memory traffic, of generating; weights' traffic is left out,
// as large batches share it. `closed`: by the closed form where it holds.
// differs: the published code has a plus before the squared term in one of its two functions; the
// minus is what the sum over steps says.
struct TestTimeCost {
    double ops = 0, bytes = 0;
    [[nodiscard]] double total(double ops_per_byte) const { return ops + ops_per_byte * bytes; }
};
enum class Count : std::uint8_t { kClosed, kSteps };
[[nodiscard]] TestTimeCost test_time_cost(const ServedModel& model, const TestTime& work,
                                          Count count);

}  // namespace thimble::cost
