// SPDX-License-Identifier: Apache-2.0
// Rows of weights to blocks: the encoders of kernels/encode with this level's vectors.
#include "kernels/encode/all.h"

#include "kernels/cpu/kernels.h"
#include "kernels/encode/groups.h"

namespace thimble::cpu::THIMBLE_ISA {
namespace {

template <LayoutId id>
void encode_each(const float* weights, const float* importance, std::int64_t count, void* out) {
    using L = Layout<id>;
    auto* blocks = static_cast<typename L::Block*>(out);
    for (std::int64_t b = 0; b < count; ++b) {
        const std::int64_t at = b * L::kElements;
        encode::THIMBLE_ISA::encode_block(weights + at, importance ? importance + at : nullptr,
                                          blocks[b]);
    }
}

}  // namespace

// `count` blocks of one row; importance: null or one value per weight. Only layouts of
// encoders.def.
void encode_blocks(LayoutId layout, const float* weights, const float* importance,
                   std::int64_t count, void* out) {
    switch (layout) {
#define THIMBLE_ENCODER(id) \
    case LayoutId::k_##id:  \
        return encode_each<LayoutId::k_##id>(weights, importance, count, out);
#include "kernels/encode/encoders.def"
#undef THIMBLE_ENCODER
        default:
            break;
    }
}

void search_scales(encode::ScaleSearch& fit) { encode::THIMBLE_ISA::search_scales(fit); }

}  // namespace thimble::cpu::THIMBLE_ISA
