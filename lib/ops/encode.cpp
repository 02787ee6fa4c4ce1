// SPDX-License-Identifier: Apache-2.0
#include "ops/encode.h"

#include "ops/dispatch.h"

namespace thimble::ops {
namespace {

bool has_kernel(LayoutId layout) {
    switch (layout) {
#define THIMBLE_ENCODER(id) case LayoutId::k_##id:
#include "kernels/encode/encoders.def"
#undef THIMBLE_ENCODER
        return true;
        default:
            return false;
    }
}

}  // namespace

std::unique_ptr<Encoder> encoder(Isa isa, const WeightFormat& format, Shape2 shape,
                                 EncodeOptions options) {
    if (has_kernel(format.info().layout)) options.blocks = kernels(isa).encode_blocks;
    options.fit = kernels(isa).search_scales;
    return format.encoder(shape, options);
}

void decode_rows(Isa isa, const PackedView& packed, RowRange range, View out) {
    require(out.dtype == DType::kF32 && out.rows == range.count && out.cols == packed.shape.cols,
            "decode_rows", "F32 rows of its width");
    for (std::int64_t r = 0; r < range.count; ++r)
        kernels(isa).decode_columns(packed.layout, packed.packed_row(range.first + r), 0,
                                    packed.shape.cols, out.row<float>(r));
}

}  // namespace thimble::ops
