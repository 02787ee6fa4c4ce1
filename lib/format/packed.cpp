// SPDX-License-Identifier: Apache-2.0
#include "format/packed.h"

namespace thimble {

PackedView PackedView::slice_rows(RowRange range) const noexcept {
    PackedView slice = *this;
    slice.shape.rows = range.count;
    for (int i = 0; i < n_planes; ++i) {
        PlaneView& plane = slice.planes[static_cast<std::size_t>(i)];
        if (plane.row_bytes == 0) continue;  // a table for the whole matrix
        plane.data += static_cast<std::size_t>(range.first) * plane.row_bytes;
        plane.bytes = static_cast<std::size_t>(range.count) * plane.row_bytes;
    }
    return slice;
}

}  // namespace thimble
