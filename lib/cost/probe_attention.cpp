// SPDX-License-Identifier: Apache-2.0
// Rates of attention as models run it over 16-bit keys and values: heads of 64, three to a KV head.
#include <cstring>
#include <numeric>
#include <vector>

#include "cost/probe.h"
#include "cost/timing.h"
#include "ops/ops.h"

namespace thimble::cost {
namespace {

constexpr int kHeads = 9, kKvHeads = 3, kDim = 64;
constexpr std::int64_t kTokens = 256, kKeys = 512;  // of many tokens: the last ones of so many

// Keys and values of so many positions, head by head as the engine has them, as often as there is
// room.
struct Cache {
    Cache(const Exec& exec, std::int64_t slots, std::int64_t bytes) : slots_(slots) {
        row_ = ops::packed_bytes(LayoutId::k_f16, {1, kDim});
        half_ = row_ * kKvHeads * static_cast<std::size_t>(slots);
        copies_ = std::max<std::size_t>(static_cast<std::size_t>(bytes) / (2 * half_), 1);
        memory_ = Buffer(copies_ * 2 * half_, Purpose::kOther);
        Buffer rows(static_cast<std::size_t>(slots * kKvHeads * kDim) * sizeof(float),
                    Purpose::kOther);
        std::uint32_t state = 4711;
        for (float& v : rows.span<float>()) {
            state = state * 1664525u + 1013904223u;
            v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31F;
        }
        const View x{rows.data(), DType::kF32, slots, kKvHeads * kDim, kKvHeads * kDim};
        for (std::size_t i = 0; i < 2 * copies_; ++i) {
            ops::encode_kv(exec, x, kDim, LayoutId::k_f16, memory_.data() + i * half_, row_,
                           row_ * static_cast<std::size_t>(slots));
        }
    }
    [[nodiscard]] ops::AttnSegment segment(std::size_t copy) const {
        const std::byte* at = memory_.data() + copy % copies_ * 2 * half_;
        ops::AttnSegment out;
        const std::size_t head = row_ * static_cast<std::size_t>(slots_);
        out.k = {at, false, LayoutId::k_f16, row_, head};
        out.v = {at + half_, false, LayoutId::k_f16, row_, head};
        out.slots = slots_;
        return out;
    }
    [[nodiscard]] std::size_t bytes() const { return 2 * half_; }
    [[nodiscard]] std::size_t copies() const { return copies_; }

  private:
    std::int64_t slots_;
    std::size_t row_, half_, copies_;
    Buffer memory_;
};

// Of so many tokens at the end of a cache; each time another copy of it.
double seconds_of_attention(Exec& exec, const Cache& cache, std::int64_t tokens, std::int64_t slots,
                            std::size_t calls, std::int64_t repeats) {
    Workspace workspace(ops::attention_workspace_bytes(tokens, kHeads, kDim, slots, Device::kCpu));
    exec.workspace = &workspace;
    const std::int64_t width = kHeads * kDim;
    Buffer q(static_cast<std::size_t>(tokens * width) * sizeof(float), Purpose::kOther);
    Buffer out(q.bytes(), Purpose::kOther);
    std::memset(q.data(), 0x3c, q.bytes());  // small numbers
    std::vector<std::int64_t> positions(static_cast<std::size_t>(tokens));
    std::iota(positions.begin(), positions.end(), slots - tokens);
    std::size_t turn = 0;
    const double seconds = median_seconds(repeats, [&] {
        for (std::size_t i = 0; i < calls; ++i) {
            const ops::AttnSegment segment = cache.segment(turn++);
            ops::attention(exec, {.q = {q.data(), DType::kF32, tokens, width, width},
                                  .out = {out.data(), DType::kF32, tokens, width, width},
                                  .segments = {&segment, 1},
                                  .q_positions = positions,
                                  .heads = kHeads,
                                  .kv_heads = kKvHeads,
                                  .head_dim = kDim,
                                  .scale = 0.125});
        }
    });
    return seconds / static_cast<double>(calls);
}

}  // namespace

AttentionRates attention_rates(Team& team, Isa isa, std::int64_t far_bytes, std::int64_t repeats) {
    Exec exec;
    exec.isa = isa, exec.team = &team;
    AttentionRates out;
    {
        const Cache near(exec, kKeys, 0);
        const double keys =
            static_cast<double>(kTokens) * static_cast<double>(2 * kKeys - kTokens + 1) / 2;
        out.ops_per_second = 4.0 * kHeads * kDim * keys /
                             seconds_of_attention(exec, near, kTokens, kKeys, 1, repeats);
    }
    constexpr std::int64_t kFewKeys = 4, kFarKeys = 4096;
    constexpr std::size_t kCalls = 200;
    const Cache few(exec, kFewKeys, 0), far(exec, kFarKeys, far_bytes);
    const double start = seconds_of_attention(exec, few, 1, kFewKeys, kCalls, repeats);
    const double whole = seconds_of_attention(exec, far, 1, kFarKeys, far.copies(), repeats);
    out.calls_per_second = 1 / start;
    out.bytes_per_second = static_cast<double>(far.bytes()) / (whole - start);
    return out;
}

}  // namespace thimble::cost
