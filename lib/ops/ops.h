// SPDX-License-Identifier: Apache-2.0
// Device-neutral operations: validate, choose a kernel by (layout, device, ISA, rows), launch over
// the Team. Every View is in exec.dtype(). On one ISA a row of output has the same bits at any
// thread count, batch size or prefill chunk. Shapes: T = tokens in this step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "format/packed.h"
#include "ops/exec.h"

namespace thimble::cpu {
struct I8Block;
}

namespace thimble::ops {
namespace on_cuda {
struct InputForms;
}

// to = from, both on exec's device; to_host and to_device cross where that is no host device, and
// wait until the bytes have arrived.
void copy(const Exec& exec, View from, View to);
void copy_to_host(const Exec& exec, View from, View to);
void copy_to_device(const Exec& exec, View from, View to);

// out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight. x, out: [T, n]; weight: [1, n]. out may be x.
void rms_norm(const Exec& exec, View x, View weight, double eps, View out);

// Codes of 8 bits for each token, back as floats: out[t] = c / s, where s = 127 / max(max |x[t]|,
// 1e-5) and c is x[t] * s rounded to the nearest integer, ties to even. x, out: [T, n]; out may be
// x. Host devices only, like the recurrence below.
void round_codes(const Exec& exec, View x, View out);

// How much of a state stays and how much room that leaves: keep = lowest + (1 - lowest) /
// (1 + e^-x), take = 1 - keep. x, keep, take: [T, n]; lowest: [1, n]; keep may be x.
void forget_gate(const Exec& exec, View x, View lowest, View keep, View take);
// A linear recurrence, channel by channel: out[t] = keep[t] * out[t - 1] + take[t], where out[-1]
// is `before` [1, n]. keep, take, out: [T, n]. Steps of any length give the same bits.
void recurrence(const Exec& exec, View keep, View take, View before, View out);

// out = a + b, elementwise, [T, n]; out may be a or b.
void add(const Exec& exec, View a, View b, View out);
void scale(const Exec& exec, View x, double factor);

enum class Gate : std::uint8_t { kSilu, kGeluTanh };
// out = act(gate) * up, [T, n]; out may be gate or up.
void glu(const Exec& exec, Gate act, View gate, View up, View out);

// out[t] = factor * table[tokens[t]]; table [vocab, n] in any layout; out [T, n].
void embed(const Exec& exec, const PackedView& table, std::span<const std::int32_t> tokens,
           double factor, View out);

// One input shared by several matmuls (q, k, v; gate, up): quantised once per activation kind, on
// first use. Holds workspace memory until destroyed.
class MatmulInput {
  public:
    MatmulInput(const Exec& exec, View x);  // x: [T, in]
    ~MatmulInput();
    MatmulInput(const MatmulInput&) = delete;
    MatmulInput& operator=(const MatmulInput&) = delete;
    [[nodiscard]] View view() const noexcept { return x_; }

    // Makes the form that `kind` reads, unless it is there already.
    void prepare(Activations kind);
    [[nodiscard]] const cpu::I8Block* i8() const noexcept { return i8_; }  // [T, in / 32]
    [[nodiscard]] View bf16() const noexcept { return bf16_; }             // rounded, held as F32
    // [T, bits, words] and [T], as cpu::EncodePlanes has them.
    [[nodiscard]] const std::uint32_t* planes() const noexcept { return planes_; }
    [[nodiscard]] const float* plane_scales() const noexcept { return plane_scales_; }
    // Operand of dense products: there from the start where exec asks for Products::kDense.
    [[nodiscard]] View dense() const;
    [[nodiscard]] on_cuda::InputForms& cuda() noexcept { return *cuda_; }

