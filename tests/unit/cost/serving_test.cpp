// SPDX-License-Identifier: Apache-2.0
// The closed forms of serving against rows calculated by hand, limits, and sums over steps.
#include <doctest/doctest.h>

#include "cost/serving.h"

using namespace thimble::cost;

namespace {

// A model of 34 billion parameters in 16 bits, 60 layers of 56 heads and 8 KV heads of 128.
ServedModel model_34b(std::int64_t kv_heads = 8, std::int64_t most_keys = 0) {
    ServedModel m;
    m.weight_bytes = m.read_bytes = 68e9;
    m.prompt_parameters = m.decode_parameters = 34e9;
    m.layers.assign(60, {.heads = 56,
                         .head_dim = 128,
                         .bytes_per_key = static_cast<double>(2 * kv_heads * 128 * 2),
                         .most_keys = most_keys});
    return m;
}

const Hardware kA100 = {"A100", 312e12, 2e12, 80e9, 20e9};
const Hardware kTwoA100 = {"2 A100", 624e12, 4e12, 160e9, 20e9};

}  // namespace

TEST_CASE("serving: the rows of the running example of the 2024 analysis") {
    const ServedModel m = model_34b();
    CHECK(kv_bytes(m, 50000) == 12288000000.0);
    CHECK(kv_bytes(m, 100000) == 24576000000.0);  // 22.9 GiB
    CHECK(kv_bytes(m, 100000) / (1 << 30) == doctest::Approx(22.888).epsilon(1e-4));
    CHECK(kv_bytes(m, 4096) / (1 << 30) == 0.9375);
    // 12 GB beside the weights: not quite one user of 50 000 tokens, eleven of 4096.
    CHECK(concurrency(m, kA100, 50000) == 0);
    CHECK(concurrency(m, kA100, 4096) == 11);
    CHECK(concurrency(m, kTwoA100, 50000) == 7);
    // 2 x 34e9 x 50000 for the weights, 4 x 60 x 7168 x 50000^2 / 2 for a causal square.
    const PrefillOps ops = prefill_ops(m, 50000);
    CHECK(ops.weights == 3.4e15);
    CHECK(ops.attention == doctest::Approx(2.1504e15).epsilon(1e-4));
    CHECK(ops.square_attention == doctest::Approx(4.3008e15).epsilon(1e-12));
    CHECK(prefill_seconds(m, kA100, 50000) == doctest::Approx(17.79).epsilon(1e-3));
    CHECK(decode_seconds(m, kA100, 50000, 1) == doctest::Approx(0.040144).epsilon(1e-9));
    CHECK(decode_seconds(m, kA100, 4096, 11) == doctest::Approx(0.0395365).epsilon(1e-5));
    CHECK(switch_seconds(m, kA100, 50000) == doctest::Approx(0.6144).epsilon(1e-12));
}

TEST_CASE("serving: limits, and every cost grows with what it hangs on") {
    const ServedModel m = model_34b();
    CHECK(decode_seconds(m, kA100, 0, 1) == 0.034);  // the weights alone
    CHECK(prefill_seconds(m, kA100, 0) == 0);
    CHECK(concurrency(m, {"small", 1, 1, 60e9, 1}, 1) == 0);
    CHECK(kv_bytes(model_34b(56), 777) == 7 * kv_bytes(m, 777));  // a KV head for each head
    const std::vector<std::int64_t> lengths = {1, 2, 100, 4096, 4097, 50000, 1000000};
    for (std::size_t i = 1; i < lengths.size(); ++i) {
        const std::int64_t a = lengths[i - 1], b = lengths[i];
        CHECK(kv_bytes(m, a) < kv_bytes(m, b));
        CHECK(prefill_seconds(m, kA100, a) < prefill_seconds(m, kA100, b));
        CHECK(decode_seconds(m, kA100, a, 3) < decode_seconds(m, kA100, b, 3));
        CHECK(switch_seconds(m, kA100, a) < switch_seconds(m, kA100, b));
        CHECK(concurrency(m, kTwoA100, a) >= concurrency(m, kTwoA100, b));
        CHECK(decode_seconds(m, kA100, a, 1) < decode_seconds(m, kA100, a, 2));
        CHECK(decode_seconds(m, kTwoA100, a, 1) < decode_seconds(m, kA100, a, 1));
        // A budget: the same below it, constant from it on.
        const ServedModel kept = model_34b(8, 4096);
        CHECK(kv_bytes(kept, b) == kv_bytes(m, std::min<std::int64_t>(b, 4096)));
        // Dropped when the prompt ends; a window holds in the prompt, too.
        CHECK(prefill_ops(kept, b).attention == prefill_ops(m, b).attention);
        ServedModel windowed = kept;
        for (ServedLayer& layer : windowed.layers) layer.prompt_keys = 4096;
        CHECK((prefill_ops(windowed, b).attention < prefill_ops(m, b).attention) == (b > 4096));
    }
}

