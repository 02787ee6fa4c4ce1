// SPDX-License-Identifier: Apache-2.0
// Principal components of vectors: mean, the covariance's eigenvectors by falling eigenvalue
// ("On lines and planes of closest fit to systems of points in space", 1901).
#pragma once

#include <functional>
#include <span>

#include "core/team.h"
#include "kernels/layout/isa.h"
#include "tensor/buffer.h"

namespace thimble {

// Gives the vectors from the first, a piece at a time: fn(rows), rows: [n, dims], which fn may
// change; may be called anew. The pieces' borders do not change.
using EachVectors = std::function<void(const std::function<void(std::span<float>)>& fn)>;

class PrincipalComponents {
  public:
    // Of the vectors, of at least one. Sums are in double precision, products within a piece in
    // single.
    PrincipalComponents(std::int64_t dims, std::int64_t most_rows, const EachVectors& vectors,
                        Team& team, Isa isa);
    // As a file has them, to be filled.
    PrincipalComponents(std::int64_t dims, std::int64_t kept);

    [[nodiscard]] std::int64_t dims() const noexcept { return dims_; }
    [[nodiscard]] std::int64_t kept() const noexcept { return kept_; }
    [[nodiscard]] std::span<float> mean() noexcept { return mean_.span<float>(); }
    [[nodiscard]] std::span<float> basis() noexcept {
        return basis_.span<float>();
    }  // [kept, dims]
    [[nodiscard]] std::span<float> variances() noexcept { return variances_.span<float>(); }
    [[nodiscard]] std::span<const float> mean() const noexcept { return floats_of(mean_); }
    [[nodiscard]] std::span<const float> basis() const noexcept { return floats_of(basis_); }
    [[nodiscard]] std::span<const float> variances() const noexcept {
        return floats_of(variances_);
    }
    // Of the covariance's diagonal, in double precision: the sum of all eigenvalues, but for
    // rounding.
    [[nodiscard]] double total_variance() const noexcept { return total_variance_; }

    // The part of the variance that `kept` directions hold.
    [[nodiscard]] double explained(std::int64_t kept) const noexcept;
    // out = basis (x - mean), or basis x, of the first `count` directions; x: [rows, dims],
    // changed, readable for kScanPadding floats more; out: [rows, padded_dims(count)], padded with
    // zeros.
    void project(float* x, std::int64_t rows, bool centred, std::int64_t count, float* out,
                 Team& team, Isa isa) const;
    // out = mean + basis^T z; z: [rows, kept], out: [rows, dims].
    void restore(const float* z, std::int64_t rows, float* out, Team& team) const;

    // What training holds at its peak, and what stays.
    [[nodiscard]] static std::uint64_t training_bytes(std::int64_t dims, std::int64_t most_rows);
    [[nodiscard]] static std::uint64_t resident_bytes(std::int64_t dims, std::int64_t kept);

  private:
    static std::span<const float> floats_of(const Buffer& buffer) noexcept {
        return {buffer.as<float>(), buffer.bytes() / sizeof(float)};
    }
    std::int64_t dims_, kept_;
    Buffer mean_, basis_, variances_;
    double total_variance_ = 0;
};

}  // namespace thimble
