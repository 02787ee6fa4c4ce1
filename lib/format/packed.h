// SPDX-License-Identifier: Apache-2.0
// A weight matrix in some packed layout: shape plus planes of bytes. Its size is the sum of its
// planes, never bits times elements.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/layout/layout.h"
#include "tensor/dtype.h"
#include "tensor/view.h"

namespace thimble {

// [rows, cols] = [out features, in features]; blocks run along a row.
struct Shape2 {
    std::int64_t rows = 0, cols = 0;
    friend bool operator==(const Shape2&, const Shape2&) = default;
};

// One plane: `row_bytes` bytes per matrix row at data + r * row_bytes, or one table for the whole
// matrix when row_bytes == 0.
struct PlaneView {
    const std::byte* data = nullptr;
    std::size_t row_bytes = 0;
    std::size_t bytes = 0;
};

namespace ops {
class CodedMatrix;
}

// Borrowed; whoever made it (a Lease, a Buffer, a mapped file) keeps the bytes alive.
struct PackedView {
    LayoutId layout = LayoutId::k_f32;
    Shape2 shape;
    std::array<PlaneView, kMaxPlanes> planes{};  // one without bytes is not there
    int n_planes = 0;
    LayoutParams params = {};
    // Where this is set, rows are decoded when they are wanted (ops/exponents.h): planes have no
    // data, and their bytes are those of the codes.
    const ops::CodedMatrix* coded = nullptr;
    std::int64_t coded_first = 0;  // the first row, of the coded matrix

    [[nodiscard]] const std::byte* row(std::int64_t r, int plane = 0) const noexcept {
        const PlaneView& p = planes[static_cast<std::size_t>(plane)];
        return p.data + static_cast<std::size_t>(r) * p.row_bytes;
    }
    // Row r of every plane, as the kernels take it.
    [[nodiscard]] PackedRow packed_row(std::int64_t r) const noexcept {
        PackedRow out{{}, params};
        for (int i = 0; i < n_planes; ++i) out.planes[i] = row(r, i);
        return out;
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        std::size_t sum = 0;
        for (int i = 0; i < n_planes; ++i) sum += planes[static_cast<std::size_t>(i)].bytes;
        return sum;
    }
    // Rows [range.first, range.first + range.count) of a row-sliceable layout.
    [[nodiscard]] PackedView slice_rows(RowRange range) const noexcept;
};

// What a format stores for a matrix, known before any row is encoded or read.
struct PlaneInfo {
    std::string name;  // "" for the single plane of a ggml block type
    DType dtype = DType::kU8;
    std::vector<std::uint64_t> dims;
    std::size_t row_bytes = 0;  // 0: a table for the whole matrix
    std::size_t bytes = 0;      // 0: not there
};

// How one matrix is stored: its layout, what that leaves open, and its planes in the layout's
// order. Rows in memory are plane after plane, each at a multiple of 64 bytes.
struct PackedForm {
    LayoutId layout = LayoutId::k_f32;
    LayoutParams params = {};
    std::vector<PlaneInfo> planes;

    // `rows` rows of one plane, or its table.
    [[nodiscard]] std::size_t plane_bytes(std::size_t plane, std::int64_t rows) const noexcept {
        const PlaneInfo& p = planes[plane];
        return p.row_bytes == 0 ? p.bytes : p.row_bytes * static_cast<std::size_t>(rows);
    }
    // Where plane `plane` begins when `rows` rows are in memory; with planes.size(), the end.
    [[nodiscard]] std::size_t plane_offset(std::size_t plane, std::int64_t rows) const noexcept;
    [[nodiscard]] std::size_t bytes(std::int64_t rows) const noexcept {
        return plane_offset(planes.size(), rows);
    }
    [[nodiscard]] PackedView view(Shape2 shape, const std::byte* data) const noexcept;
};

}  // namespace thimble
