// SPDX-License-Identifier: Apache-2.0
#include "ops/kept.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/layout/interleaved.h"
#include "kernels/ref/ref.h"
#include "ops/dispatch.h"
#include "ops/on_cuda.h"
#include "ops/op_clock.h"

namespace thimble::ops {
namespace {

// Parts of a list, which threads share: each has its own sums.
constexpr std::int64_t kMostParts = 16, kPartChannels = 64;

std::int64_t parts_of(std::int64_t channels) {
    return std::clamp<std::int64_t>(channels / kPartChannels, 1, kMostParts);
}

cpu::ListedRows rows_of(const PackedView& w) {
    cpu::ListedRows rows{};
    rows.layout = w.layout, rows.cols = w.shape.cols;
    rows.weights = w.row(0), rows.row_bytes = w.planes[0].row_bytes;
    return rows;
}

// fn(twin's id) for a layout of floats.
template <class Fn>
void with_floats(LayoutId stored, Fn&& fn) {
    with_interleaved(*resident_layout(stored), [&](auto id) {
        if constexpr (!kOfPlanes<decltype(id)::value>) {
            if constexpr (Interleaved<decltype(id)::value>::kElements == 1) fn(id);
        }
    });
}

}  // namespace

void activation(const Exec& exec, Gate act, View gate, View out) {
    const Timed timed(exec, "activation");
    require_view(exec, out, gate.rows, gate.cols, "activation");
    require(!is_cuda(exec) && !is_ref(exec), "activation", "the rows are not in host memory");
    const std::vector<float> ones(static_cast<std::size_t>(gate.cols), 1.0F);
    const auto& table = kernels(exec.isa);
    const auto kernel = act == Gate::kSilu ? table.silu_glu : table.gelu_glu;
    for_rows(exec, gate.rows, gate.cols * 2, [&](std::int64_t r) {
        kernel(gate.row<float>(r), ones.data(), gate.cols, out.row<float>(r));
    });
}

void glu_above(const Exec& exec, Gate act, View gate, View up, View least, View out) {
    const Timed timed(exec, "glu_above");
    require_view(exec, up, gate.rows, gate.cols, "glu_above");
    require_view(exec, out, gate.rows, gate.cols, "glu_above");
    require_view(exec, least, 1, gate.cols, "glu_above");
    if (is_cuda(exec)) return on_cuda::glu(exec, act, gate, up, &least, out);
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, gate.rows, gate.cols * 2, [&](std::int64_t r) {
        if (!is_ref(exec)) {
            return table.glu_above({act == Gate::kGeluTanh, gate.row<float>(r), up.row<float>(r),
                                    least.row<float>(0), gate.cols, out.row<float>(r)});
        }
        for (std::int64_t i = 0; i < gate.cols; ++i) {
            const double g = gate.row<double>(r)[i];
            const double a = act == Gate::kSilu ? ref::silu(g) : ref::gelu_tanh(g);
            const bool dropped = std::abs(a) <= least.row<double>(0)[i];
            out.row<double>(r)[i] = dropped ? 0 : a * up.row<double>(r)[i];
        }
    });
}

bool reads_rows(LayoutId layout) noexcept {
    return layout == LayoutId::k_f32 || layout == LayoutId::k_f16 || layout == LayoutId::k_bf16;
}

