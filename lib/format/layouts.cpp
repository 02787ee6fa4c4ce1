// SPDX-License-Identifier: Apache-2.0
#include "kernels/layout/interleaved.h"

namespace thimble {

const LayoutInfo& layout_info(LayoutId id) {
    static constexpr LayoutInfo kTable[] = {
#define THIMBLE_LAYOUT(id) \
    {#id, Layout<LayoutId::k_##id>::kElements, sizeof(Layout<LayoutId::k_##id>::Block)},
#define THIMBLE_PLANES(id) {#id, Layout<LayoutId::k_##id>::kElements, 0},
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
#define THIMBLE_INTERLEAVED(stored, twin)                            \
    {#twin "_x16", Interleaved<LayoutId::k_##twin##_x16>::kElements, \
     sizeof(Interleaved<LayoutId::k_##twin##_x16>::Block), kGroupRows},
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
    };
    return kTable[static_cast<std::size_t>(id)];
}

}  // namespace thimble
