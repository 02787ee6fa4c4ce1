// SPDX-License-Identifier: Apache-2.0
#include "model/linear.h"

#include <array>

#include "core/error.h"
#include "model/linear_gradient.h"
#include "ops/columns.h"
#include "ops/gradients.h"
#include "ops/kept.h"
#include "ops/stack.h"

namespace thimble {
namespace {

View take(const Exec& exec, std::int64_t rows, std::int64_t cols) {
    return exec.workspace->take_view(exec.dtype(), rows, cols);
}

// The same bits as with a matrix that lies as it is multiplied.
void multiply_packed_anew(const Exec& exec, ops::MatmulInput& x, const Linear& linear,
                          ops::Matmul p) {
    const WorkspaceScope scope(*exec.workspace);
    const PackedView stored = linear.weight;
    const LayoutId layout = *ops::resident_layout(stored.layout);
    std::byte* room = exec.workspace->take(ops::packed_bytes(layout, {linear.out(), linear.in()}));
    p.weight = linear.skips == Skips::kInputs ? ops::repack_transposed(exec, stored, layout, room)
                                              : ops::repack(exec, stored, layout, room);
    ops::matmul(exec, x, p);
}

// Products by factors: all that read x at once, then one by one what reads these.
void multiply_factors(const Exec& exec, ops::MatmulInput& x,
                      std::span<const Factors* const> factors,
                      std::span<const ops::Matmul> products) {
    const WorkspaceScope scope(*exec.workspace);
    std::array<ops::Matmul, kMostUses> first{};
    for (std::size_t i = 0; i < factors.size(); ++i) {
        const View t = take(exec, x.view().rows, factors[i]->a.shape.rows);
        first[i] = {factors[i]->a, t, std::nullopt, false};
    }
    ops::matmul(exec, x, std::span(first).first(factors.size()));
    for (std::size_t i = 0; i < factors.size(); ++i) {
        const WorkspaceScope inner(*exec.workspace);
        ops::MatmulInput between(exec, first[i].out);
        const ops::Matmul& p = products[i];
        ops::matmul(exec, between, ops::Matmul{factors[i]->b, p.out, p.bias, p.accumulate});
    }
}

// y (+)= x W^T (+ bias)
void multiply(const Exec& exec, ops::MatmulInput& x, const Linear& linear, const ops::Matmul& p) {
    if (linear.skips != Skips::kNothing) return multiply_packed_anew(exec, x, linear, p);
    if (linear.stack != nullptr)
        return ops::stack_matmul(exec, x.view(), {linear.stack, p.out, p.bias, p.accumulate});
    if (!linear.factors) return ops::matmul(exec, x, p);
    const Factors* factors = &*linear.factors;
    multiply_factors(exec, x, {&factors, 1}, {&p, 1});
}

// y += scale * drop(x) A^T B^T
void add_low_rank(const Exec& exec, ops::MatmulInput& x, const LowRank& term, View y) {
    const WorkspaceScope scope(*exec.workspace);
    const View in = x.view();
    const View t = take(exec, in.rows, term.a.shape.rows);
    const ops::Matmul down{term.a, t, std::nullopt, false};
    if (term.dropout.rate > 0) {
        const WorkspaceScope inner(*exec.workspace);
        const View dropped = take(exec, in.rows, in.cols);
        ops::dropout(exec, in, term.dropout.rate, term.dropout.seed, term.dropout.stream, dropped);
        ops::MatmulInput kept(exec, dropped);
        ops::matmul(exec, kept, down);
    } else {
        ops::matmul(exec, x, down);
    }
    ops::scale(exec, t, term.scale);
    ops::MatmulInput small(exec, t);
    ops::matmul(exec, small, ops::Matmul{term.b, y, std::nullopt, true});
}

// y = row_scale * (x W^T + low-rank terms), without the bias.
void apply_scaled(const Exec& exec, ops::MatmulInput& x, const Linear& linear, View y) {
    multiply(exec, x, linear, {linear.weight, y, std::nullopt, false});
    for (const LowRank& term : linear.low_rank) add_low_rank(exec, x, term, y);
}

void apply_row_scaled(const Exec& exec, ops::MatmulInput& x, const Linear::Use& use) {
    const WorkspaceScope scope(*exec.workspace);
    const Linear& linear = *use.linear;
    const View y = use.accumulate ? take(exec, use.y.rows, use.y.cols) : use.y;
    apply_scaled(exec, x, linear, y);
    ops::scale_columns(exec, y, *linear.row_scale, linear.bias, y);
    if (use.accumulate) ops::add(exec, use.y, y, use.y);
}

// How codes are multiplied: as bytes, which the same rounding gives back, or on the reference
// device as doubles.
Exec for_codes(const Exec& exec) {
    Exec out = exec;
    out.activations = Activations::kI8Token;
    return out;
}

void apply_coded(const Exec& exec, View x, const Linear::Use& use) {
    const WorkspaceScope scope(*exec.workspace);
    const Linear& linear = *use.linear;
    if (!linear.low_rank.empty() || linear.row_scale)
        throw Error(Exit::kFailure, "apply", "a matrix with coded input has no adapters");
    const Exec codes = for_codes(exec);
    ops::MatmulInput input(codes, product_input(exec, linear, x));
    multiply(codes, input, linear, {linear.weight, use.y, linear.bias, use.accumulate});
}

}  // namespace

View product_input(const Exec& exec, const Linear& linear, View x) {
    if (!linear.coded) return x;
    const View codes = take(exec, x.rows, x.cols);
    ops::rms_norm(exec, x, linear.coded->norm, linear.coded->epsilon, codes);
    ops::round_codes(exec, codes, codes);
    return codes;
}

std::size_t apply_bytes(const Exec& exec, std::int64_t tokens, std::int64_t in, bool coded) {
    const std::size_t codes =
        (static_cast<std::size_t>(tokens * in) * size_of(exec.dtype()) + 63) & ~std::size_t{63};
    return coded ? ops::matmul_input_bytes(for_codes(exec), tokens, in) + codes
                 : ops::matmul_input_bytes(exec, tokens, in);
}

void apply(const Exec& exec, View x, std::span<const Linear::Use> uses) {
    if (uses.size() > kMostUses) throw Error(Exit::kFailure, "apply", "too many uses of one input");
    std::size_t coded = 0;
    for (const Linear::Use& use : uses) {
        if (!use.linear->coded) continue;
        apply_coded(exec, x, use);
        ++coded;
    }
    if (coded == uses.size()) return;
    ops::MatmulInput input(exec, x);
    std::array<ops::Matmul, kMostUses> plain{}, thin{};
    std::array<const Factors*, kMostUses> factors{};
    std::size_t count = 0, factored = 0;
    for (const Linear::Use& use : uses) {
        if (use.linear->row_scale || use.linear->coded) continue;
        const ops::Matmul product = {use.linear->weight, use.y, use.linear->bias, use.accumulate};
        if (use.linear->stack != nullptr || use.linear->skips != Skips::kNothing) {
            multiply(exec, input, *use.linear, product);
        } else if (use.linear->factors) {
            factors[factored] = &*use.linear->factors;
            thin[factored++] = product;
        } else {
            plain[count++] = product;
        }
    }
    if (count > 0) ops::matmul(exec, input, std::span(plain).first(count));
    if (factored > 0) multiply_factors(exec, input, std::span(factors).first(factored), thin);
    for (const Linear::Use& use : uses) {
        if (use.linear->row_scale) {
            apply_row_scaled(exec, input, use);
            continue;
        }
        if (use.linear->coded) continue;
        for (const LowRank& term : use.linear->low_rank) add_low_rank(exec, input, term, use.y);
    }
}

std::size_t skipping_bytes(LayoutId layout, Shape2 shape) {
    return (ops::packed_bytes(*ops::resident_layout(layout), shape) + 63) & ~std::size_t{63};
}

std::size_t factor_bytes(const Exec& exec, std::int64_t tokens, std::int64_t rank) {
    const std::size_t between = low_rank_bytes(exec, tokens, rank, 0, false);
    return between * kMostUses;
}

std::size_t low_rank_bytes(const Exec& exec, std::int64_t tokens, std::int64_t rank,
                           std::int64_t widest, bool row_scale) {
    const auto bytes = [&](std::int64_t cols) {
        return (static_cast<std::size_t>(tokens * cols) * size_of(exec.dtype()) + 63) &
               ~std::size_t{63};
    };
    return bytes(rank) + ops::matmul_input_bytes(exec, tokens, rank) +
           (row_scale ? bytes(widest) : 0);
}

namespace {

using Part = ParameterId::Part;

// Gradients of one low-rank term; dy: of row_scale's argument.
void low_rank_backward(const Exec& exec, const LinearUse& use, std::size_t index,
                       ops::MatmulInput& x, ops::MatmulInput& dy, GradientSink& sink,
                       const std::optional<View>& dx) {
    const WorkspaceScope scope(*exec.workspace);
    const LowRank& term = use.linear.low_rank[index];
    const std::int64_t rows = dy.view().rows, rank = term.a.shape.rows;
    const bool drops = term.dropout.rate > 0;
    const auto id = [&](Part part) { return ParameterId{use.unit, part, use.index, index}; };
    const std::optional<View> da = sink.gradient(id(Part::kLowRankA));
    const std::optional<View> db = sink.gradient(id(Part::kLowRankB));

    std::optional<ops::MatmulInput> kept;
    if (drops && (da || db)) {
        const View dropped = take(exec, rows, x.view().cols);
        ops::dropout(exec, x.view(), term.dropout.rate, term.dropout.seed, term.dropout.stream,
                     dropped);
        kept.emplace(exec, dropped);
    }
    ops::MatmulInput& in = kept ? *kept : x;
    if (db) {
        const WorkspaceScope inner(*exec.workspace);
        const View t = take(exec, rows, rank);
        ops::matmul(exec, in, ops::Matmul{term.a, t, std::nullopt, false});
        ops::scale(exec, t, term.scale);
        ops::MatmulInput small(exec, t);
        ops::weight_gradient(exec, dy, small, *db);
        sink.done(id(Part::kLowRankB));
    }
    const View u = take(exec, rows, rank);  // scale * dy B
    ops::matmul_t(exec, dy, term.b, u, false);
    ops::scale(exec, u, term.scale);
    ops::MatmulInput du(exec, u);
    if (da) {
        ops::weight_gradient(exec, du, in, *da);
        sink.done(id(Part::kLowRankA));
    }
    if (!dx) return;
    if (!drops) return ops::matmul_t(exec, du, term.a, *dx, true);
    const View through = take(exec, rows, dx->cols);
    ops::matmul_t(exec, du, term.a, through, false);
    ops::dropout(exec, through, term.dropout.rate, term.dropout.seed, term.dropout.stream, through);
    ops::add(exec, *dx, through, *dx);
}

// ds[r] += sum over t of dy[t][r] * (what row_scale multiplies)[t][r]
void row_scale_backward(const Exec& exec, const LinearUse& use, ops::MatmulInput& x, View dy,
                        GradientSink& sink) {
    const ParameterId id{use.unit, Part::kRowScale, use.index, 0};
    const std::optional<View> ds = sink.gradient(id);
    if (!ds) return;
    const WorkspaceScope scope(*exec.workspace);
    const View y = take(exec, dy.rows, dy.cols);
    apply_scaled(exec, x, use.linear, y);
    ops::column_dots(exec, dy, y, *ds);
    sink.done(id);
}

}  // namespace

void backward(const Exec& exec, const LinearUse& use, ops::MatmulInput& x, View dy,
              GradientSink& sink, const std::optional<View>& dx, bool accumulate) {
    const WorkspaceScope scope(*exec.workspace);
    const Linear& linear = use.linear;
    if (linear.stack != nullptr)
        throw Error(Exit::kFailure, "backward", "a matrix in blocks is not trained through");
    if (linear.factors)
        throw Error(Exit::kFailure, "backward", "a matrix in two factors is not trained through");
    const ParameterId matrix{use.unit, Part::kMatrix, use.index, 0};
    const ParameterId bias{use.unit, Part::kBias, use.index, 0};
    if (linear.bias) {
        if (const auto db = sink.gradient(bias)) {
            ops::column_sums(exec, dy, *db);
            sink.done(bias);
        }
    }
    View of_product = dy;
    if (linear.row_scale) {
        row_scale_backward(exec, use, x, dy, sink);
        of_product = take(exec, dy.rows, dy.cols);
        ops::scale_columns(exec, dy, *linear.row_scale, std::nullopt, of_product);
    }
    ops::MatmulInput d(exec, of_product);
    if (dx) ops::matmul_t(exec, d, linear.weight, *dx, accumulate);
    for (std::size_t i = 0; i < linear.low_rank.size(); ++i)
        low_rank_backward(exec, use, i, x, d, sink, dx);
    if (const auto dw = sink.gradient(matrix)) {
        ops::weight_gradient(exec, d, x, *dw);
        sink.done(matrix);
    }
}

}  // namespace thimble
