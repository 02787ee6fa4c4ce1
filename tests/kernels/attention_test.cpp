// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "harness.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setup {
    int heads = 4, kv_heads = 2, dim = 64;
    std::int64_t slots = 0, window = 0, sinks = 0;
    double softcap = 0;
    LayoutId layout = LayoutId::k_f16;
    std::vector<std::int64_t> splits;  // lengths of segments; empty: one segment
    std::int64_t empty_every = 0;      // each so many slots one is empty, its memory full of NaN
};

// K and V rows in the cache's layout, [slots, kv_heads, row].
struct Cache {
    std::vector<std::byte> k, v;
    std::vector<std::int32_t> positions;
    std::vector<ops::AttnSegment> segments;
};

Cache make_cache(const Setup& s, Machine& m) {
    const LayoutInfo& info = layout_info(s.layout);
    const std::size_t row =
        static_cast<std::size_t>(s.dim / info.block_elements) * info.block_bytes;
    const std::size_t token = row * static_cast<std::size_t>(s.kv_heads);
    Cache c;
    c.k.resize(token * static_cast<std::size_t>(s.slots) + 64);
    c.v.resize(c.k.size());
    for (const auto& [bytes, seed] : {std::pair(&c.k, 201), std::pair(&c.v, 202)}) {
        Guarded x(m.exec,
                  Random(static_cast<std::uint64_t>(seed)).normals(s.slots * s.kv_heads * s.dim),
                  s.slots);
        ops::encode_kv(m.exec, x.view(), s.dim, s.layout, bytes->data(), token, row);
    }
    for (std::int64_t i = 0; i < s.slots; ++i) {
        const bool empty = s.empty_every != 0 && i % s.empty_every == s.empty_every - 1;
        c.positions.push_back(empty ? -1 : static_cast<std::int32_t>(i));
        if (!empty) continue;
        std::memset(c.k.data() + static_cast<std::size_t>(i) * token, 0xff, token);
        std::memset(c.v.data() + static_cast<std::size_t>(i) * token, 0xff, token);
    }
    std::vector<std::int64_t> lengths = s.splits;
    if (lengths.empty()) lengths = {s.slots};
    std::int64_t first = 0;
    for (const std::int64_t n : lengths) {
        ops::AttnSegment segment;
        segment.k = {c.k.data() + static_cast<std::size_t>(first) * token, false, s.layout, token,
                     row};
        segment.v = {c.v.data() + static_cast<std::size_t>(first) * token, false, s.layout, token,
                     row};
        segment.slots = n;
        segment.positions = c.positions.data() + first;
        if (s.empty_every == 0) segment.positions = nullptr, segment.first_position = first;
        c.segments.push_back(segment);
        first += n;
    }
    return c;
}

Guarded run(Machine& m, const Setup& s, const Cache& c, const std::vector<float>& q,
            std::int64_t first, std::int64_t tokens) {
    m.poison();
    const std::int64_t width = s.heads * s.dim;
    const std::vector<float> part(q.begin() + first * width, q.begin() + (first + tokens) * width);
    Guarded in(m.exec, part, tokens), out(m.exec.dtype(), tokens, width);
    std::vector<std::int64_t> positions;
    const std::int64_t all = std::ssize(q) / width;
    for (std::int64_t t = 0; t < tokens; ++t) positions.push_back(s.slots - all + first + t);
    ops::Attention a;
    a.q = in.view(), a.out = out.view(), a.segments = c.segments, a.q_positions = positions;
    a.heads = s.heads, a.kv_heads = s.kv_heads, a.head_dim = s.dim;
    a.scale = 1 / std::sqrt(static_cast<double>(s.dim)) * 2;
    a.window = s.window, a.sinks = s.sinks, a.softcap = s.softcap;
    ops::attention(m.exec, a);
    CHECK(m.workspace.used() == 0);
    CHECK(out.guards_hold());
    return out;
}

void check(const Setup& s, std::int64_t tokens) {
    Machine oracle(Isa::kPortable, 2, 1 << 20, Device::kRef), writer(Isa::kPortable, 1);
    const Cache cache = make_cache(s, writer);
    const std::vector<float> q = Random(203).normals(tokens * s.heads * s.dim);
    Guarded expected = run(oracle, s, cache, q, 0, tokens);
    for (const Isa isa : levels()) {
        CAPTURE(name(isa));
        const std::size_t planned =
            ops::attention_workspace_bytes(tokens, s.heads, s.dim, s.slots, Device::kCpu);
        Machine one(isa, 1, planned), two(isa, 2, planned), three(isa, 3, planned);
        Guarded got = run(one, s, cache, q, 0, tokens);
        double worst = 0;
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t i = 0; i < s.heads * s.dim; ++i) {
                const double error = std::abs(got.at(t, i) - expected.at(t, i));
                worst = std::max(worst, std::isnan(error) ? 1e300 : error);
            }
        }
        // |score| <= 2 |q||k| / sqrt(dim), some 2 sqrt(dim) here; its rounding enters the weights
        // as a relative error, and |v| stays below 4.
        CHECK(worst <= 4 * kEpsilon * (4 * std::sqrt(static_cast<double>(s.dim)) + 16));
        Guarded again = run(two, s, cache, q, 0, tokens);
        CHECK(again.same_bits(got));
        for (const std::int64_t batch : {1, 3, 4, 6}) {
            if (batch >= tokens) break;
            bool same = true;
            for (std::int64_t first = 0; first < tokens; first += batch) {
                const std::int64_t n = std::min(batch, tokens - first);
                Guarded part = run(three, s, cache, q, first, n);
                for (std::int64_t t = 0; t < n; ++t) {
                    for (std::int64_t i = 0; i < s.heads * s.dim; ++i)
                        same = same && part.at(t, i) == got.at(first + t, i);
                }
            }
            CHECK(same);
        }
    }
}

}  // namespace

