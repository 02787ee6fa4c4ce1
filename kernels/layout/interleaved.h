// SPDX-License-Identifier: Apache-2.0
// Every interleaved layout, and a call by LayoutId.
#pragma once

#include "kernels/layout/twins_of_blocks.h"
#include "kernels/layout/twins_of_planes.h"
#include "kernels/layout/twins_of_sparse.h"

namespace thimble {

// Calls fn(id) with the interleaved layout as a compile-time constant (id.value).
template <LayoutId id>
struct InterleavedId {
    static constexpr LayoutId value = id;
};
template <class Fn>
auto with_interleaved(LayoutId layout, Fn&& fn) {
    switch (layout) {
#define THIMBLE_INTERLEAVED(stored, twin) \
    case LayoutId::k_##twin##_x16:        \
        return fn(InterleavedId<LayoutId::k_##twin##_x16>{});
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
        default:
            break;
    }
    // Not reached: callers ask is_interleaved first.
    return fn(InterleavedId<LayoutId::k_f32_x16>{});
}

}  // namespace thimble