void kept_ffn(const Exec& exec, const KeptFfn& p) {
    Timed timed(exec, "kept_ffn");
    const std::int64_t n = p.gate.cols, out = p.out.cols;
    require_view(exec, p.gate, 1, n, "kept_ffn");
    require_view(exec, p.least, 1, n, "kept_ffn");
    require_view(exec, p.x, 1, p.up.shape.cols, "kept_ffn");
    require_view(exec, p.out, 1, p.down.shape.cols, "kept_ffn");
    require(exec.device == Device::kCpu && p.up.shape.rows == n && p.down.shape.rows == n &&
                reads_rows(p.up.layout) && reads_rows(p.down.layout),
            "kept_ffn", "there is no kernel for these matrices");
    const WorkspaceScope scope(*exec.workspace);
    const std::int64_t room = n + cpu::kListSlack;
    auto* channels = reinterpret_cast<std::int32_t*>(
        exec.workspace->take(static_cast<std::size_t>(room) * sizeof(std::int32_t)));
    auto* values = exec.workspace->take_view(DType::kF32, 1, room).row<float>(0);
    const View sums = exec.workspace->take_view(DType::kF32, kMostParts, out);
    const auto& table = kernels(exec.isa);
    std::int64_t count = 0;
    table.list_kept({p.act == Gate::kGeluTanh, p.gate.row<float>(0), p.least.row<float>(0), n,
                     channels, values, &count});
    const std::int64_t parts = parts_of(count);
    const auto kept = static_cast<std::uint64_t>(count);
    timed.add_bytes(kept * (p.up.planes[0].row_bytes + p.down.planes[0].row_bytes));
    exec.team->run(parts, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t part = begin; part < end; ++part) {
            const std::int64_t first = count * part / parts;
            cpu::ListedRows up = rows_of(p.up), down = rows_of(p.down);
            for (cpu::ListedRows* rows : {&up, &down}) {
                rows->rows = channels + first, rows->values = values + first;
                rows->count = count * (part + 1) / parts - first;
            }
            float* sum = sums.row<float>(part);
            std::fill_n(sum, out, 0.0F);
            if (up.count == 0) continue;
            table.multiply_by_rows(up, p.x.row<float>(0));
            table.add_rows(down, sum);
        }
    });
    for (std::int64_t part = 1; part < parts; ++part)
        table.add(sums.row<float>(0), sums.row<float>(part), out, sums.row<float>(0));
    float* y = p.out.row<float>(0);
    if (p.accumulate) return table.add(y, sums.row<float>(0), out, y);
    std::copy_n(sums.row<float>(0), out, y);
}

std::size_t kept_ffn_bytes(const Exec&, std::int64_t n, std::int64_t out) {
    const auto bytes = [](std::int64_t elements) {
        return (static_cast<std::size_t>(elements) * sizeof(float) + 63) & ~std::size_t{63};
    };
    return 2 * bytes(n + cpu::kListSlack) + bytes(kMostParts * out);
}

PackedView repack_transposed(const Exec& exec, const PackedView& stored, LayoutId layout,
                             std::byte* out) {
    const Timed timed(exec, "repack_transposed");
    const Shape2 shape{stored.shape.cols, stored.shape.rows};
    with_floats(stored.layout, [&](auto id) {
        using I = Interleaved<decltype(id)::value>;
        auto* blocks = reinterpret_cast<typename I::Block*>(out);
        const std::int64_t groups = (shape.rows + kGroupRows - 1) / kGroupRows;
        // A few rows of what is read: what is written of each group lies side by side.
        constexpr std::int64_t kTile = 8;
        const auto put = [&](std::int64_t g, std::int64_t c) {
            auto& block = blocks[g * shape.cols + c];
            const std::int64_t first = g * kGroupRows;
            const std::int64_t n = std::min<std::int64_t>(kGroupRows, shape.rows - first);
            if (n < kGroupRows) std::memset(&block, 0, sizeof block);
            const auto* row = reinterpret_cast<const typename I::Stored*>(stored.row(c));
            std::memcpy(block.rows, row + first, static_cast<std::size_t>(n) * sizeof *row);
        };
        exec.team->run((shape.cols + kTile - 1) / kTile, 8,
                       [&](std::int64_t begin, std::int64_t end) {
                           for (std::int64_t tile = begin; tile < end; ++tile) {
                               const std::int64_t last = std::min((tile + 1) * kTile, shape.cols);
                               for (std::int64_t g = 0; g < groups; ++g)
                                   for (std::int64_t c = tile * kTile; c < last; ++c) put(g, c);
                           }
                       });
    });
    PackedView view{layout, shape, {}, 1, stored.params};
    view.planes[0] = {out, packed_bytes(layout, {kGroupRows, shape.cols}) / kGroupRows,
                      packed_bytes(layout, shape)};
    return view;
}

void transpose_piece(const Exec& exec, const PackedView& piece, std::int64_t first,
                     std::int64_t rows, std::byte* out) {
    with_floats(piece.layout, [&](auto id) {
        using Stored = typename Interleaved<decltype(id)::value>::Stored;
        auto* to = reinterpret_cast<Stored*>(out);
        exec.team->run(piece.shape.cols, 64, [&](std::int64_t begin, std::int64_t end) {
            // A few of each: both sides stay in the first cache.
            constexpr std::int64_t kTile = 32;
            for (std::int64_t r = 0; r < piece.shape.rows; r += kTile) {
                const std::int64_t last = std::min(r + kTile, piece.shape.rows);
                for (std::int64_t c = begin; c < end; ++c) {
                    for (std::int64_t i = r; i < last; ++i)
                        to[c * rows + first + i] = reinterpret_cast<const Stored*>(piece.row(i))[c];
                }
            }
        });
    });
}

}  // namespace thimble::ops
