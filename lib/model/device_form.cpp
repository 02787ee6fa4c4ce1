// SPDX-License-Identifier: Apache-2.0
#include "model/device_form.h"

#include "kernels/layout/affine.h"
#include "kernels/layout/q4_0.h"
#include "kernels/layout/q8_0.h"

namespace thimble {
namespace {

using Q8 = Layout<LayoutId::k_q8_0>;
using Q4 = Layout<LayoutId::k_q4_0>;
constexpr std::int32_t kGroup = 32;

// Codes that count from 0, in the order of columns.
void write_codes(const Q8::Block& block, std::uint8_t* out) {
    for (int i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(block.codes[i] + 128);
}
void write_codes(const Q4::Block& block, std::uint8_t* out) {
    for (int i = 0; i < 8; ++i) {  // columns 2 i, 2 i + 1, and the same 16 on
        const unsigned a = block.codes[2 * i], b = block.codes[2 * i + 1];
        out[i] = static_cast<std::uint8_t>((a & 15u) | (b & 15u) << 4);
        out[i + 8] = static_cast<std::uint8_t>(a >> 4 | (b >> 4) << 4);
    }
}

template <class L>
void split(const Exec& exec, const PackedView& stored, const PackedView& to) {
    const std::int64_t blocks = stored.shape.cols / L::kElements;
    const auto code_bytes = to.planes[0].row_bytes / static_cast<std::size_t>(blocks);
    exec.team->run(stored.shape.rows, 64, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
            const auto* from = reinterpret_cast<const typename L::Block*>(stored.row(r));
            auto* codes = reinterpret_cast<std::uint8_t*>(const_cast<std::byte*>(to.row(r, 0)));
            auto* scales = reinterpret_cast<std::uint16_t*>(const_cast<std::byte*>(to.row(r, 1)));
            for (std::int64_t b = 0; b < blocks; ++b) {
                write_codes(from[b], codes + static_cast<std::size_t>(b) * code_bytes);
                scales[b] = from[b].d;
            }
        }
    });
}

}  // namespace

PackedForm device_form(const SourceTensor& tensor) {
    const LayoutId layout = tensor.layout();
    if (layout != LayoutId::k_q8_0 && layout != LayoutId::k_q4_0) return tensor.form;
    const auto cols = static_cast<std::size_t>(tensor.cols());
    const auto rows = static_cast<std::size_t>(tensor.rows());
    PackedForm form;
    form.layout = LayoutId::k_affine;
    form.params = {layout == LayoutId::k_q8_0 ? 8 : 4, kGroup, ScaleType::kF16};
    form.planes.resize(Layout<LayoutId::k_affine>::kPlanes);
    const auto plane = [&](int i, std::size_t row_bytes) {
        PlaneInfo& p = form.planes[static_cast<std::size_t>(i)];
        p.row_bytes = row_bytes, p.bytes = rows * row_bytes;
    };
    plane(Layout<LayoutId::k_affine>::kCodes,
          cols * static_cast<std::size_t>(form.params.bits) / 8);
    plane(Layout<LayoutId::k_affine>::kScales, cols / kGroup * sizeof(std::uint16_t));
    return form;
}

PackedView to_device_form(const Exec& exec, const PackedView& stored, const PackedForm& form,
                          std::byte* out) {
    if (stored.layout == form.layout) return stored;
    const PackedView view = form.view(stored.shape, out);
    if (stored.layout == LayoutId::k_q8_0) {
        split<Q8>(exec, stored, view);
    } else {
        split<Q4>(exec, stored, view);
    }
    return view;
}

}  // namespace thimble
