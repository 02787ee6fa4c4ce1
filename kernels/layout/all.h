// SPDX-License-Identifier: Apache-2.0
// Every stored layout's header, and a call by LayoutId: the one place that turns the run-time
// identity into the compile-time Layout.
#pragma once

#include "kernels/layout/affine.h"
#include "kernels/layout/bf16.h"
#include "kernels/layout/bfp.h"
#include "kernels/layout/bipolar.h"
#include "kernels/layout/bitmod.h"
#include "kernels/layout/f16.h"
#include "kernels/layout/f32.h"
#include "kernels/layout/f64.h"
#include "kernels/layout/fp8.h"
#include "kernels/layout/iq1_m.h"
#include "kernels/layout/iq1_s.h"
#include "kernels/layout/iq2_s.h"
#include "kernels/layout/iq2_xs.h"
#include "kernels/layout/iq2_xxs.h"
#include "kernels/layout/iq3_s.h"
#include "kernels/layout/iq3_xxs.h"
#include "kernels/layout/iq4_nl.h"
#include "kernels/layout/iq4_xs.h"
#include "kernels/layout/jlcm.h"
#include "kernels/layout/mxfp4.h"
#include "kernels/layout/nf4.h"
#include "kernels/layout/nvfp4.h"
#include "kernels/layout/q2_k.h"
#include "kernels/layout/q3_k.h"
#include "kernels/layout/q4_0.h"
#include "kernels/layout/q4_1.h"
#include "kernels/layout/q4_k.h"
#include "kernels/layout/q5_0.h"
#include "kernels/layout/q5_1.h"
#include "kernels/layout/q5_k.h"
#include "kernels/layout/q6_k.h"
#include "kernels/layout/q8_0.h"
#include "kernels/layout/sparse.h"
#include "kernels/layout/tq1_0.h"
#include "kernels/layout/tq2_0.h"

namespace thimble {

// Calls fn(Layout<id>{}) for the layout of blocks `id`; fn returns the same type for all.
template <class Fn>
auto with_layout(LayoutId id, Fn&& fn) {
    switch (id) {
#define THIMBLE_LAYOUT(id) \
    case LayoutId::k_##id: \
        return fn(Layout<LayoutId::k_##id>{});
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        default:
            break;
    }
    return fn(Layout<LayoutId::k_f32>{});  // not reached: callers hold a stored layout
}

// Columns [first, first + count) of a row in any stored layout; both multiples of its kElements.
template <class Real>
void unpack_columns(LayoutId id, const PackedRow& row, std::int64_t first, std::int64_t count,
                    Real* out) {
    switch (id) {
#define THIMBLE_LAYOUT(id)
#define THIMBLE_PLANES(id) \
    case LayoutId::k_##id: \
        return Layout<LayoutId::k_##id>::unpack(row, first, count, out);
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
        default:
            break;
    }
    with_layout(id, [&](auto layout) {
        using L = decltype(layout);
        const auto* blocks = static_cast<const typename L::Block*>(row.planes[0]);
        for (std::int64_t k = 0; k < count; k += L::kElements)
            L::unpack(blocks[(first + k) / L::kElements], out + k);
    });
}

}  // namespace thimble
