// SPDX-License-Identifier: Apache-2.0
// Gated feed-forward blocks that drop small activations. A channel is kept where |act(gate)| is
// larger than its threshold: a tie drops it. Many tokens meet all weights, with zeros in place of
// what is dropped; a token alone meets only the rows of its own channels, which lie side by side:
// those of `up` as they are stored, those of `down` channel by channel, [channels, out].
#pragma once

#include "ops/ops.h"

namespace thimble::ops {

// out = act(gate), [T, n]; out may be gate. Host devices only.
void activation(const Exec& exec, Gate act, View gate, View out);
// out = act(gate) * up where the channel is kept, else 0: [T, n]; least: [1, n]; out may be gate or
// up.
void glu_above(const Exec& exec, Gate act, View gate, View up, View least, View out);

// Of a block, for one token.
struct KeptFfn {
    Gate act = Gate::kSilu;
    View x;           // [1, in]
    View gate;        // [1, n]: its product with the first matrix
    View least;       // [1, n]
    PackedView up;    // [n, in]
    PackedView down;  // [n, out]
    View out;         // [1, out], may be x
    bool accumulate = false;
};
// Layouts of up and down that there are kernels for, on a CPU.
[[nodiscard]] bool reads_rows(LayoutId layout) noexcept;
// out (+)= glu_above(...) down. The list of channels is cut into parts by its length alone; what
// they add up is added in their order, so threads do not change the bits. They are others than
// those of the products with all weights, by the rounding of sums.
void kept_ffn(const Exec& exec, const KeptFfn& problem);
// Workspace bytes that it takes.
[[nodiscard]] std::size_t kept_ffn_bytes(const Exec& exec, std::int64_t n, std::int64_t out);

// Writes a matrix that lies as [cols, rows] into `out` as repack() does one that lies as
// [rows, cols].
PackedView repack_transposed(const Exec& exec, const PackedView& stored, LayoutId layout,
                             std::byte* out);
// The rows [first, first + piece.rows) of a matrix of floats into their place in its transpose,
// which has `rows` columns.
void transpose_piece(const Exec& exec, const PackedView& piece, std::int64_t first,
                     std::int64_t rows, std::byte* out);

}  // namespace thimble::ops
