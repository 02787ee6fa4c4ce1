// SPDX-License-Identifier: Apache-2.0
// Matrices of random codes in any stored layout, on the device and as the doubles they stand for.
#pragma once

#include <array>
#include <functional>
#include <memory>

#include "harness.h"

namespace thimble::cuda_test {

// What a plane layout leaves open, for a case of each kind.
struct PackedForm {
    LayoutId layout;
    LayoutParams params;
    bool zeros = false, groups = false;  // affine: with these planes
};
// Every stored layout; those of planes in each of their forms.
std::vector<PackedForm> packed_forms();

// How far decoded rows may be from these values: a few roundings of terms of their size.
double decoding_tolerance(const std::vector<double>& want);

class Packed {
  public:
    // cols: a multiple of the layout's elements and of the params' group.
    Packed(const PackedForm& form, std::int64_t rows, std::int64_t cols, std::uint32_t seed);
    // Puts the planes on the device, where they live as long as this does.
    [[nodiscard]] cuda::Matrix matrix() const;
    [[nodiscard]] std::vector<double> row(std::int64_t r) const;

  private:
    void add_plane(int plane, std::size_t row_bytes, std::vector<std::byte> bytes);
    void make_blocks(std::uint32_t seed);
    void make_affine(const PackedForm& form, std::uint32_t seed);
    void make_nf4(std::uint32_t seed);
    void make_groups(std::uint32_t seed);
    void make_sparse(std::uint32_t seed);

    cuda::Matrix shape_{};
    std::array<std::vector<std::byte>, kMaxPlanes> planes_;
    mutable std::array<std::unique_ptr<Array<std::byte>>, kMaxPlanes> device_;
};

}  // namespace thimble::cuda_test
