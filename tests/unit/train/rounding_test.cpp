// SPDX-License-Identifier: Apache-2.0
// bf16 weights by stochastic rounding, and sums of squares.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/layout/half.h"
#include "tests/support/trained_parameter.h"

using namespace thimble;
using namespace thimble::test;
using namespace thimble::train;

namespace {

std::vector<std::uint16_t> rounded(Isa isa, const std::vector<float>& x, const RandomKey& key,
                                   std::int64_t step = 1, std::int64_t first = 0) {
    std::vector<std::uint16_t> out(x.size());
    round_stochastic(isa, key, step, first, x, out.data());
    return out;
}

std::vector<float> some_floats(std::size_t n, std::uint64_t seed) {
    std::vector<float> out(n);
    for (std::size_t i = 0; i < n; ++i) {
        const Philox4 r = philox(seed, i);
        out[i] = std::ldexp(unit_float(r.v[0]) - 0.5f, static_cast<int>(r.v[1] % 40) - 20);
    }
    return out;
}

}  // namespace

TEST_CASE("round_stochastic: the bits are those of its definition, at every level and cut") {
    const std::vector<float> x = some_floats(1000, 1);
    const RandomKey key{0x123456789abcdefull, 77};
    constexpr std::int64_t kFirst = 12345, kStep = 9;
    std::vector<std::uint16_t> want(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::uint64_t element = kFirst + i, part = element % 128 / 16;
        const Philox4 words =
            philox(key.seed ^ 0x726f756e64696e67, element / 128 * 16 + element % 16,
                   std::uint64_t{77} << 32 | kStep);
        const std::uint32_t random = words.v[part / 2] >> (part % 2 * 16) & 0xffffu;
        want[i] = static_cast<std::uint16_t>((float_to_bits(x[i]) + random) >> 16);
    }
    for (const Isa isa : machine_levels()) {
        CHECK(rounded(isa, x, key, kStep, kFirst) == want);
        std::vector<std::uint16_t> parts(x.size());
        for (std::size_t at = 0; at < x.size();) {
            const std::size_t n = std::min<std::size_t>(1 + at % 201, x.size() - at);
            round_stochastic(isa, key, kStep, kFirst + static_cast<std::int64_t>(at),
                             {x.data() + at, n}, parts.data() + at);
            at += n;
        }
        CHECK(parts == want);
    }
}

TEST_CASE("round_stochastic: what bf16 can hold comes back exactly, NaN and infinity too") {
    std::vector<std::uint16_t> all(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
    for (const Isa isa : machine_levels()) {
        std::vector<float> wide(all.size());
        widen(isa, all, wide.data());
        const std::vector<std::uint16_t> back = rounded(isa, wide, {5, 6});
        for (std::size_t i = 0; i < all.size(); ++i) {
            CHECK(float_to_bits(wide[i]) == static_cast<std::uint32_t>(i) << 16);
            const bool nan = (i & 0x7fff) > 0x7f80;
            CHECK(back[i] == (nan ? i | 0x40 : i));
        }
        for (const std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu}) {
            const std::vector<float> x(500, bits_to_float(bits));
            for (const std::uint16_t b : rounded(isa, x, {7, 8})) CHECK(std::isnan(bf16_to_f32(b)));
        }
    }
}

TEST_CASE("round_stochastic: one of the two neighbours, and the mean is the number") {
    const std::vector<float> x = some_floats(400, 2);
    constexpr int kSeeds = 4096;
    std::vector<double> sum(x.size()), share(x.size());
    for (int seed = 0; seed < kSeeds; ++seed) {
        const auto out = rounded(best_isa(), x, {static_cast<std::uint64_t>(seed), 3});
        for (std::size_t i = 0; i < x.size(); ++i) {
            const std::uint32_t low = float_to_bits(x[i]) >> 16;
            REQUIRE((out[i] == low || out[i] == low + 1));
            sum[i] += static_cast<double>(bf16_to_f32(out[i]));
        }
    }
    int far = 0;
    double deviations = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        const std::uint32_t bits = float_to_bits(x[i]);
        const double low = static_cast<double>(bits_to_float(bits & 0xffff0000u));
        const double gap =
            static_cast<double>(bits_to_float((bits & 0xffff0000u) + 0x10000u)) - low;
        const double p = (static_cast<double>(x[i]) - low) / gap;
        const double deviation = std::abs(gap) * std::sqrt(p * (1 - p) / kSeeds);
        const double off = sum[i] / kSeeds - static_cast<double>(x[i]);
        far += std::abs(off) > 5 * deviation + 1e-30;
        deviations += deviation > 0 ? off / deviation : 0;
    }
    CHECK(far == 0);
    CHECK(std::abs(deviations) <= 5 * std::sqrt(static_cast<double>(x.size())));
}

