// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <limits>

#include "harness.h"
#include "kernels/cpu/kernels.h"
#include "kernels/layout/all.h"
#include "kernels/ref/ref.h"

namespace thimble::cuda_test {
namespace {

struct AttentionCase {
    std::int64_t tokens;
    int heads, kv_heads, dim;
    LayoutId k, v;
    std::int64_t slots;
    std::int64_t first_query = 0;  // position of token 0
    std::int64_t hole_every = 0;   // 0: slots in order from first_key on; else a list with holes
    std::int64_t first_key = 0;
    std::int64_t window = 0, sinks = 0;
    float softcap = 0;
};

// Keys or values as stored, rows 16 bytes apart and NaN where nothing is, and as doubles.
struct Stored {
    std::size_t token_bytes = 0, head_bytes = 0;
    std::vector<std::byte> bytes;
    std::vector<double> values;  // [slots, kv_heads, dim]
};

Stored store(const AttentionCase& c, LayoutId layout, std::span<const std::int64_t> positions,
             std::uint32_t seed) {
    Stored out;
    with_layout(layout, [&](auto id) {
        using L = decltype(id);
        const auto dim = static_cast<std::size_t>(c.dim),
                   heads = static_cast<std::size_t>(c.kv_heads);
        const auto slots = static_cast<std::size_t>(c.slots);
        out.head_bytes = dim / L::kElements * sizeof(typename L::Block) + 16;
        out.token_bytes = heads * out.head_bytes + 16;
        out.bytes.assign(slots * out.token_bytes, std::byte{0xff});
        out.values.assign(slots * heads * dim, std::numeric_limits<double>::quiet_NaN());
        const std::vector<float> x = values(slots * heads * dim, seed);
        for (std::size_t row = 0; row < slots * heads; ++row) {
            if (positions[row / heads] < 0) continue;
            std::byte* to =
                out.bytes.data() + row / heads * out.token_bytes + row % heads * out.head_bytes;
            cpu::portable::kKernelTable.encode_kv_row(layout, x.data() + row * dim, c.dim, to);
            const PackedRow packed{{to}, {}};
            unpack_columns(layout, packed, 0, c.dim, out.values.data() + row * dim);
        }
    });
    return out;
}

std::vector<std::int64_t> positions_of(const AttentionCase& c) {
    std::vector<std::int64_t> out;
    for (std::int64_t s = 0; s < c.slots; ++s) {
        // A ring that wrapped: the later half of the positions stands first.
        const std::int64_t turned = c.first_key + (s + c.slots / 2) % c.slots;
        out.push_back(c.hole_every == 0 ? c.first_key + s : s % c.hole_every == 0 ? -1 : turned);
    }
    return out;
}

struct Sizes {
    std::int64_t rows, splits, width;
};
Sizes sizes_of(const AttentionCase& c) {
    return {c.tokens * c.heads, cuda::splits_of(c.slots), c.heads * c.dim + 3};
}

constexpr float kScale = 0.31f;

// All of o, then max, then sum.
std::vector<float> run_split(const AttentionCase& c, const std::vector<float>& q,
                             const std::vector<std::int64_t>& positions, const Stored& k,
                             const Stored& v) {
    const auto [rows, splits, width] = sizes_of(c);
    return run_all_orders([&, rows = rows, splits = splits, width = width] {
        const auto states = static_cast<std::size_t>(splits * rows);
        std::vector<std::int64_t> at;
        for (std::int64_t t = 0; t < c.tokens; ++t) at.push_back(c.first_query + t);
        const Array<float> dq(q), o(states * static_cast<std::size_t>(c.dim)), max(states),
            sum(states);
        const Array<std::int64_t> dat(at), dpositions(positions);
        const Array<std::byte> dk(k.bytes), dv(v.bytes);
        const cuda::AttentionSplit problem{
            .q = dq.data(),
            .tokens = c.tokens,
            .q_stride = width,
            .q_positions = dat.data(),
            .heads = c.heads,
            .kv_heads = c.kv_heads,
            .head_dim = c.dim,
            .k = {dk.data(), c.k, k.token_bytes, k.head_bytes},
            .v = {dv.data(), c.v, v.token_bytes, v.head_bytes},
            .slots = c.slots,
            .positions = c.hole_every == 0 ? nullptr : dpositions.data(),
            .first_position = c.first_key,
            .scale = kScale,
            .softcap = c.softcap,
            .window = c.window,
            .sinks = c.sinks,
            .o = o.data(),
            .max = max.data(),
            .sum = sum.data()};
        REQUIRE(cuda::supports_attention_split(problem));
        cuda::attention_split(problem, stream());
        std::vector<float> out = o.get();
        for (const std::vector<float>& more : {max.get(), sum.get()})
            out.insert(out.end(), more.begin(), more.end());
        return out;
    });
}

// What one row and split should give, and how far a float result may be from it.
struct Expected {
    std::vector<double> o;
    double max = 0, sum = 0, logit_error = 0;
};
Expected expect(const AttentionCase& c, const float* q, std::int64_t query, int kv_head,
                std::int64_t split, const std::vector<std::int64_t>& positions, const Stored& k,
                const Stored& v) {
    Expected out;
    const std::int64_t first = split * cuda::kSplitSlots;
    const auto row = [&](const Stored& of, std::int64_t s) {
        return of.values.data() + ((first + s) * c.kv_heads + kv_head) * c.dim;
    };
    double largest = 0;
    const auto score = [&](std::int64_t s) {
        const std::int64_t key = positions[static_cast<std::size_t>(first + s)];
        const bool sees =
            key >= 0 && key <= query && (c.window == 0 || query - key < c.window || key < c.sinks);
        if (!sees) return -std::numeric_limits<double>::infinity();
        double dot = 0, size = 0;
        for (std::int64_t d = 0; d < c.dim; ++d) {
            const double term =
                static_cast<double>(q[d]) * row(k, s)[d] * static_cast<double>(kScale);
            dot += term, size += std::abs(term);
        }
        const auto cap = static_cast<double>(c.softcap);
        largest = std::max(largest, size + 4 * cap);
        return cap > 0 ? cap * std::tanh(dot / cap) : dot;
    };
    out.o.resize(static_cast<std::size_t>(c.dim));
    ref::attend(
        std::min(cuda::kSplitSlots, c.slots - first), c.dim, score,
        [&](std::int64_t s) { return row(v, s); }, out.o.data(), &out.max, &out.sum);
    out.logit_error = largest * (c.dim / 4 + 4) * 0x1p-24;
    return out;
}

void check_case(const AttentionCase& c) {
    CAPTURE(c.tokens);
    CAPTURE(c.dim);
    CAPTURE(c.slots);
    CAPTURE(c.heads);
    const auto [rows, splits, width] = sizes_of(c);
    const std::vector<std::int64_t> positions = positions_of(c);
    const std::vector<float> q = values(static_cast<std::size_t>(c.tokens * width), 21);
    const Stored k = store(c, c.k, positions, 22), v = store(c, c.v, positions, 23);
    const std::vector<float> got = run_split(c, q, positions, k, v);
    const float* max = got.data() + splits * rows * c.dim;
    const float* sum = max + splits * rows;
    for (std::int64_t state = 0; state < splits * rows; ++state) {
        const std::int64_t split = state / rows, t = state % rows / c.heads;
        const auto head = static_cast<int>(state % c.heads);
        CAPTURE(split);
        CAPTURE(t);
        CAPTURE(head);
        const Expected want = expect(c, q.data() + t * width + head * c.dim, c.first_query + t,
                                     head / (c.heads / c.kv_heads), split, positions, k, v);
        const std::span<const float> o(got.data() + state * c.dim, static_cast<std::size_t>(c.dim));
        if (want.sum == 0) {
            CHECK(sum[state] == 0);
            CHECK(std::all_of(o.begin(), o.end(), [](float x) { return x == 0; }));
            continue;
        }
        const double relative = 2 * want.logit_error + 24 * 0x1p-24;  // of a weight
        CHECK(std::abs(static_cast<double>(max[state]) - want.max) <= want.logit_error);
        CHECK(std::abs(static_cast<double>(sum[state]) - want.sum) <= relative * want.sum);
        check_close(o, want.o, 2 * relative * 4);  // values are at most 4
    }
}

}  // namespace

void check_attention_split() {
    using enum LayoutId;
    // One token: the heads of a group together, ragged splits.
    check_case({.tokens = 1,
                .heads = 9,
                .kv_heads = 3,
                .dim = 64,
                .k = k_f16,
                .v = k_f16,
                .slots = 300,
                .first_query = 299});
    check_case({.tokens = 1,
                .heads = 4,
                .kv_heads = 1,
                .dim = 256,
                .k = k_q8_0,
                .v = k_f32,
                .slots = 70,
                .first_query = 50,
                .softcap = 5});
    check_case({.tokens = 1,
                .heads = 10,
                .kv_heads = 1,
                .dim = 32,
                .k = k_f32,
                .v = k_q8_0,
                .slots = 1,
                .first_query = 3,
                .first_key = 3});
    check_case({.tokens = 2,
                .heads = 3,
                .kv_heads = 1,
                .dim = 512,
                .k = k_bf16,
                .v = k_f16,
                .slots = 33,
                .first_query = 40});
    // Many: causal, some rows see nothing of some splits.
    check_case({.tokens = 13,
                .heads = 6,
                .kv_heads = 2,
                .dim = 96,
                .k = k_bf16,
                .v = k_q8_0,
                .slots = 270,
                .first_query = 250});
    check_case({.tokens = 20,
                .heads = 1,
                .kv_heads = 1,
                .dim = 128,
                .k = k_q8_0,
                .v = k_q8_0,
                .slots = 20});
    check_case({.tokens = 9,
                .heads = 2,
                .kv_heads = 2,
                .dim = 224,
                .k = k_f16,
                .v = k_bf16,
                .slots = 40,
                .first_query = 30});
    check_case({.tokens = 9,
                .heads = 1,
                .kv_heads = 1,
                .dim = 512,
                .k = k_f16,
                .v = k_f16,
                .slots = 35,
                .first_query = 30});
    // Heads that are no whole warps.
    check_case({.tokens = 9,
                .heads = 6,
                .kv_heads = 2,
                .dim = 8,
                .k = k_f16,
                .v = k_f32,
                .slots = 40,
                .first_query = 30});
    check_case({.tokens = 1,
                .heads = 4,
                .kv_heads = 1,
                .dim = 40,
                .k = k_f32,
                .v = k_bf16,
                .slots = 270,
                .first_query = 269});
    // Windows, sinks, holes; a row before every key.
    check_case({.tokens = 10,
                .heads = 2,
                .kv_heads = 1,
                .dim = 64,
                .k = k_f16,
                .v = k_f32,
                .slots = 320,
                .first_query = 300,
                .hole_every = 13,
                .window = 20,
                .sinks = 4});
    check_case({.tokens = 3,
                .heads = 2,
                .kv_heads = 1,
                .dim = 64,
                .k = k_f16,
                .v = k_f16,
                .slots = 64,
                .first_query = 9,
                .hole_every = 1,
                .window = 8});
    check_case({.tokens = 12,
                .heads = 1,
                .kv_heads = 1,
                .dim = 32,
                .k = k_f16,
                .v = k_f16,
                .slots = 40,
                .first_query = 5,
                .first_key = 10});
    check_case(
        {.tokens = 0, .heads = 1, .kv_heads = 1, .dim = 32, .k = k_f16, .v = k_f16, .slots = 40});
    cuda::AttentionSplit problem{};
    problem.heads = problem.kv_heads = 1, problem.head_dim = 84;
    CHECK_FALSE(cuda::supports_attention_split(problem));
    problem.head_dim = 64, problem.k.layout = k_q4_0;
    CHECK_FALSE(cuda::supports_attention_split(problem));
    problem.k.layout = k_f16, problem.v.token_bytes = 8;
    CHECK_FALSE(cuda::supports_attention_split(problem));
}

}  // namespace thimble::cuda_test
