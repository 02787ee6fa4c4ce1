// SPDX-License-Identifier: Apache-2.0
#include "kernels/layout/half.h"
#include "operation.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Case {
    std::int64_t tokens;
    int heads, kv_heads, dim;
    std::int64_t window = 0;
    double softcap = 0;
    bool in_place = false;  // dq is dout

    [[nodiscard]] std::int64_t width() const { return std::int64_t{heads} * dim; }
    [[nodiscard]] std::int64_t kv_width() const { return std::int64_t{kv_heads} * dim; }
    [[nodiscard]] double scale() const { return 1 / std::sqrt(static_cast<double>(dim)); }
    [[nodiscard]] std::int64_t first_key(std::int64_t t) const {
        return window == 0 ? 0 : std::max<std::int64_t>(0, t - window + 1);
    }
};

Values run_forward(Machine& m, const Case& c, const std::vector<Values>& in) {
    Guarded q = placed(m.exec, in[0], c.tokens, c.width());
    Guarded out(m.exec.dtype(), c.tokens, c.width());
    std::vector<std::int64_t> positions;
    for (std::int64_t t = 0; t < c.tokens; ++t) positions.push_back(t);
    const auto rows = [&](const Values& v) {
        ops::AttnRows r;
        r.data = reinterpret_cast<const std::byte*>(v.data()), r.f64 = true;
        r.head_bytes = static_cast<std::size_t>(c.dim) * sizeof(double);
        r.token_bytes = static_cast<std::size_t>(c.kv_heads) * r.head_bytes;
        return r;
    };
    const ops::AttnSegment segment{rows(in[1]), rows(in[2]), c.tokens, nullptr, 0};
    ops::Attention a;
    a.q = q.view(), a.out = out.view(), a.segments = std::span(&segment, 1);
    a.q_positions = positions, a.heads = c.heads, a.kv_heads = c.kv_heads, a.head_dim = c.dim;
    a.scale = c.scale(), a.window = c.window, a.softcap = c.softcap;
    ops::attention(m.exec, a);
    return values_of(out);
}

std::vector<Values> run_backward(Machine& m, const Case& c, const std::vector<Values>& in,
                                 const Values& up) {
    m.poison();
    Guarded q = placed(m.exec, in[0], c.tokens, c.width());
    Guarded k = placed(m.exec, in[1], c.tokens, c.kv_width());
    Guarded v = placed(m.exec, in[2], c.tokens, c.kv_width());
    Guarded dout = placed(m.exec, up, c.tokens, c.width());
    Guarded dq(m.exec.dtype(), c.tokens, c.width());
    Guarded dk(m.exec.dtype(), c.tokens, c.kv_width()), dv(m.exec.dtype(), c.tokens, c.kv_width());
    ops::AttentionGradient a;
    a.q = q.view(), a.k = k.view(), a.v = v.view(), a.dout = dout.view();
    a.dq = c.in_place ? dout.view() : dq.view(), a.dk = dk.view(), a.dv = dv.view();
    a.heads = c.heads, a.kv_heads = c.kv_heads, a.head_dim = c.dim;
    a.scale = c.scale(), a.window = c.window, a.softcap = c.softcap;
    // In a workspace of just the size that is told.
    const std::size_t bytes =
        ops::attention_backward_bytes(m.exec, c.tokens, c.heads, c.kv_heads, c.dim);
    const std::size_t spare = m.workspace.capacity() - bytes;
    (void)m.workspace.take(spare & ~std::size_t{63});
    ops::attention_backward(m.exec, a);
    m.workspace.rewind(0);
    return {values_of(c.in_place ? dout : dq), values_of(dk), values_of(dv)};
}

Operation operation(const Case& c) {
    Operation op;
    op.inputs = {random_values(11, c.tokens * c.width()),
                 random_values(12, c.tokens * c.kv_width()),
                 random_values(13, c.tokens * c.kv_width())};
    op.forward = [c](Machine& m, const std::vector<Values>& in) { return run_forward(m, c, in); };
    op.backward = [c](Machine& m, const std::vector<Values>& in, const Values& up) {
        return run_backward(m, c, in, up);
    };
    return op;
}