  private:
    const Exec& exec_;
    View x_;
    WorkspaceScope scope_;
    const cpu::I8Block* i8_ = nullptr;
    const std::uint32_t* planes_ = nullptr;
    const float* plane_scales_ = nullptr;
    View bf16_{}, dense_{};
    std::unique_ptr<on_cuda::InputForms> cuda_;
};

// How a matmul with weights in `layout` reads its input: exec.activations, resolved where it is
// kAuto. Floats stay f32 whatever is asked.
[[nodiscard]] Activations activations_for(LayoutId layout, const Exec& exec);

struct Matmul {
    PackedView weight;         // [out, in]
    View out;                  // [T, out]
    std::optional<View> bias;  // [1, out]
    bool accumulate = false;   // out += instead of out =
};
// out = x * weight^T (+ bias).
void matmul(const Exec& exec, MatmulInput& x, const Matmul& problem);

// The same for several matrices that read one input (q, k, v; gate, up), in one go: each call
// wakes the team once.
void matmul(const Exec& exec, MatmulInput& x, std::span<const Matmul> problems);

// Workspace bytes that a MatmulInput of [tokens, in] takes at most with this device, level and
// activation kind.
[[nodiscard]] std::size_t matmul_input_bytes(const Exec& exec, std::int64_t tokens,
                                             std::int64_t in);

// Workspace bytes that one matmul takes at most, besides what its MatmulInput holds.
[[nodiscard]] std::size_t matmul_bytes(const Exec& exec, Shape2 weight);

// Layout that stays resident in memory for fast matmul (16 rows interleaved); nullopt: the stored
// layout is used as it is. `params`: of a layout of several planes.
[[nodiscard]] std::optional<LayoutId> resident_layout(LayoutId stored,
                                                      const LayoutParams& params = {});
// `params`: likewise, of the stored matrix.
[[nodiscard]] std::size_t packed_bytes(LayoutId layout, Shape2 shape,
                                       const LayoutParams& params = {});
// Writes `stored` into `out` (packed_bytes(layout, shape, params) bytes) in `layout`; returns the
// view of it. A matrix may be repacked piece by piece: rows [a, b) with a a multiple of kRepackRows
// land at packed_bytes(layout, {a, cols}, params), as they would when all are repacked at once.
inline constexpr std::int64_t kRepackRows = 64;
PackedView repack(const Exec& exec, const PackedView& stored, LayoutId layout, std::byte* out);
// Decodes rows to exec.dtype() from any layout, resident ones included. out: [range.count, cols].
void decode_rows(const Exec& exec, const PackedView& weight, RowRange range, View out);

enum class RopeStyle : std::uint8_t {
    kInterleaved,  // pairs (2i, 2i+1)
    kHalves,       // pairs (i, i + dim/2)
};
struct Rope {
    RopeStyle style = RopeStyle::kInterleaved;
    int dims = 0;  // rotated leading dims of each head
    double base = 10000.0;
    double frequency_scale = 1.0;    // linear scaling: angle = scale * position * base^(-2i/dims)
    std::span<const float> factors;  // per-frequency divisors (llama 3), [dims/2]; empty: none
};
// Rotates in place. x: [T, heads * head_dim]; positions: [T].
void rope(const Exec& exec, const Rope& rope, int head_dim, std::span<const std::int64_t> positions,
          View x);

// Keys are read in tiles of this many slots, counted from the start of their segment; the engine
// begins every segment at a slot whose position is a multiple of it.
inline constexpr std::int64_t kAttentionTile = 64;

// Keys or values in KV memory: for each KV head and slot one row of head_dim elements, in blocks of
// `layout` (K and V may differ), or plain doubles on the reference device.
struct AttnRows {
    const std::byte* data = nullptr;
    bool f64 = false;
    LayoutId layout = LayoutId::k_f32;
    std::size_t token_bytes = 0;  // from one slot to the next
    std::size_t head_bytes = 0;   // from one KV head to the next
};

// Part of the KV memory that a query reads. POD; pointers are the engine's.
struct AttnSegment {
    AttnRows k, v;
    std::int64_t slots = 0;
    // Positions for the mask: [slots], -1 = empty slot; null: slot i is at first_position + i.
    const std::int32_t* positions = nullptr;
    std::int64_t first_position = 0;
    bool on_host = false;  // in host memory though the queries are on a device
    // The K/V head that these slots belong to, whose rows k and v then begin at; -1: all heads.
    int kv_head = -1;
    // What only host devices know: logit biases [slots]; and the channels that key rows hold,
    // ascending (empty: all head_dim of them).
    const float* bias = nullptr;
    std::span<const std::int16_t> channels = {};
};

struct Attention {
    View q;    // [T, heads * head_dim], rotated
    View out;  // [T, heads * head_dim]
    std::span<const AttnSegment> segments;
    std::span<const std::int64_t> q_positions;  // [T]
    int heads = 0, kv_heads = 0, head_dim = 0;
    double scale = 0;
    std::int64_t window =
        0;               // sliding window: key visible iff 0 <= pos_q - pos_k < window; 0: no limit
    double softcap = 0;  // logits = cap * tanh(logits / cap); 0: none
    // Keys before this position are always visible (attention sinks) even outside the window.
    std::int64_t sinks = 0;
};
// softmax(q k^T * scale + causal mask) v, in flash form: KV tiles of fixed size at absolute slot
// numbers, merged one by one ascending (never in groups), segments in order, so results do not
// depend on thread count, chunking or on how many wholly masked tiles come before or after: such a
// tile leaves a row's bits as they were.
void attention(const Exec& exec, const Attention& problem);
// Workspace bytes that attention() and attention_state() take for `tokens` rows over `slots` slots.
[[nodiscard]] std::size_t attention_workspace_bytes(std::int64_t tokens, int heads, int head_dim,
                                                    std::int64_t slots, Device device);

// Host workspace that attention on a CUDA device takes for segments that lie in host memory.
[[nodiscard]] std::size_t host_attention_bytes(std::int64_t tokens, int heads, int head_dim,
                                               std::int64_t slots);

// Mergeable attention state over one part of the KV: o is normalised within the part.
struct AttnState {
    View o;         // [T, heads * head_dim]
    View max, sum;  // [T, heads]
};
void attention_state(const Exec& exec, const Attention& problem, AttnState out);
void merge(const Exec& exec, const AttnState& part, AttnState into, int head_dim);  // exact

// The logits that attention() would meet for one K/V head, on a host device: scaled, capped,
// biased, -infinity where a slot is hidden from the row. out: [T * group, slots], F32 on every
// device, row token * group + head; columns are the slots of the segments that this head reads, in
// order.
void attention_logits(const Exec& exec, const Attention& problem, int kv_head, View out);
// Each row becomes its softmax, -infinity 0; log_sums (may be empty): of each row, the logarithm of
// the sum. x: [T, n], F32.
void softmax_rows(const Exec& exec, View x, std::span<float> log_sums);

// Encodes rows of K or V for the cache: x [T, heads * head_dim] -> T * heads rows of `layout`
// blocks.
void encode_kv(const Exec& exec, View x, int head_dim, LayoutId layout, std::byte* out,
               std::size_t token_bytes, std::size_t head_bytes);

// Per row: log(sum(exp(x))) and the position of the largest (lowest index on ties). x: [T, n].
struct RowStats {
    double log_sum_exp;
    std::int32_t argmax;
};
void row_stats(const Exec& exec, View x, std::span<RowStats> out);

// The largest of a row on a CUDA device and their places, largest first, equal ones by place; what
// is NaN or +infinity comes before all. x: [1, n]; both spans of k, at most kMostTop and n.
inline constexpr std::int64_t kMostTop = 256;
void top_k(const Exec& exec, View x, std::span<float> values, std::span<std::int32_t> places);
// Workspace bytes that it takes at most, over rows of n.
[[nodiscard]] std::size_t top_k_bytes(std::int64_t n);

}  // namespace thimble::ops
