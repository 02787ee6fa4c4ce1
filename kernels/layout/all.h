// SPDX-License-Identifier: Apache-2.0
// Every stored layout's header, and a call by LayoutId: the one place that turns the run-time
// identity into the compile-time Layout.
#pragma once

#include "kernels/layout/bf16.h"
#include "kernels/layout/f16.h"
#include "kernels/layout/f32.h"
#include "kernels/layout/iq4_nl.h"
#include "kernels/layout/iq4_xs.h"
#include "kernels/layout/mxfp4.h"
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
#include "kernels/layout/tq1_0.h"
#include "kernels/layout/tq2_0.h"

namespace thimble {

// Calls fn(Layout<id>{}) for the layout `id`; fn returns the same type for all.
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

}  // namespace thimble
