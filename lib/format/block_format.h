// SPDX-License-Identifier: Apache-2.0
// What all formats with one plane of fixed-size blocks share: planes, chunked encoding with checks,
// decoding by the layout's unpack, verification. A leaf supplies `Codec`:
//   static constexpr LayoutId kLayout;
//   static FormatInfo info();
//   // Packs one block; importance is null or has a value per weight.
//   static void encode(const float* weights, const float* importance, Block& out);
//   static void encode(const double*, ...);  // the same, where info().doubles
//   static bool finite(const Block&);        // scales, or the value itself
#pragma once

#include <algorithm>
#include <array>
#include <string>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/all.h"

namespace thimble {

// Throws Error(kUsage) when `cols` is not a multiple of the format's block.
void check_columns(const FormatInfo& info, Shape2 shape);
// Throws Error(kBadData) naming row and column of the first non-finite weight.
void check_finite(const FormatInfo& info, std::int64_t row, std::int64_t column,
                  std::span<const float> weights);
void check_finite(const FormatInfo& info, std::int64_t row, std::int64_t column,
                  std::span<const double> weights);
// Throws Error(kUsage) unless importance is empty or has `cols` finite values >= 0.
void check_importance(const EncodeOptions& options, Shape2 shape);
[[noreturn]] void throw_too_large(const FormatInfo& info, std::int64_t row, std::int64_t column);
[[noreturn]] void throw_bad_block(const FormatInfo& info, std::int64_t row, std::int64_t block);
[[noreturn]] void throw_bad_rows(const FormatInfo& info);

[[nodiscard]] inline bool finite_half(std::uint16_t bits) noexcept {
    return (bits & 0x7c00u) != 0x7c00u;
}

template <class Codec>
class BlockFormat final : public WeightFormat {
    using L = Layout<Codec::kLayout>;
    using Block = typename L::Block;
    // Blocks encoded between two calls of the sink.
    static constexpr std::int64_t kRun = std::max(1, 2048 / L::kElements);
    static constexpr bool kDoubles = requires(const double* w, Block& out) {
        Codec::encode(w, nullptr, out);
    };

    class BlockEncoder final : public Encoder {
      public:
        BlockEncoder(Shape2 shape, const EncodeOptions& options)
            : cols_(shape.cols), importance_(options.column_importance), blocks_(options.blocks) {}

        void encode(std::int64_t first_row, std::span<const float> rows,
                    PlaneSink& sink) const override {
            encode_rows(first_row, rows, sink);
        }
        void encode_doubles(std::int64_t first_row, std::span<const double> rows,
                            PlaneSink& sink) const override {
            if constexpr (kDoubles) {
                encode_rows(first_row, rows, sink);
            } else {
                Encoder::encode_doubles(first_row, rows, sink);
            }
        }

      private:
        template <class Real>
        void encode_rows(std::int64_t first_row, std::span<const Real> rows,
                         PlaneSink& sink) const {
            const auto size = static_cast<std::int64_t>(rows.size());
            if (cols_ == 0 || size % cols_ != 0) throw_bad_rows(Codec::info());
            for (std::int64_t r = 0; r < size / cols_; ++r)
                encode_row(first_row + r, rows.data() + r * cols_, sink);
        }

        template <class Real>
        void encode_row(std::int64_t row, const Real* weights, PlaneSink& sink) const {
            std::array<Block, static_cast<std::size_t>(kRun)> run;
            const std::int64_t blocks = cols_ / L::kElements;
            for (std::int64_t b = 0; b < blocks; b += kRun) {
                const std::int64_t count = std::min(kRun, blocks - b);
                const std::int64_t column = b * L::kElements;
                check_finite(Codec::info(), row, column,
                             {weights + column, static_cast<std::size_t>(count * L::kElements)});
                const float* importance =
                    importance_.empty() ? nullptr : importance_.data() + column;
                pack(weights + column, importance, count, run.data());
                for (std::int64_t i = 0; i < count; ++i) {
                    if (!Codec::finite(run[static_cast<std::size_t>(i)]))
                        throw_too_large(Codec::info(), row, column + i * L::kElements);
                }
                sink.append(0,
                            std::as_bytes(std::span(run).first(static_cast<std::size_t>(count))));
            }
        }

        void pack(const float* weights, const float* importance, std::int64_t count,
                  Block* out) const {
            if (blocks_ != nullptr) return blocks_(Codec::kLayout, weights, importance, count, out);
            encode_blocks(weights, importance, count, out);
        }
        static void pack(const double* weights, const float* importance, std::int64_t count,
                         Block* out) {
            encode_blocks(weights, importance, count, out);
        }

        template <class Real>
        static void encode_blocks(const Real* weights, const float* importance, std::int64_t count,
                                  Block* out) {
            for (std::int64_t b = 0; b < count; ++b) {
                const std::int64_t at = b * L::kElements;
                Codec::encode(weights + at, importance ? importance + at : nullptr, out[b]);
            }
        }

        std::int64_t cols_;
        std::span<const float> importance_;
        EncodeBlocks blocks_;
    };

  public:
    [[nodiscard]] FormatInfo info() const override { return Codec::info(); }
    [[nodiscard]] std::unique_ptr<WeightFormat> with(std::string_view options,
                                                     std::string_view where) const override {
        parse_inline_options(
            options, [](OptionVisitor&) {}, std::string(where) + ": " + std::string(info().name));
        return std::make_unique<BlockFormat>();
    }

    [[nodiscard]] std::vector<PlaneInfo> planes(Shape2 shape, const EncodeOptions&) const override {
        check_columns(Codec::info(), shape);
        PlaneInfo plane;
        plane.row_bytes = static_cast<std::size_t>(shape.cols / L::kElements) * sizeof(Block);
        plane.bytes = static_cast<std::size_t>(shape.rows) * plane.row_bytes;
        plane.dims = {static_cast<std::uint64_t>(shape.rows), plane.row_bytes};
        return {plane};
    }

    [[nodiscard]] std::unique_ptr<Encoder> encoder(Shape2 shape,
                                                   const EncodeOptions& options) const override {
        check_columns(Codec::info(), shape);
        check_importance(options, shape);
        return std::make_unique<BlockEncoder>(shape, options);
    }

    void decode(const PackedView& packed, RowRange range, View out) const override {
        for (std::int64_t r = 0; r < range.count; ++r) {
            if (out.dtype == DType::kF64) {
                decode_row(packed, range.first + r, out.row<double>(r));
            } else {
                decode_row(packed, range.first + r, out.row<float>(r));
            }
        }
    }

    void verify(const PackedView& packed, RowRange range, std::int64_t row_zero) const override {
        const std::int64_t blocks = packed.shape.cols / L::kElements;
        for (std::int64_t r = range.first; r < range.first + range.count; ++r) {
            const auto* row = reinterpret_cast<const Block*>(packed.row(r));
            for (std::int64_t b = 0; b < blocks; ++b) {
                if (!Codec::finite(row[b])) throw_bad_block(Codec::info(), row_zero + r, b);
            }
        }
    }

  private:
    template <class Real>
    static void decode_row(const PackedView& packed, std::int64_t r, Real* out) {
        const auto* row = reinterpret_cast<const Block*>(packed.row(r));
        for (std::int64_t b = 0; b < packed.shape.cols / L::kElements; ++b)
            L::unpack(row[b], out + b * L::kElements);
    }
};

}  // namespace thimble
