// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "harness.h"
#include "kernels/ref/gradients.h"

namespace thimble::cuda_test {
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
constexpr std::int64_t kGap = 4;  // columns behind each row

struct Inputs {
    std::vector<float> q, k, v, dout;
};

// dq, dk, dv, one after the other, without gaps.
std::vector<float> run(const Case& c, const Inputs& in) {
    const std::int64_t stride = c.width() + kGap, kv_stride = c.kv_width() + kGap;
    return run_all_orders([&] {
        const Array<float> q(in.q), k(in.k), v(in.v), dout(in.dout), dq(in.q.size()),
            dk(in.k.size()), dv(in.v.size()),
            stats(static_cast<std::size_t>(2 * c.heads * c.tokens));
        const Array<float>& to = c.in_place ? dout : dq;
        const cuda::AttentionBackward problem{.q = q.data(),
                                              .k = k.data(),
                                              .v = v.data(),
                                              .dout = dout.data(),
                                              .dq = to.data(),
                                              .dk = dk.data(),
                                              .dv = dv.data(),
                                              .tokens = c.tokens,
                                              .q_stride = stride,
                                              .k_stride = kv_stride,
                                              .v_stride = kv_stride,
                                              .dout_stride = stride,
                                              .dq_stride = stride,
                                              .dk_stride = kv_stride,
                                              .dv_stride = kv_stride,
                                              .heads = c.heads,
                                              .kv_heads = c.kv_heads,
                                              .head_dim = c.dim,
                                              .scale = static_cast<float>(c.scale()),
                                              .softcap = static_cast<float>(c.softcap),
                                              .window = c.window,
                                              .stats = stats.data()};
        REQUIRE(cuda::supports_attention_backward(problem));
        cuda::attention_backward(problem, stream());
        std::vector<float> out;
        const auto take = [&](const Array<float>& from, std::int64_t width) {
            const std::vector<float> all = from.get();
            for (std::int64_t t = 0; t < c.tokens; ++t) {
                const auto row = all.begin() + t * (width + kGap);
                out.insert(out.end(), row, row + width);
            }
        };
        take(to, c.width()), take(dk, c.kv_width()), take(dv, c.kv_width());
        return out;
    });
}

// What they should be, and what they would be if nothing cancelled, times the relative error of a
// probability: a score is off by its products' roundings, exp by that of its argument.
struct Expected {
    std::vector<double> value, bound;
};

Expected expect(const Case& c, const Inputs& in) {
    const std::int64_t stride = c.width() + kGap, kv_stride = c.kv_width() + kGap;
    const auto n = static_cast<std::size_t>(c.tokens * c.width());
    const auto m = static_cast<std::size_t>(c.tokens * c.kv_width());
    const auto doubles = [](const std::vector<float>& v) {
        return std::vector<double>(v.begin(), v.end());
    };
    const std::vector<double> q = doubles(in.q), k = doubles(in.k), v = doubles(in.v),
                              dout = doubles(in.dout);
    Expected out = {std::vector<double>(n + 2 * m), std::vector<double>(n + 2 * m)};
    for (std::int64_t h = 0; h < c.heads; ++h) {
        const std::int64_t kv = h * c.kv_heads / c.heads;
        const auto row = [&](const std::vector<double>& of) {
            return [&of, &c, kv, kv_stride](std::int64_t s) {
                return of.data() + s * kv_stride + kv * c.dim;
            };
        };
        const auto to = [&](std::vector<double>& of, std::size_t first) {
            return [&of, &c, kv, first](std::int64_t s) {
                return of.data() + first + static_cast<std::size_t>(s * c.kv_width() + kv * c.dim);
            };
        };
        for (std::int64_t t = 0; t < c.tokens; ++t) {
            const double* query = q.data() + t * stride + h * c.dim;
            const double* up = dout.data() + t * stride + h * c.dim;
            const auto at = static_cast<std::size_t>(t * c.width() + h * c.dim);
            ref::attend_backward(query, up, c.first_key(t), t + 1, c.dim, c.scale(), c.softcap,
                                 row(k), row(v), to(out.value, n), to(out.value, n + m),
                                 out.value.data() + at);
            // Of magnitudes: with sums of absolute products in the place of dp and its mean.
            double sum = 0, mean = 0, largest = 0;
            std::vector<double> p, dp;
            for (std::int64_t s = c.first_key(t); s <= t; ++s) {
                double score = 0, size = 0, slope = 0;
                for (int e = 0; e < c.dim; ++e) {
                    score += query[e] * row(k)(s)[e];
                    size += std::abs(query[e] * row(k)(s)[e]);
                    slope += std::abs(up[e] * row(v)(s)[e]);
                }
                score *= c.scale(), largest = std::max(largest, size * c.scale());
                if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
                p.push_back(std::exp(score)), dp.push_back(slope);
                sum += p.back(), mean += p.back() * slope;
            }
            const double error =
                4 * 0x1p-24 * (largest + 8 + c.softcap + std::sqrt(static_cast<double>(t + 1)));
            for (std::int64_t s = c.first_key(t); s <= t; ++s) {
                const auto u = static_cast<std::size_t>(s - c.first_key(t));
                const double weight = error * p[u] / sum;
                const double ds = weight * (dp[u] + mean / sum) * c.scale();
                for (int e = 0; e < c.dim; ++e) {
                    out.bound[at + static_cast<std::size_t>(e)] += ds * std::abs(row(k)(s)[e]);
                    to(out.bound, n)(s)[e] += ds * std::abs(query[e]);
                    to(out.bound, n + m)(s)[e] += weight * std::abs(up[e]);
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
    const auto n = static_cast<std::size_t>(c.tokens * (c.width() + kGap));
    const auto m = static_cast<std::size_t>(c.tokens * (c.kv_width() + kGap));
    const Inputs in = {values(n, 1), values(m, 2), values(m, 3), values(n, 4)};
    const std::vector<float> got = run(c, in);
    const Expected want = expect(c, in);
    REQUIRE(got.size() == want.value.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double difference = std::abs(static_cast<double>(got[i]) - want.value[i]);
        if (difference <= want.bound[i] + 1e-9) continue;  // NaN is no less
        CAPTURE(i);
        CAPTURE(got[i]);
        CAPTURE(want.value[i]);
        CHECK(difference <= want.bound[i] + 1e-9);
        return;
    }
}

}  // namespace

void check_attention_backward() {
    check_case({0, 2, 1, 8});
    check_case({1, 1, 1, 4});
    check_case({5, 3, 1, 8});
    check_case({33, 4, 2, 20, 0, 0, true});
    check_case({70, 2, 1, 64, 9});
    check_case({40, 2, 2, 96, 33, 2.0, true});
    check_case({20, 1, 1, 256, 0, 5.0});
    cuda::AttentionBackward problem{};
    problem.heads = problem.kv_heads = 1, problem.head_dim = 256;
    CHECK(cuda::supports_attention_backward(problem));
    problem.head_dim = 260;
    CHECK_FALSE(cuda::supports_attention_backward(problem));
    problem.head_dim = 6;
    CHECK_FALSE(cuda::supports_attention_backward(problem));
}

}  // namespace thimble::cuda_test
