// SPDX-License-Identifier: Apache-2.0
#include "format/packed.h"

namespace thimble {

PackedView PackedView::slice_rows(RowRange range) const noexcept {
    PackedView slice = *this;
    slice.shape.rows = range.count;
    if (coded != nullptr) {
        slice.coded_first += range.first;
        return slice;
    }
    for (int i = 0; i < n_planes; ++i) {
        PlaneView& plane = slice.planes[static_cast<std::size_t>(i)];
        if (plane.row_bytes == 0) continue;  // a table for the whole matrix
        plane.data += static_cast<std::size_t>(range.first) * plane.row_bytes;
        plane.bytes = static_cast<std::size_t>(range.count) * plane.row_bytes;
    }
    return slice;
}

std::size_t PackedForm::plane_offset(std::size_t plane, std::int64_t rows) const noexcept {
    std::size_t at = 0;
    for (std::size_t i = 0; i < plane; ++i) {
        at += plane_bytes(i, rows);
        if (planes.size() > 1) at = (at + 63) & ~std::size_t{63};
    }
    return at;
}

PackedView PackedForm::view(Shape2 shape, const std::byte* data) const noexcept {
    PackedView out;
    out.layout = layout;
    out.params = params;
    out.shape = shape;
    out.n_planes = static_cast<int>(planes.size());
    for (std::size_t i = 0; i < planes.size(); ++i) {
        if (planes[i].bytes == 0) continue;
        out.planes[i] = {data + plane_offset(i, shape.rows), planes[i].row_bytes,
                         plane_bytes(i, shape.rows)};
    }
    return out;
}

}  // namespace thimble
