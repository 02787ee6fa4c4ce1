// SPDX-License-Identifier: Apache-2.0
// nf4: 4-bit codes into a table of 16 values, as bitsandbytes checkpoints hold them (fp4 has
// another table).
#include "format/plane_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_nf4;
    using L = Layout<kLayout>;

    static FormatInfo info() {
        return {.name = "nf4",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = 4.5,  // groups of 64, peaks not nested
                .encodes = false};
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, values = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.params.bits = 4;
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        if (shape.cols % L::kElements != 0 || 2 * bytes != shape.cols) {
            picker.fail("codes", "has rows of " + std::to_string(bytes) + " bytes for " +
                                     std::to_string(shape.cols) +
                                     " columns; expected half as many, and a multiple of 16");
        }
        form.planes[L::kPeaks] = picker.rows("peaks", {DType::kF32, DType::kU8}, groups);
        form.params.group = static_cast<std::int32_t>(shape.cols / groups);
        if (form.params.group * groups != shape.cols || form.params.group % L::kElements != 0) {
            picker.fail("peaks", "has " + std::to_string(groups) + " groups for " +
                                     std::to_string(shape.cols) +
                                     " columns; groups are multiples of 32 columns");
        }
        const bool nested = form.planes[L::kPeaks].dtype == DType::kU8;
        form.params.scale = nested ? ScaleType::kNested : ScaleType::kF32;
        form.planes[L::kValues] = picker.table("values", {DType::kF32}, values);
        if (values != (nested ? 16 + 256 : 16)) {
            picker.fail("values", "has " + std::to_string(values) + " elements, expected 16" +
                                      (nested ? " and the 256 of the nested peaks" : ""));
        }
        if (!nested) return form;
        form.planes[L::kOrigin] = picker.rows("origin", {DType::kI32}, n);
        if (n != 1) picker.fail("origin", "has not one value for each row");
        form.planes[L::kNested] = picker.table("nested", {DType::kF32}, n);
        if (n < 2) picker.fail("nested", "needs an offset and at least one scale");
        return form;
    }

    static void verify_tables(const PackedView& m) {
        for (const int p : {L::kValues, L::kNested}) {
            const auto& plane = m.planes[static_cast<std::size_t>(p)];
            const auto* values = reinterpret_cast<const float*>(plane.data);
            for (std::size_t i = 0; i < plane.bytes / sizeof(float); ++i) {
                if (!std::isfinite(values[i])) {
                    PlanePicker::fail(p == L::kValues ? "values" : "nested",
                                      "has NaN or an infinity at " + std::to_string(i));
                }
            }
        }
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        const std::int64_t groups = m.shape.cols / m.params.group;
        if (m.params.scale == ScaleType::kNested) {
            const std::int64_t scales =
                static_cast<std::int64_t>(m.planes[L::kNested].bytes / sizeof(float)) - 1;
            const std::int64_t first = static_cast<const std::int32_t*>(row.planes[L::kOrigin])[0];
            if (first < 0 || first + groups > scales * L::kNestedGroup)
                throw_bad_group(info(), reported, 0, "a nested scale outside the table");
        }
        for (std::int64_t g = 0; g < groups; ++g) {
            if (!std::isfinite(L::peak_at(row, g)))
                throw_bad_group(info(), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_nf4() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