// What the gradients would be if nothing cancelled, times the relative error of one product of each
// sum: a score is off by `score`, so a probability by that much; a p or a ds by `rounding`.
std::vector<Values> bounds(const Case& c, const std::vector<Values>& in, const Values& dout,
                           double rounding) {
    std::vector<Values> out = {Values(in[0].size()), Values(in[1].size()), Values(in[2].size())};
    for (std::int64_t h = 0; h < c.heads; ++h) {
        const std::int64_t kv = h * c.kv_heads / c.heads;
        for (std::int64_t t = 0; t < c.tokens; ++t) {
            const double* q = &in[0][static_cast<std::size_t>(t * c.width() + h * c.dim)];
            const double* d = &dout[static_cast<std::size_t>(t * c.width() + h * c.dim)];
            const std::int64_t n = t + 1 - c.first_key(t);
            Values p(static_cast<std::size_t>(n)), dp(p.size());
            double sum = 0, mean = 0, largest = 0;
            for (std::int64_t i = 0; i < n; ++i) {
                const auto at =
                    static_cast<std::size_t>((c.first_key(t) + i) * c.kv_width() + kv * c.dim);
                double score = 0, size = 0, slope = 0;
                for (int e = 0; e < c.dim; ++e) {
                    score += q[e] * in[1][at + static_cast<std::size_t>(e)];
                    size += std::abs(q[e] * in[1][at + static_cast<std::size_t>(e)]);
                    slope += std::abs(d[e] * in[2][at + static_cast<std::size_t>(e)]);
                }
                score *= c.scale(), largest = std::max(largest, size * c.scale());
                if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
                const auto u = static_cast<std::size_t>(i);
                p[u] = std::exp(score), dp[u] = slope;
                sum += p[u], mean += p[u] * slope;
            }
            const double error = rounding + 4 * kEpsilon *
                                                (std::sqrt(c.dim) * largest + 8 + c.softcap +
                                                 std::sqrt(static_cast<double>(n)));
            for (std::int64_t i = 0; i < n; ++i) {
                const auto u = static_cast<std::size_t>(i);
                const auto at =
                    static_cast<std::size_t>((c.first_key(t) + i) * c.kv_width() + kv * c.dim);
                const double weight = error * p[u] / sum;
                const double ds = weight * (dp[u] + mean / sum) * c.scale();
                for (int e = 0; e < c.dim; ++e) {
                    const auto o = static_cast<std::size_t>(e);
                    out[0][static_cast<std::size_t>(t * c.width() + h * c.dim) + o] +=
                        ds * std::abs(in[1][at + o]) + 1e-9;
                    out[1][at + o] += ds * std::abs(q[e]) + 1e-9;
                    out[2][at + o] += weight * std::abs(d[e]) + 1e-9;
                }
            }
        }
    }
    return out;
}

void check_case(const Case& c) {
    CAPTURE(c.tokens);
    CAPTURE(c.heads);
    CAPTURE(c.dim);
    CAPTURE(c.window);
    CAPTURE(c.softcap);
    Operation op = operation(c);
    if (c.tokens > 1000) op.workspace_bytes = std::size_t{16} << 20;
    Values dout = random_values(14, c.tokens * c.width());
    const auto machine = oracle();
    check_levels(op, dout, op.backward(*machine, op.inputs, dout), bounds(c, op.inputs, dout, 0));
    // With operands that are BF16 already only p and ds are rounded, by at most 2^-8 each.
    const auto round = [](Values& v) {
        for (double& x : v)
            x = static_cast<double>(bf16_to_f32(f32_to_bf16(static_cast<float>(x))));
    };
    for (Values& v : op.inputs) round(v);
    round(dout);
    check_levels(op, dout, op.backward(*machine, op.inputs, dout),
                 bounds(c, op.inputs, dout, 0x1p-8), Activations::kBf16);
}

}  // namespace

TEST_CASE("attention_backward is the derivative of attention") {
    check_differences(operation({6, 1, 1, 4}));
    check_differences(operation({7, 4, 2, 3}));
    check_differences(operation({9, 2, 1, 4, 3}));
    check_differences(operation({6, 2, 2, 4, 0, 1.5}));
    check_differences(operation({8, 3, 1, 5, 4, 2.0, true}));
}

TEST_CASE("attention_backward: lengths around the block, dims and groups") {
    check_case({1, 1, 1, 8});
    check_case({5, 3, 1, 8});
    check_case({127, 2, 1, 64});
    check_case({128, 1, 1, 64, 0, 0, true});
    check_case({150, 4, 2, 16});
    check_case({20, 2, 1, 256});
    check_case({0, 2, 1, 8});
    check_case({2100, 1, 1, 8});
}

TEST_CASE("attention_backward: windows and softcap") {
    check_case({140, 2, 1, 16, 1});
    check_case({290, 1, 1, 8, 100});
    check_case({40, 2, 1, 32, 500, 5.0});
    check_case({135, 4, 1, 8, 60, 2.0, true});
}
