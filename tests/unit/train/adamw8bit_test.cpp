// SPDX-License-Identifier: Apache-2.0
// 8-bit moments: the codes, and what they do to AdamW.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "tests/support/golden_train.h"
#include "tests/support/trained_parameter.h"
#include "train/optimizer_codes.h"

using namespace thimble;
using namespace thimble::test;
using namespace thimble::train;

namespace {

// Decoded moments of a parameter under adamw8bit, block 256.
std::vector<float> decoded(const TrainedParameter& p, bool second) {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(p.slots[second ? 1 : 0].data());
    const auto* peaks = reinterpret_cast<const float*>(p.slots[second ? 3 : 2].data());
    std::vector<float> out(static_cast<std::size_t>(p.elements()));
    const DynamicMap& map = second ? unsigned_map() : signed_map();
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = map.values[codes[i]] * peaks[i / 256];
    return out;
}

// The code whose value is nearest, the lower one of two; by looking at all.
int nearest(const DynamicMap& map, double x) {
    int best = 0;
    for (int i = 1; i < 256; ++i) {
        if (std::abs(x - static_cast<double>(map.values[i])) <
            std::abs(x - static_cast<double>(map.values[best])))
            best = i;
    }
    return best;
}

// fn(x) for numbers of every binade from 1e-9 to 2 and around every border.
template <class Fn>
void for_numbers(const DynamicMap& map, bool negative, Fn&& fn) {
    for (std::uint32_t bits = float_to_bits(1e-9f); bits < float_to_bits(2.0f); bits += 4099)
        fn(bits_to_float(bits | (negative ? 0x80000000u : 0u)));
    for (int i = 0; i < 255; ++i) {
        const float middle = 0.5f * map.values[i] + 0.5f * map.values[i + 1];
        if (!negative && middle < 0) continue;
        fn(std::nextafter(middle, -2.0f)), fn(middle), fn(std::nextafter(middle, 2.0f));
        fn(map.values[i]);
    }
}

}  // namespace

TEST_CASE("adamw8bit: the maps are those of their description") {
    const std::vector<float> with_sign = floats(*golden_train().find("signed_map"));
    const std::vector<float> without = floats(*golden_train().find("unsigned_map"));
    REQUIRE(with_sign.size() == 256);
    REQUIRE(without.size() == 256);
    const DynamicMap &m = signed_map(), &v = unsigned_map();
    for (std::size_t i = 0; i < 256; ++i) {
        CAPTURE(i);
        CHECK(m.values[i] == doctest::Approx(with_sign[i]).epsilon(1e-7));
        if (i > 0) CHECK(v.values[i] == doctest::Approx(without[i]).epsilon(1e-7));
        if (i > 0) CHECK(m.values[i] > m.values[i - 1]);
        if (i > 0) CHECK(v.values[i] > v.values[i - 1]);
    }
    CHECK(m.values[127] == 0);
    CHECK(m.values[255] == 1);
    for (int i = 1; i <= 127; ++i) CHECK(m.values[127 - i] == -m.values[127 + i]);
    CHECK(v.values[255] == 1);
    CHECK(v.values[0] == v.values[1] / 2);
    // Codes in each decade, from above.
    for (int decade = 0; decade < 7; ++decade) {
        const double high = std::pow(10.0, -decade), low = high / 10;
        const auto between = [&](float x) {
            return static_cast<double>(x) > low && static_cast<double>(x) < high;
        };
        CHECK(std::count_if(m.values, m.values + 256, between) == 64 >> decade);
        CHECK(std::count_if(v.values + 1, v.values + 256, between) == 128 >> decade);
    }
}

TEST_CASE("adamw8bit: the code is the nearest of all, and a number keeps its sign") {
    const DynamicMap &m = signed_map(), &v = unsigned_map();
    for (const bool negative : {false, true}) {
        for_numbers(m, negative, [&](float x) {
            int want = nearest(m, static_cast<double>(x));
            if (want == 127 && x != 0) want += x > 0 ? 1 : -1;
            REQUIRE(m.encode(x) == want);
        });
    }
    for_numbers(v, false,
                [&](float x) { REQUIRE(v.encode(x) == nearest(v, static_cast<double>(x))); });
    CHECK(m.encode(0.0f) == 127);
    CHECK(m.encode(-0.0f) == 127);
    CHECK(m.encode(std::numeric_limits<float>::denorm_min()) == 128);
    CHECK(m.encode(-std::numeric_limits<float>::denorm_min()) == 126);
    CHECK(m.encode(1.0f) == 255);
    CHECK(m.encode(-1.0f) == 0);
    CHECK(v.encode(0.0f) == 0);
    CHECK(v.encode(1.0f) == 255);
}

