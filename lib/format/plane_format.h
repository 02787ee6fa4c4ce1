// SPDX-License-Identifier: Apache-2.0
// What formats of several planes share: planes picked by name and checked against the matrix's
// shape, decoding by the layout's unpack.
#pragma once

#include <cmath>
#include <initializer_list>
#include <vector>

#include "core/error.h"
#include "format/block_format.h"
#include "kernels/layout/all.h"

namespace thimble {

// The stored planes of one matrix, taken one by one. Every failure is Error(kBadData) whose `where`
// is the plane.
class PlanePicker {
  public:
    PlanePicker(Shape2 shape, std::span<const PlaneInfo> planes)
        : shape_(shape), planes_(planes), taken_(planes.size(), false) {}

    // A plane of [rows, n] or a table of [n], n >= 1, in one of these types; `n` is set. An absent
    // one has no bytes.
    PlaneInfo rows(const char* name, std::initializer_list<DType> types, std::int64_t& n);
    PlaneInfo table(const char* name, std::initializer_list<DType> types, std::int64_t& n);
    [[nodiscard]] bool has(const char* name) const noexcept;
    // No plane is left over.
    void finish() const;

    [[noreturn]] static void fail(const char* plane, const std::string& what);

  private:
    const PlaneInfo* take(const char* name, std::initializer_list<DType> types);

    Shape2 shape_;
    std::span<const PlaneInfo> planes_;
    std::vector<bool> taken_;
};

[[noreturn]] void throw_no_encoder(const FormatInfo& info);
[[noreturn]] void throw_bad_group(const FormatInfo& info, std::int64_t row, std::int64_t group,
                                  const char* what);

// A leaf supplies `Codec`: kLayout, info(), form(PlanePicker&, Shape2) and verify_row(PackedView,
// row, reported row); one that encodes also planes(Shape2), as form() takes them, and
// encoder(Shape2).
template <class Codec>
class PlaneFormat final : public WeightFormat {
    using L = Layout<Codec::kLayout>;
    static constexpr bool kEncodes = requires { Codec::encoder(Shape2{}); };

  public:
    [[nodiscard]] FormatInfo info() const override { return Codec::info(); }
    [[nodiscard]] std::vector<PlaneInfo> planes(Shape2 shape, const EncodeOptions&) const override {
        if constexpr (kEncodes) {
            check_columns(Codec::info(), shape);
            return form(shape, Codec::planes(shape)).planes;
        } else {
            throw_no_encoder(Codec::info());
        }
    }
    [[nodiscard]] std::unique_ptr<Encoder> encoder(Shape2 shape,
                                                   const EncodeOptions& options) const override {
        if constexpr (kEncodes) {
            check_columns(Codec::info(), shape);
            check_importance(options, shape);
            return Codec::encoder(shape);
        } else {
            throw_no_encoder(Codec::info());
        }
    }
    [[nodiscard]] PackedForm form(Shape2 shape, std::span<const PlaneInfo> planes) const override {
        PlanePicker picker(shape, planes);
        PackedForm form = Codec::form(picker, shape);
        picker.finish();
        form.layout = Codec::kLayout;
        return form;
    }
    void decode(const PackedView& packed, RowRange range, View out) const override {
        for (std::int64_t r = 0; r < range.count; ++r) {
            const PackedRow row = packed.packed_row(range.first + r);
            if (out.dtype == DType::kF64) {
                L::unpack(row, 0, packed.shape.cols, out.row<double>(r));
            } else {
                L::unpack(row, 0, packed.shape.cols, out.row<float>(r));
            }
        }
    }
    void verify(const PackedView& packed, RowRange range, std::int64_t row_zero) const override {
        Codec::verify_tables(packed);
        for (std::int64_t r = range.first; r < range.first + range.count; ++r)
            Codec::verify_row(packed, r, row_zero + r);
    }
};

}  // namespace thimble