TEST_CASE("attention: cache layouts, head counts and dims") {
    for (const LayoutId layout :
         {LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_bf16, LayoutId::k_q8_0}) {
        CAPTURE(layout_info(layout).name);
        for (const int dim : {32, 64, 96, 256}) {
            Setup s;
            s.layout = layout, s.dim = dim, s.slots = 150;
            check(s, 7);
        }
        Setup grouped;
        grouped.layout = layout, grouped.heads = 9, grouped.kv_heads = 3, grouped.slots = 70;
        check(grouped, 5);
    }
}

TEST_CASE("attention: lengths around the tile, one query and many") {
    for (const std::int64_t slots : {1, 2, 63, 64, 65, 128, 1000}) {
        CAPTURE(slots);
        Setup s;
        s.slots = slots;
        for (const std::int64_t tokens : {1, 2, 17}) {
            if (tokens <= slots) check(s, tokens);
        }
    }
    Setup odd;  // a head that fills no vector, more heads than one task takes
    odd.slots = 90, odd.dim = 20, odd.layout = LayoutId::k_f32, odd.heads = 71, odd.kv_heads = 1;
    check(odd, 6);
    Setup wide;
    wide.slots = 90, wide.dim = 1024, wide.heads = 34, wide.kv_heads = 2;
    check(wide, 2);
}

TEST_CASE("attention: windows, sinks, softcap, empty slots and many segments") {
    Setup s;
    s.slots = 333;
    s.window = 50;
    check(s, 20);
    s.sinks = 4;
    check(s, 20);
    s.softcap = 5;
    check(s, 20);
    s.splits = {64, 0, 128, 64, 77};
    check(s, 20);
    s.empty_every = 3;
    check(s, 20);
    check(s, 1);
}

TEST_CASE("attention: long context in rounds of tiles") {
    Setup s;
    s.slots = 5000, s.heads = 4, s.kv_heads = 1, s.layout = LayoutId::k_q8_0;
    check(s, 1);
    s.window = 512;
    check(s, 5);
}

TEST_CASE("attention: a row that sees nothing is zero") {
    for (const Isa isa : levels()) {
        Machine m(isa);
        Setup s;
        s.slots = 0;
        const Cache cache = make_cache(s, m);
        Guarded out = run(m, s, cache, Random(1).normals(s.heads * s.dim), 0, 1);
        for (std::int64_t i = 0; i < s.heads * s.dim; ++i) CHECK(out.at(0, i) == 0);
    }
}

TEST_CASE("attention states of parts merge into the whole") {
    for (const Device device : {Device::kCpu, Device::kRef}) {
        Machine m(best_isa(), 2, std::size_t{8} << 20, device), writer(Isa::kPortable, 1);
        Setup s;
        s.slots = 200, s.splits = {64, 64, 72};
        const Cache cache = make_cache(s, writer);
        const std::vector<float> q = Random(204).normals(3 * s.heads * s.dim);
        Guarded whole = run(m, s, cache, q, 0, 3);
        Guarded in(m.exec, q, 3);
        const std::vector<std::int64_t> positions = {197, 198, 199};
        ops::Attention a;
        a.q = in.view(), a.q_positions = positions;
        a.heads = s.heads, a.kv_heads = s.kv_heads, a.head_dim = s.dim, a.scale = 0.25;
        std::vector<Guarded> o, max, sum;
        for (int i = 0; i < 3; ++i) {
            o.emplace_back(m.exec.dtype(), 3, s.heads * s.dim);
            max.emplace_back(m.exec.dtype(), 3, s.heads);
            sum.emplace_back(m.exec.dtype(), 3, s.heads);
        }
        const auto state = [&](std::size_t i) {
            return ops::AttnState{o[i].view(), max[i].view(), sum[i].view()};
        };
        for (std::size_t i = 0; i < 3; ++i) {
            a.segments = {&cache.segments[i], 1};
            ops::attention_state(m.exec, a, state(i));
        }
        ops::merge(m.exec, state(1), state(0), s.dim);
        ops::merge(m.exec, state(2), state(0), s.dim);
        const double bound = device == Device::kRef ? 1e-13 : 64 * kEpsilon;
        for (std::int64_t t = 0; t < 3; ++t) {
            for (std::int64_t i = 0; i < s.heads * s.dim; ++i)
                REQUIRE((std::abs(o[0].at(t, i) - whole.at(t, i)) <= bound));
        }
    }
}

TEST_CASE("encode_kv: f16 and q8_0 are the nearest codes") {
    for (const Isa isa : levels()) {
        Machine m(isa), plain(Isa::kPortable);
        for (const LayoutId layout :
             {LayoutId::k_f32, LayoutId::k_f16, LayoutId::k_bf16, LayoutId::k_q8_0}) {
            const LayoutInfo& info = layout_info(layout);
            const std::size_t row =
                static_cast<std::size_t>(96 / info.block_elements) * info.block_bytes;
            std::vector<std::byte> got(row * 10 + 8, std::byte{0x5a}), expected = got;
            Guarded x(m.exec, Random(205).normals(5 * 2 * 96), 5);
            ops::encode_kv(m.exec, x.view(), 96, layout, got.data(), 2 * row, row);
            ops::encode_kv(plain.exec, x.view(), 96, layout, expected.data(), 2 * row, row);
            CHECK(got == expected);
            CHECK(got.back() == std::byte{0x5a});
        }
    }
}