TEST_CASE("serving: keys read step by step and in closed form differ by half a token a step") {
    for (const std::int64_t prompt : {0, 1, 7, 100, 4096}) {
        for (const std::int64_t generated : {0, 1, 5, 64, 1000}) {
            const double all = static_cast<double>(keys_read(prompt, generated, 0));
            CHECK(all - keys_read_closed(prompt, generated, 0) ==
                  static_cast<double>(generated) / 2);
            for (const std::int64_t budget : {1, 8, 107, 500, 5000}) {
                // By hand, in integers.
                std::int64_t sum = 0;
                for (std::int64_t t = 0; t < generated; ++t) {
                    const std::int64_t seen = prompt + t + 1;
                    sum += seen < budget ? seen : budget;
                }
                CHECK(keys_read(prompt, generated, budget) == sum);
                if (generated < budget - prompt) continue;  // it is not valid there
                const std::int64_t growing = std::max<std::int64_t>(budget - prompt, 0);
                CHECK(static_cast<double>(sum) - keys_read_closed(prompt, generated, budget) ==
                      static_cast<double>(growing) / 2);
            }
        }
    }
}

TEST_CASE("serving: the Kinetics law, dense and with a budget and block search") {
    // As the law is written: D = head_dim x layers, 16-bit keys and values.
    const ServedModel m = model_34b();
    const double p = 34e9, hq = 56, hkv = 8, d = 128 * 60;
    const double in = 4096, out = 16384, n = 8;
    const TestTimeCost dense =
        test_time_cost(m, {.prompt = 4096, .generated = 16384, .samples = 8}, Count::kClosed);
    CHECK(dense.ops ==
          doctest::Approx(n * (2 * p * out + 2 * (2 * in + out) * out * hq * d)).epsilon(1e-12));
    CHECK(dense.bytes == doctest::Approx(2 * (2 * in + n * out) * out * hkv * d).epsilon(1e-12));
    CHECK(dense.total(562.5) == doctest::Approx(dense.ops + 562.5 * dense.bytes).epsilon(1e-15));

    const ServedModel kept = model_34b(8, 5120);
    const TestTime search{.prompt = 4096, .generated = 16384, .samples = 8, .block = 16};
    const double x = 5120.0 * out - 1024.0 * 1024.0 / 2;
    const TestTimeCost sparse = test_time_cost(kept, search, Count::kClosed);
    CHECK(sparse.ops ==
          doctest::Approx(n * (2 * p * out + 4 * x * hq * d + (2 * in + out) / 16 * out * hq * d))
              .epsilon(1e-12));
    CHECK(sparse.bytes ==
          doctest::Approx(n * 4 * x * hkv * d + (2 * in + n * out) / 16 * out * hkv * d)
              .epsilon(1e-12));
    const TestTimeCost steps = test_time_cost(kept, search, Count::kSteps);
    CHECK(steps.bytes == doctest::Approx(sparse.bytes).epsilon(1e-4));
    CHECK(steps.bytes != sparse.bytes);

    // Where fewer tokens are generated than the budget has room for, the closed form is not used.
    const TestTime few{.prompt = 4096, .generated = 100, .samples = 1};
    CHECK(test_time_cost(kept, few, Count::kClosed).bytes ==
          test_time_cost(kept, few, Count::kSteps).bytes);
    CHECK(test_time_cost(kept, few, Count::kSteps).bytes ==
          test_time_cost(m, few, Count::kSteps).bytes);  // one sample: nothing to share
}
