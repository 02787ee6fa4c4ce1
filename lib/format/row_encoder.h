// SPDX-License-Identifier: Apache-2.0
// What formats of groups along a row share when they encode.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "format/block_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/layout.h"

namespace thimble {

// An encoder whose rows know nothing of each other. `EncodeRow`: void operator()(std::int64_t row,
// const float* weights, const float* importance /* [cols] or null */, PlaneSink&) const; one with
// tables also void tables(PlaneSink&) const.
template <class EncodeRow>
class RowEncoder final : public Encoder {
  public:
    RowEncoder(const FormatInfo& info, Shape2 shape, const EncodeOptions& options, EncodeRow fn)
        : info_(info),
          cols_(shape.cols),
          importance_(options.column_importance),
          fn_(std::move(fn)) {}

    void encode(std::int64_t first_row, std::span<const float> rows,
                PlaneSink& sink) const override {
        const auto size = static_cast<std::int64_t>(rows.size());
        if (cols_ == 0 || size % cols_ != 0) throw_bad_rows(info_);
        if constexpr (requires { fn_.tables(sink); }) {
            if (first_row == 0) fn_.tables(sink);
        }
        for (std::int64_t r = 0; r < size / cols_; ++r) {
            const float* weights = rows.data() + r * cols_;
            check_finite(info_, first_row + r, 0, {weights, static_cast<std::size_t>(cols_)});
            fn_(first_row + r, weights, importance_.empty() ? nullptr : importance_.data(), sink);
        }
    }

  private:
    FormatInfo info_;
    std::int64_t cols_;
    std::span<const float> importance_;
    EncodeRow fn_;
};

template <class EncodeRow>
[[nodiscard]] std::unique_ptr<Encoder> make_row_encoder(const FormatInfo& info, Shape2 shape,
                                                        const EncodeOptions& options,
                                                        EncodeRow fn) {
    return std::make_unique<RowEncoder<EncodeRow>>(info, shape, options, std::move(fn));
}

// A row's codes of `bits` bits one after the other, the lowest bit first; whole bytes in the end.
void append_codes(PlaneSink& sink, int plane, std::span<const std::uint8_t> codes, int bits);

// A row's scales, narrowed to the type that they are stored in.
class ScaleRow {
  public:
    explicit ScaleRow(ScaleType type) : type_(type) {}
    // What is stored for `scale`, as it will be read; infinite where it is too large.
    float add(float scale);
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

  private:
    ScaleType type_;
    std::vector<std::byte> bytes_;
};

// "f16", "bf16" or "f32".
[[nodiscard]] ScaleType scale_type_named(std::string_view name);
[[nodiscard]] DType dtype_of(ScaleType type);
// The reverse; nested and power-of-two scales have no element type of their own.
[[nodiscard]] ScaleType scale_type_of(DType type);

// Importance of the weights of a group, ones where none is given or all of it is zero.
void group_importance(const float* importance, std::int64_t n, std::vector<float>& out);

}  // namespace thimble
