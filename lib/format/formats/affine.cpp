// SPDX-License-Identifier: Apache-2.0
// affine: integer codes with a scale and a zero point per group, as GPTQ, AWQ and
// compressed-tensors checkpoints hold them.
#include "format/plane_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_affine;
    using L = Layout<kLayout>;

    static FormatInfo info() {
        return {.name = "affine",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = 4.25,  // 4 bits, groups of 128
                .encodes = false};
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, n = 0;
        form.planes.resize(L::kPlanes);
        if (shape.cols % L::kElements != 0) picker.fail("codes", columns(shape));
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = static_cast<std::int32_t>(8 * bytes / shape.cols);
        const bool known = form.params.bits == 2 || form.params.bits == 3 ||
                           form.params.bits == 4 || form.params.bits == 8;
        if (!known || form.params.bits * shape.cols != 8 * bytes) {
            picker.fail("codes", "has rows of " + std::to_string(bytes) + " bytes for " +
                                     std::to_string(shape.cols) +
                                     " columns; 2, 3, 4 and 8 bits each are known");
        }
        form.planes[L::kScales] =
            picker.rows("scales", {DType::kF32, DType::kF16, DType::kBF16}, groups);
        const DType scale = form.planes[L::kScales].dtype;
        form.params.scale = scale == DType::kF16    ? ScaleType::kF16
                            : scale == DType::kBF16 ? ScaleType::kBF16
                                                    : ScaleType::kF32;
        if (picker.has("zeros")) {
            form.planes[L::kZeros] = picker.rows("zeros", {DType::kU8}, n);
            if (n != groups) picker.fail("zeros", "has not one value for each scale");
        }
        if (picker.has("groups")) {
            form.planes[L::kGroups] = picker.table("groups", {DType::kI16}, n);
            if (n != shape.cols) picker.fail("groups", "has not one value for each column");
            return form;
        }
        form.params.group = static_cast<std::int32_t>(shape.cols / groups);
        if (form.params.group * groups != shape.cols || form.params.group % L::kElements != 0) {
            picker.fail("scales", "has " + std::to_string(groups) + " groups for " +
                                      std::to_string(shape.cols) +
                                      " columns; groups are multiples of 32 columns");
        }
        return form;
    }

    static std::string columns(Shape2 shape) {
        return "belongs to rows of " + std::to_string(shape.cols) +
               " columns, which is not a multiple of 32";
    }
    static std::int64_t groups_of(const PackedView& m) {
        const std::size_t size = m.params.scale == ScaleType::kF32 ? 4 : 2;
        return static_cast<std::int64_t>(m.planes[L::kScales].row_bytes / size);
    }

    static void verify_tables(const PackedView& m) {
        const auto* groups = static_cast<const std::uint16_t*>(m.packed_row(0).planes[L::kGroups]);
        if (groups == nullptr) return;
        for (std::int64_t k = 0; k < m.shape.cols; ++k) {
            if (groups[k] >= groups_of(m)) {
                PlanePicker::fail("groups", "names group " + std::to_string(groups[k]) + " of " +
                                                std::to_string(groups_of(m)) + " for column " +
                                                std::to_string(k));
            }
        }
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        for (std::int64_t g = 0; g < groups_of(m); ++g) {
            if (!std::isfinite(L::scale_at(row, g)))
                throw_bad_group(info(), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_affine() {
    return std::make_unique<PlaneFormat<Codec>>();
}

}  // namespace thimble