TEST_CASE("round_stochastic: seed, step and parameter each change the numbers; elements differ") {
    const std::vector<float> x(4096, 1 + 1.0f / 256);  // half way
    const auto a = rounded(best_isa(), x, {1, 1}, 1);
    const auto differs = [&](const std::vector<std::uint16_t>& b) {
        int count = 0;
        for (std::size_t i = 0; i < a.size(); ++i) count += a[i] != b[i];
        return std::abs(count - 2048) < 5 * 32;  // as coins would
    };
    CHECK(differs(rounded(best_isa(), x, {2, 1}, 1)));
    CHECK(differs(rounded(best_isa(), x, {1, 2}, 1)));
    CHECK(differs(rounded(best_isa(), x, {1, 1}, 2)));
    CHECK(differs(rounded(best_isa(), x, {1, 1}, 1, 4096)));
    for (const std::size_t lag : {1u, 2u, 8u, 16u, 32u, 64u, 128u}) {
        int same = 0;
        for (std::size_t i = 0; i < a.size(); ++i) same += a[i] == a[(i + lag) % a.size()];
        CHECK(std::abs(same - 2048) < 6 * 32);
    }
}

TEST_CASE("update_bf16: steps of a fortieth of the last place arrive on average") {
    const auto optimizer = make_optimizer("sgd", "test");
    const ParameterInfo info{{64, 512}};
    TrainedParameter p(*optimizer, info, 1);
    const auto n = static_cast<std::size_t>(info.elements());
    std::vector<std::uint16_t> weights(n, f32_to_bf16(1.5f));
    std::fill(p.gradients.begin(), p.gradients.begin() + static_cast<std::ptrdiff_t>(n), 1.0f);
    Team team(2);
    std::vector<float> scratch(
        static_cast<std::size_t>(bf16_scratch_elements(*optimizer, info, team.threads())));
    constexpr double kStep = 1.0 / 128 / 40;
    constexpr int kSteps = 50;
    for (int step = 1; step <= kSteps; ++step) {
        UpdateTile tile = p.tile(step);
        tile.learning_rate = kStep, tile.weight_decay = 0, tile.gradient_scale = 1;
        update_bf16(*optimizer, team, best_isa(), tile, {11, 3}, weights.data(), scratch);
    }
    double sum = 0;
    for (const std::uint16_t w : weights) sum += static_cast<double>(bf16_to_f32(w));
    // Each step is a coin of odds 1/40 for one last place, 1/128.
    const double deviation = std::sqrt(kSteps * (1.0 / 40) / static_cast<double>(n)) / 128;
    CHECK(std::abs(sum / static_cast<double>(n) - (1.5 - kSteps * kStep)) <= 5 * deviation);
}

TEST_CASE("add_squares: the sum in double, whatever the level, the threads and the parts") {
    for (const std::size_t n : {0u, 1u, 15u, 4095u, 4096u, 4097u, 1u << 20, (1u << 20) + 40001u}) {
        CAPTURE(n);
        const std::vector<float> x = some_floats(n, 3);
        long double want = 0;
        for (const float f : x) want += static_cast<long double>(f) * static_cast<long double>(f);
        Team one(1), three(3);
        double first = 0;
        add_squares(one, Isa::kPortable, x, first);
        // All terms are positive: at most log2(16) + 256 + blocks additions on any way up.
        const double relative = (260 + static_cast<double>(n) / 4096) * 1.2e-16;
        CHECK(std::abs(first - static_cast<double>(want)) <= relative * static_cast<double>(want));
        for (const Isa isa : machine_levels()) {
            double again = 0, parts = 0;
            add_squares(three, isa, x, again);
            CHECK(again == first);
            for (std::size_t at = 0; at < n;) {
                const std::size_t count = std::min<std::size_t>(n - at, 4096 * (1 + at % 7));
                add_squares(three, isa, std::span(x).subspan(at, count), parts);
                at += count;
            }
            CHECK(parts == first);
        }
    }
}

TEST_CASE("add_squares: infinity and NaN are seen, floats' largest does not overflow") {
    Team team(1);
    for (const Isa isa : machine_levels()) {
        std::vector<float> x(5000, 1.0f);
        double sum = 0;
        x[4321] = std::numeric_limits<float>::max();
        add_squares(team, isa, x, sum);
        CHECK(std::isfinite(sum));
        x[4321] = NAN;
        add_squares(team, isa, x, sum);
        CHECK(std::isnan(sum));
    }
}
