// SPDX-License-Identifier: Apache-2.0
#include "compress/principal.h"

#include <algorithm>
#include <vector>

#include "calib/eigen.h"
#include "core/error.h"
#include "ops/scan.h"

namespace thimble {
namespace {

Buffer floats(std::int64_t count) {
    return {static_cast<std::size_t>(count) * sizeof(float), Purpose::kOther};
}
std::uint64_t float_bytes(std::int64_t count) {
    return Buffer::charged_bytes(static_cast<std::size_t>(count) * sizeof(float));
}
std::uint64_t covariance_bytes(std::int64_t dims) {
    return Buffer::charged_bytes(static_cast<std::size_t>(dims * dims) * sizeof(double));
}
const std::uint8_t* bytes_of_floats(const Buffer& buffer) { return buffer.as<std::uint8_t>(); }

// out[d][r] = x[r][d] - mean[d]; out: [dims, stride], zero behind the rows.
void transpose_centred(const float* x, std::int64_t rows, std::span<const double> mean,
                       std::int64_t stride, float* out) {
    constexpr std::int64_t kTile = 32;
    const auto dims = std::ssize(mean);
    for (std::int64_t r0 = 0; r0 < rows; r0 += kTile) {
        for (std::int64_t d = 0; d < dims; ++d) {
            for (std::int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) {
                out[d * stride + r] = static_cast<float>(static_cast<double>(x[r * dims + d]) -
                                                         mean[static_cast<std::size_t>(d)]);
            }
        }
    }
    for (std::int64_t d = 0; d < dims; ++d)
        std::fill(out + d * stride + rows, out + (d + 1) * stride, 0.0f);
}

// covariance: [dims, dims]
void add_products(std::span<const double> mean, std::int64_t most_rows, const EachVectors& vectors,
                  std::span<double> covariance, Team& team, Isa isa) {
    const auto dims = std::ssize(mean);
    const std::int64_t most = ops::padded_dims(most_rows);
    Buffer transposed = floats(dims * most), product = floats(dims * dims);
    vectors([&](std::span<float> x) {
        const std::int64_t rows = std::ssize(x) / dims, stride = ops::padded_dims(rows);
        transpose_centred(x.data(), rows, mean, stride, transposed.as<float>());
        ops::scan_codes(team, isa,
                        {.code = VectorCode::kF32,
                         .codes = bytes_of_floats(transposed),
                         .rows = dims,
                         .dims = stride,
                         .queries = transposed.as<float>(),
                         .n_queries = dims,
                         .query_stride = stride,
                         .scores = product.as<float>(),
                         .score_stride = dims});
        const float* const p = product.as<float>();
        for (std::size_t i = 0; i < covariance.size(); ++i)
            covariance[i] += static_cast<double>(p[i]);
    });
}

}  // namespace

PrincipalComponents::PrincipalComponents(std::int64_t dims, std::int64_t kept)
    : dims_(dims),
      kept_(kept),
      mean_(floats(dims)),
      basis_(floats(dims * kept)),
      variances_(floats(kept)) {}

PrincipalComponents::PrincipalComponents(std::int64_t dims, std::int64_t most_rows,
                                         const EachVectors& vectors, Team& team, Isa isa)
    : dims_(dims), kept_(dims), mean_(floats(dims)), variances_(floats(dims)) {
    const auto n = static_cast<std::size_t>(dims);
    std::vector<double> mean(n), values(n);
    std::int64_t rows = 0;
    vectors([&](std::span<float> x) {
        for (std::size_t i = 0; i < x.size(); ++i) mean[i % n] += static_cast<double>(x[i]);
        rows += std::ssize(x) / dims;
    });
    if (rows == 0) throw Error(Exit::kFailure, "PrincipalComponents", "there are no vectors");
    for (double& m : mean) m /= static_cast<double>(rows);

    Buffer memory(n * n * sizeof(double), Purpose::kOther);
    const std::span<double> covariance = memory.span<double>();
    std::fill(covariance.begin(), covariance.end(), 0.0);
    add_products(mean, most_rows, vectors, covariance, team, isa);
    for (double& c : covariance) c /= static_cast<double>(rows);
    for (std::size_t i = 0; i < n; ++i) total_variance_ += covariance[i * n + i];
    symmetric_eigen(covariance, values);

    basis_ = floats(dims * dims);
    const auto narrow = [](double v) { return static_cast<float>(v); };
    std::transform(covariance.begin(), covariance.end(), basis_.as<float>(), narrow);
    std::transform(mean.begin(), mean.end(), mean_.as<float>(), narrow);
    // Rounding may take the least ones below zero.
    std::transform(values.begin(), values.end(), variances_.as<float>(),
                   [](double v) { return static_cast<float>(std::max(v, 0.0)); });
}

double PrincipalComponents::explained(std::int64_t kept) const noexcept {
    double sum = 0;
    for (std::int64_t i = 0; i < kept; ++i) sum += static_cast<double>(variances_.as<float>()[i]);
    return total_variance_ > 0 ? std::min(1.0, sum / total_variance_) : 1;
}

void PrincipalComponents::project(float* x, std::int64_t rows, bool centred, std::int64_t count,
                                  float* out, Team& team, Isa isa) const {
    const float* const mean = mean_.as<float>();
    if (centred) {
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t d = 0; d < dims_; ++d) x[r * dims_ + d] -= mean[d];
    }
    const std::int64_t stride = ops::padded_dims(count);
    ops::scan_codes(team, isa,
                    {.code = VectorCode::kF32,
                     .codes = bytes_of_floats(basis_),
                     .rows = count,
                     .dims = dims_,
                     .queries = x,
                     .n_queries = rows,
                     .query_stride = dims_,
                     .scores = out,
                     .score_stride = stride});
    for (std::int64_t r = 0; r < rows; ++r)
        std::fill(out + r * stride + count, out + (r + 1) * stride, 0.0f);
}

void PrincipalComponents::restore(const float* z, std::int64_t rows, float* out, Team& team) const {
    const float *const mean = mean_.as<float>(), *const basis = basis_.as<float>();
    team.run(rows, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            float* const x = out + r * dims_;
            std::copy_n(mean, dims_, x);
            for (std::int64_t k = 0; k < kept_; ++k) {
                const float factor = z[r * kept_ + k];
                const float* const direction = basis + k * dims_;
                for (std::int64_t d = 0; d < dims_; ++d) x[d] += factor * direction[d];
            }
        }
    });
}

std::uint64_t PrincipalComponents::training_bytes(std::int64_t dims, std::int64_t most_rows) {
    const std::uint64_t products =
        float_bytes(dims * ops::padded_dims(most_rows)) + float_bytes(dims * dims);
    const std::uint64_t solving = symmetric_eigen_bytes(static_cast<std::uint64_t>(dims));
    return covariance_bytes(dims) + std::max({products, solving, float_bytes(dims * dims)}) +
           2 * float_bytes(dims);
}

std::uint64_t PrincipalComponents::resident_bytes(std::int64_t dims, std::int64_t kept) {
    return float_bytes(dims * kept) + float_bytes(dims) + float_bytes(kept);
}

}  // namespace thimble
