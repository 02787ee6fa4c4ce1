// SPDX-License-Identifier: Apache-2.0
// What formats of several planes share: planes picked by name and checked against the matrix's
// shape, decoding by the layout's unpack.
#pragma once

#include <algorithm>
#include <atomic>
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
    // Bits of a code where a row's codes take `bytes` bytes: least to most, rows of whole
    // `elements`.
    [[nodiscard]] std::int32_t bits(const char* name, std::int64_t bytes, std::int64_t elements,
                                    std::int32_t least, std::int32_t most) const;
    // Columns under each of a row's `groups` scales: a multiple of `elements`.
    [[nodiscard]] std::int32_t group(const char* name, std::int64_t groups,
                                     std::int64_t elements) const;
    // No plane is left over, but for nameless ones, which stand for planes that are not there.
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

// The largest of `wanted`, its half, its quarter and so on that divides rows of `cols` columns; 0
// in `wanted` is a whole row.
[[nodiscard]] std::int64_t dividing_group(std::int64_t wanted, std::int64_t cols);
// The same; Error(kUsage) where none of them divides.
[[nodiscard]] std::int64_t checked_group(const char* format, std::int64_t wanted,
                                         std::int64_t cols);

struct NoOptions {
    void visit(OptionVisitor&) {}
};

// A leaf supplies `Codec`: kLayout, Options (which may be NoOptions), info(options),
// form(PlanePicker&, Shape2), verify_tables(PackedView) and verify_row(PackedView, row, reported
// row); one that encodes also planes(Shape2, options), as form() takes them, and encoder(Shape2,
// options, EncodeOptions); one that scans, scan_bytes(Shape2, options); one whose planes depend on
// the weights, room_of(row, options) -> std::int64_t, of which the largest counts,
// has_room(options), with_room(std::int64_t, options) -> Options, and plain(Shape2, Options) -> the
// format to take instead, where with so much room this one saves nothing, or null.
template <class Codec>
class PlaneFormat;
template <class Codec>
class PlaneFitting final : public Fitting {
  public:
    PlaneFitting(Shape2 shape, const typename Codec::Options& options)
        : shape_(shape), options_(options) {}
    void see(std::span<const float> rows) override {
        const auto cols = static_cast<std::size_t>(shape_.cols);
        std::int64_t most = 0;
        for (std::size_t at = 0; at + cols <= rows.size(); at += cols)
            most = std::max(most, Codec::room_of(rows.subspan(at, cols), options_));
        std::int64_t before = most_.load();
        while (before < most && !most_.compare_exchange_weak(before, most)) {
        }
    }
    [[nodiscard]] SharedFormat fitted() const override {
        const auto fitted = Codec::with_room(most_.load(), options_);
        if (SharedFormat plain = Codec::plain(shape_, fitted)) return plain;
        return std::make_shared<PlaneFormat<Codec>>(fitted);
    }

  private:
    Shape2 shape_;
    typename Codec::Options options_;
    std::atomic<std::int64_t> most_{0};
};

template <class Codec>
class PlaneFormat final : public WeightFormat {
    using L = Layout<Codec::kLayout>;
    using Options = typename Codec::Options;
    static constexpr bool kEncodes = requires { Codec::planes(Shape2{}, Options{}); };

  public:
    explicit PlaneFormat(Options options = {}) : options_(std::move(options)) {}

    [[nodiscard]] FormatInfo info() const override { return Codec::info(options_); }
    [[nodiscard]] std::unique_ptr<WeightFormat> with(std::string_view text,
                                                     std::string_view where) const override {
        Options options = options_;
        parse_inline_options(
            text, [&](OptionVisitor& v) { options.visit(v); },
            std::string(where) + ": " + std::string(info().name));
        return std::make_unique<PlaneFormat>(options);
    }
    void visit_options(OptionVisitor& v) const override { Options(options_).visit(v); }
    [[nodiscard]] std::vector<PlaneInfo> planes(Shape2 shape, const EncodeOptions&) const override {
        if constexpr (kEncodes) {
            check_columns(info(), shape);
            return form(shape, Codec::planes(shape, options_)).planes;
        } else {
            throw_no_encoder(info());
        }
    }
    [[nodiscard]] std::unique_ptr<Encoder> encoder(Shape2 shape,
                                                   const EncodeOptions& encode) const override {
        if constexpr (kEncodes) {
            check_columns(info(), shape);
            check_importance(encode, shape);
            return Codec::encoder(shape, options_, encode);
        } else {
            throw_no_encoder(info());
        }
    }
    [[nodiscard]] std::unique_ptr<Fitting> fitting(Shape2 shape) const override {
        if constexpr (requires { Codec::has_room(options_); }) {
            if (!Codec::has_room(options_))
                return std::make_unique<PlaneFitting<Codec>>(shape, options_);
        }
        return nullptr;
    }
    [[nodiscard]] std::size_t scan_bytes(Shape2 shape) const override {
        if constexpr (requires { Codec::scan_bytes(shape, options_); })
            return Codec::scan_bytes(shape, options_);
        else
            return 0;
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

  private:
    Options options_;
};

}  // namespace thimble