TEST_CASE("adamw8bit: weights are those of AdamW on the decoded moments, bit for bit") {
    const auto narrow = make_optimizer("adamw8bit", "test"), wide = make_optimizer("adamw", "test");
    const ParameterInfo info{{33, 200}};  // the last block is short
    for (const Isa isa : machine_levels()) {
        TrainedParameter a(*narrow, info, 1), b(*wide, info, 1);
        for (std::int64_t step = 1; step <= 6; ++step) {
            const std::vector<float> m = decoded(a, false), v = decoded(a, true);
            std::memcpy(b.slots[0].data(), m.data(), m.size() * sizeof(float));
            std::memcpy(b.slots[1].data(), v.data(), v.size() * sizeof(float));
            a.train(isa, step, 1), b.train(isa, step, 1);
            REQUIRE(a.weights == b.weights);
            // And the new moments are coded: each is off by half the gap to a neighbour at most.
            for (const bool second : {false, true}) {
                const DynamicMap& map = second ? unsigned_map() : signed_map();
                const std::vector<float> coded = decoded(a, second);
                const auto* exact = reinterpret_cast<const float*>(b.slots[second ? 1 : 0].data());
                for (std::size_t first = 0; first < coded.size(); first += 256) {
                    const std::size_t end = std::min(coded.size(), first + 256);
                    float peak = 0;
                    for (std::size_t i = first; i < end; ++i)
                        peak = std::max(peak, std::abs(exact[i]));
                    for (std::size_t i = first; i < end; ++i) {
                        int want = nearest(map, static_cast<double>(exact[i] / peak));
                        if (!second && want == 127 && exact[i] != 0) want += exact[i] > 0 ? 1 : -1;
                        REQUIRE(coded[i] == map.values[want] * peak);
                    }
                }
            }
        }
    }
}

TEST_CASE("adamw8bit: a step differs from AdamW's by what the gaps between codes allow") {
    const auto narrow = make_optimizer("adamw8bit", "test"), wide = make_optimizer("adamw", "test");
    const ParameterInfo info{{32, 256}};
    TrainedParameter a(*narrow, info, 2), b(*wide, info, 2);
    a.train(best_isa(), 1, 1), b.train(best_isa(), 1, 1);
    CHECK(a.weights == b.weights);  // a fresh state is exact
    const auto* m = reinterpret_cast<const float*>(b.slots[0].data());
    const auto* v = reinterpret_cast<const float*>(b.slots[1].data());
    const std::vector<float> m_coded = decoded(a, false), v_coded = decoded(a, true);
    std::vector<double> bound;
    const UpdateTile tile = b.tile(2);
    b.set_gradients(2);
    for (std::size_t i = 0; i < static_cast<std::size_t>(info.elements()); ++i) {
        const auto way = [&](double mean, double square) {
            const double g = static_cast<double>(b.gradients[i]) * tile.gradient_scale;
            mean = 0.9 * mean + 0.1 * g, square = 0.999 * square + 0.001 * g * g;
            return tile.learning_rate * (mean / 0.19) / (std::sqrt(square / 0.001999) + 1e-8);
        };
        const std::size_t block = i / 256 * 256;
        double m_peak = 0, v_peak = 0;
        for (std::size_t j = block; j < block + 256; ++j) {
            m_peak = std::max(m_peak, std::abs(static_cast<double>(m[j])));
            v_peak = std::max(v_peak, static_cast<double>(v[j]));
        }
        // A code is off by half a gap: 7 % of the number or, at the bottom, 5.5e-7 of the peak.
        const double m_i = static_cast<double>(m[i]), v_i = static_cast<double>(v[i]);
        const auto half_gap = [](double x, double peak, double parts) {
            const double share = std::abs(x) / peak;
            const double decade = share < 1e-7 ? -6 : std::min(0.0, std::ceil(std::log10(share)));
            // The gap over a decade's border is that of the coarser decade below, at most.
            return 0.51 * 0.9 / parts * std::pow(2.0, -decade) * std::pow(10.0, decade) * peak *
                   1.2;
        };
        const double dm = std::max(half_gap(m_i, m_peak, 64), 5.6e-7 * m_peak);
        const double dv = std::max(half_gap(v_i, v_peak, 128), 3.3e-7 * v_peak);
        CHECK(std::abs(static_cast<double>(m_coded[i]) - m_i) <= dm);
        CHECK(std::abs(static_cast<double>(v_coded[i]) - v_i) <= dv);
        double most = 0;
        for (const double mean : {m_i - dm, m_i + dm}) {
            for (const double square : {std::max(0.0, v_i - dv), v_i + dv})
                most = std::max(most, std::abs(way(mean, square) - way(m_i, v_i)));
        }
        bound.push_back(most);
    }
    a.train(best_isa(), 2, 1), b.train(best_isa(), 2, 1);
    double moved = 0;
    for (std::size_t i = 0; i < bound.size(); ++i) {
        const double off = std::abs(static_cast<double>(a.weights[i] - b.weights[i]));
        CHECK(off <= bound[i] + 1e-6 * (1 + std::abs(static_cast<double>(b.weights[i]))));
        moved = std::max(moved, off);
    }
    CHECK(moved > 0);
}

