// SPDX-License-Identifier: Apache-2.0
// Training's operations on the device: products by cuBLAS, the others by kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/cuda_matrix.h"
#include "ops/on_cuda.h"

namespace thimble::ops::on_cuda {
namespace {

cuda::Activation activation(Gate act) {
    return act == Gate::kSilu ? cuda::Activation::kSilu : cuda::Activation::kGeluTanh;
}

}  // namespace

void narrow(const Exec& exec, View x, View out) {
    require(out.stride == out.cols, "narrow", "rows have no gaps");
    launch(exec, cuda::supports_narrow, cuda::narrow,
           cuda::Narrow{.x = floats(x),
                        .rows = x.rows,
                        .cols = x.cols,
                        .stride = x.stride,
                        .layout = LayoutId::k_bf16,
                        .out = static_cast<std::uint16_t*>(out.data)});
}

void multiply(const Exec& exec, const dense::Product& p) {
    launch(exec, cuda::supports_product, cuda::product,
           cuda::Product{.blas = exec.dry ? nullptr : &exec.cuda->blas(),
                         .a = p.a.data,
                         .b = p.b.data,
                         .a_transposed = p.a_transposed,
                         .b_transposed = p.b_transposed,
                         .bf16 = p.a.dtype == DType::kBF16,
                         .m = p.c.rows,
                         .n = p.c.cols,
                         .k = p.a_transposed ? p.a.rows : p.a.cols,
                         .a_stride = p.a.stride,
                         .b_stride = p.b.stride,
                         .c = floats(p.c),
                         .c_stride = p.c.stride,
                         .accumulate = p.accumulate});
    if (p.bias == nullptr) return;
    const View bias{const_cast<float*>(p.bias), DType::kF32, 1, p.c.cols, p.c.cols};  // only read
    scale_columns(exec, p.c, nullptr, &bias, p.c);
}

void clear(const Exec& exec, View x) {
    const std::size_t row = static_cast<std::size_t>(x.cols) * size_of(x.dtype);
    on_device([&] {
        if (x.stride == x.cols)
            return cuda::fill(exec.cuda->compute(), x.data, 0,
                              row * static_cast<std::size_t>(x.rows));
        for (std::int64_t r = 0; r < x.rows; ++r)
            cuda::fill(exec.cuda->compute(), x.row_bytes(r), 0, row);
    });
}

void column_sums(const Exec& exec, View y, const View* x, const float* r, View sums) {
    launch(exec, cuda::supports_column_sums, cuda::column_sums,
           cuda::ColumnSums{.y = floats(y),
                            .x = x != nullptr ? floats(*x) : nullptr,
                            .r = r,
                            .rows = y.rows,
                            .cols = y.cols,
                            .y_stride = y.stride,
                            .x_stride = x != nullptr ? x->stride : 0,
                            .sums = floats(sums)});
}

void rms_norm_backward(const Exec& exec, View x, View weight, double eps, View dy, View dx,
                       bool accumulate, const View* dweight) {
    const WorkspaceScope scope(*exec.workspace);
    float* r = floats(exec.workspace->take_view(DType::kF32, 1, x.rows));
    launch(exec, cuda::supports_inverse_rms, cuda::inverse_rms,
           cuda::InverseRms{.x = floats(x),
                            .rows = x.rows,
                            .cols = x.cols,
                            .stride = x.stride,
                            .epsilon = static_cast<float>(eps),
                            .r = r});
    if (dweight != nullptr) column_sums(exec, dy, &x, r, *dweight);  // before dx takes dy's place
    launch(exec, cuda::supports_rms_norm_backward, cuda::rms_norm_backward,
           cuda::RmsNormBackward{.x = floats(x),
                                 .weight = floats(weight),
                                 .dy = floats(dy),
                                 .r = r,
                                 .dx = floats(dx),
                                 .rows = x.rows,
                                 .cols = x.cols,
                                 .x_stride = x.stride,
                                 .dy_stride = dy.stride,
                                 .dx_stride = dx.stride,
                                 .accumulate = accumulate});
}

void glu_backward(const Exec& exec, Gate act, View gate, View up, View dy, View dgate, View dup) {
    launch(exec, cuda::supports_glu_backward, cuda::glu_backward,
           cuda::GluBackward{.activation = activation(act),
                             .gate = floats(gate),
                             .up = floats(up),
                             .dy = floats(dy),
                             .dgate = floats(dgate),
                             .dup = floats(dup),
                             .rows = gate.rows,
                             .cols = gate.cols,
                             .gate_stride = gate.stride,
                             .up_stride = up.stride,
                             .dy_stride = dy.stride,
                             .dgate_stride = dgate.stride,
                             .dup_stride = dup.stride});
}

namespace {

void embed_some_backward(const Exec& exec, std::span<const std::int32_t> tokens, double factor,
                         View dx, View dtable) {
    // The places of each token, ascending.
    std::vector<std::int32_t> order(tokens.size()), rows, starts;
    std::iota(order.begin(), order.end(), 0);
    const auto token = [&](std::int32_t place) { return tokens[static_cast<std::size_t>(place)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return token(a) < token(b); });
    for (std::size_t i = 0; i < order.size(); ++i) {
        if (!rows.empty() && rows.back() == token(order[i])) continue;
        rows.push_back(token(order[i]));
        starts.push_back(static_cast<std::int32_t>(i));
    }
    const auto runs = rows.size();
    rows.insert(rows.end(), starts.begin(), starts.end());
    rows.push_back(static_cast<std::int32_t>(order.size()));
    rows.insert(rows.end(), order.begin(), order.end());
    const std::int32_t* all = upload(exec, std::span<const std::int32_t>(rows));
    launch(exec, cuda::supports_embed_backward, cuda::embed_backward,
           cuda::EmbedBackward{.dx = floats(dx),
                               .dx_stride = dx.stride,
                               .rows = all,
                               .starts = all + runs,
                               .order = all + 2 * runs + 1,
                               .runs = static_cast<std::int64_t>(runs),
                               .cols = dx.cols,
                               .table = floats(dtable),
                               .table_stride = dtable.stride,
                               .factor = static_cast<float>(factor)});
}

}  // namespace

void embed_backward(const Exec& exec, std::span<const std::int32_t> tokens, double factor, View dx,
                    View dtable) {
    constexpr std::size_t kAtOnce = std::size_t{1} << 16;  // whose tables are small enough to go up
    for (std::size_t first = 0; first < tokens.size() && !exec.dry; first += kAtOnce) {
        const auto some = tokens.subspan(first, std::min(kAtOnce, tokens.size() - first));
        const auto at = static_cast<std::int64_t>(first);
        embed_some_backward(exec, some, factor, dx.slice_rows(at, std::ssize(some)), dtable);
    }
}

void attention_backward(const Exec& exec, const AttentionGradient& a) {
    const WorkspaceScope scope(*exec.workspace);
    launch(exec, cuda::supports_attention_backward, cuda::attention_backward,
           cuda::AttentionBackward{
               .q = floats(a.q),
               .k = floats(a.k),
               .v = floats(a.v),
               .dout = floats(a.dout),
               .dq = floats(a.dq),
               .dk = floats(a.dk),
               .dv = floats(a.dv),
               .tokens = a.q.rows,
               .q_stride = a.q.stride,
               .k_stride = a.k.stride,
               .v_stride = a.v.stride,
               .dout_stride = a.dout.stride,
               .dq_stride = a.dq.stride,
               .dk_stride = a.dk.stride,
               .dv_stride = a.dv.stride,
               .heads = a.heads,
               .kv_heads = a.kv_heads,
               .head_dim = a.head_dim,
               .scale = static_cast<float>(a.scale),
               .softcap = static_cast<float>(a.softcap),
               .window = a.window,
               .stats = floats(exec.workspace->take_view(DType::kF32, 2 * a.heads, a.q.rows))});
}

void scale_columns(const Exec& exec, View x, const View* factors, const View* bias, View out) {
    launch(exec, cuda::supports_scale_columns, cuda::scale_columns,
           cuda::ScaleColumns{.x = floats(x),
                              .factors = factors != nullptr ? floats(*factors) : nullptr,
                              .bias = bias != nullptr ? floats(*bias) : nullptr,
                              .out = floats(out),
                              .rows = x.rows,
                              .cols = x.cols,
                              .x_stride = x.stride,
                              .out_stride = out.stride});
}

void dropout(const Exec& exec, View x, double rate, std::uint64_t seed, std::uint64_t stream,
             View out) {
    launch(exec, cuda::supports_dropout, cuda::dropout,
           cuda::Dropout{.x = floats(x),
                         .out = floats(out),
                         .rows = x.rows,
                         .cols = x.cols,
                         .x_stride = x.stride,
                         .out_stride = out.stride,
                         .rate = static_cast<float>(rate),
                         .factor = 1.0f / static_cast<float>(1 - rate),
                         .seed = seed,
                         .stream = stream});
}

void row_lengths(const Exec& exec, const PackedView& weight, const PackedView& a,
                 const PackedView& b, double scale, std::span<double> lengths) {
    auto* there = static_cast<double*>(exec.cuda->scratch(lengths.size_bytes()));
    launch(exec, cuda::supports_row_lengths, cuda::row_lengths,
           cuda::RowLengths{.matrix = matrix(weight),
                            .a = reinterpret_cast<const float*>(a.row(0)),
                            .b = reinterpret_cast<const float*>(b.row(0)),
                            .rank = a.shape.rows,
                            .scale = static_cast<float>(scale),
                            .lengths = there});
    to_host(exec, there, lengths.data(), lengths.size_bytes());
}

void gather_rows(const Exec& exec, View x, std::span<const std::int32_t> rows, View out) {
    PackedView table{LayoutId::k_f32, {x.rows, x.cols}, {}, 1, {}};
    const std::size_t row = static_cast<std::size_t>(x.stride) * sizeof(float);
    table.planes[0] = {static_cast<const std::byte*>(x.data), row,
                       row * static_cast<std::size_t>(x.rows)};
    embed(exec, table, rows, 1, out);
}

void clear_loss_stats(const Exec& exec, View stats) {
    std::vector<double> none(static_cast<std::size_t>(3 * stats.rows));
    for (std::size_t i = 0; i < none.size(); i += 3)
        none[i] = -std::numeric_limits<double>::infinity();
    on_device([&] {
        cuda::copy_to_device(exec.cuda->compute(), stats.data, none.data(),
                             none.size() * sizeof(double));
    });
}

void add_loss_stats(const Exec& exec, const LossTile& tile) {
    launch(exec, cuda::supports_loss_stats, cuda::loss_stats,
           cuda::LossStats{.z = floats(tile.z),
                           .rows = tile.z.rows,
                           .cols = tile.z.cols,
                           .stride = tile.z.stride,
                           .first = tile.first,
                           .targets = upload(exec, tile.targets),
                           .stats = static_cast<double*>(tile.stats.data)});
}

void loss_gradient(const Exec& exec, const LossTile& tile, double scale) {
    launch(exec, cuda::supports_loss_gradient, cuda::loss_gradient,
           cuda::LossGradient{.z = floats(tile.z),
                              .rows = tile.z.rows,
                              .cols = tile.z.cols,
                              .stride = tile.z.stride,
                              .first = tile.first,
                              .targets = upload(exec, tile.targets),
                              .stats = static_cast<const double*>(tile.stats.data),
                              .scale = scale});
}

double sum_of_losses(const Exec& exec, View stats) {
    std::vector<double> all(static_cast<std::size_t>(3 * stats.rows));
    to_host(exec, stats.data, all.data(), all.size() * sizeof(double));
    double sum = 0;
    for (std::size_t i = 0; i < all.size(); i += 3)
        sum += all[i] + std::log(all[i + 1]) - all[i + 2];
    return sum;
}

}  // namespace thimble::ops::on_cuda