TEST_CASE("adamw8bit: beside a large gradient a small one does not make a huge step") {
    const auto optimizer = make_optimizer("adamw8bit", "test");
    TrainedParameter p(*optimizer, {{16, 256}}, 3);
    for (std::int64_t step = 1; step <= 200; ++step) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(p.elements()); ++i)
            p.gradients[i] = i % 256 == 0 ? 1000.0f : 0.01f;
        UpdateTile tile = p.tile(step);
        tile.weight_decay = 0, tile.gradient_scale = 1;
        const std::vector<float> before = p.weights;
        optimizer->update(best_isa(), tile);
        for (std::size_t i = 0; i < static_cast<std::size_t>(p.elements()); ++i) {
            const double way = static_cast<double>(before[i]) - static_cast<double>(p.weights[i]);
            CHECK(way >= 0);
            CHECK(way <= 1.01 * tile.learning_rate + 1e-6);
        }
    }
}

TEST_CASE(
    "adamw8bit: every moment keeps its gradients' sign, and blocks of zeros stay zero bytes") {
    const auto optimizer = make_optimizer("adamw8bit", "test");
    TrainedParameter p(*optimizer, {{20, 256}}, 4);
    for (std::int64_t step = 1; step <= 5; ++step) {
        for (std::size_t i = 0; i < static_cast<std::size_t>(p.elements()); ++i) {
            const float size = i % 256 == 7 ? 1.0f : 1e-9f;
            p.gradients[i] = i / 256 == 2 || i % 256 == 9 ? 0.0f : i % 2 == 0 ? size : -size;
        }
        optimizer->update(best_isa(), p.tile(step));
    }
    const std::vector<float> m = decoded(p, false);
    for (std::size_t i = 0; i < m.size(); ++i) {
        const float sign = p.gradients[i] > 0 ? 1.0f : p.gradients[i] < 0 ? -1.0f : 0.0f;
        CHECK((m[i] > 0 ? 1.0f : m[i] < 0 ? -1.0f : 0.0f) == sign);
    }
    for (std::size_t i = 512; i < 768; ++i) {
        CHECK(p.slots[0][i] == std::byte{});
        CHECK(p.slots[1][i] == std::byte{});
    }
    for (std::size_t i = 8; i < 12; ++i) {
        CHECK(p.slots[2][i] == std::byte{});
        CHECK(p.slots[3][i] == std::byte{});
    }
}

TEST_CASE("adamw8bit: a gradient that is not a number spoils its block and no other") {
    for (const Isa isa : machine_levels()) {
        const auto optimizer = make_optimizer("adamw8bit", "test");
        for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
            TrainedParameter p(*optimizer, {{16, 256}}, 5), q(*optimizer, {{16, 256}}, 5);
            p.set_gradients(1), q.set_gradients(1);
            p.gradients[300] = bad;
            optimizer->update(isa, p.tile(1));
            optimizer->update(isa, q.tile(1));
            optimizer->update(isa, p.tile(2));
            optimizer->update(isa, q.tile(2));
            CHECK(!std::isfinite(p.weights[300]));
            CHECK(!std::isfinite(reinterpret_cast<const float*>(p.slots[2].data())[1]));
            for (std::size_t i = 0; i < p.weights.size(); ++i) {
                if (i / 256 != 1) CHECK(p.weights[i] == q.weights[i]);
            }
            CHECK(p.guards_hold());
        }
    }
}

TEST_CASE("adamw8bit: which parameters have codes, and what they take") {
    const auto optimizer = make_optimizer("adamw8bit", "test");
    CHECK(optimizer->state_bytes({{1, 4095}}) == 8 * 4095);
    CHECK(optimizer->state_bytes({{1, 4096}}) == 2 * 4096 + 2 * 4 * 16);
    CHECK(optimizer->state_bytes({{4097, 1}}) == 2 * 4097 + 2 * 4 * 17);
    CHECK(optimizer->state_bytes({{1000, 64}, true}) == 8 * 64000);
    CHECK(make_optimizer("adamw8bit:embeddings", "test")->state_bytes({{1000, 64}, true}) ==
          2 * 64000 + 2 * 4 * 250);
    CHECK(make_optimizer("adamw8bit:block=2048,min-elements=16384", "test")
              ->state_bytes({{1, 16384}}) == 2 * 16384 + 2 * 4 * 8);
    CHECK_THROWS_AS(make_optimizer("adamw8bit:block=8192", "test"), Error);
}
