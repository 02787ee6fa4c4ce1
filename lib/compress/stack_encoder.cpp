// SPDX-License-Identifier: Apache-2.0
#include "compress/stack_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "compress/low_rank.h"
#include "core/error.h"
#include "kernels/layout/half.h"

namespace thimble {
namespace {

constexpr float kLargest = 32768;     // of a block's factors
constexpr float kLeastScale = 1e-5f;  // of the largest
constexpr std::int64_t kRowsAtOnce = 8;

// Numbers times factor as F16; returns that factor: their largest becomes kLargest.
double normalised(const std::vector<float>& values, std::uint16_t* out) {
    float largest = 0;
    for (const float v : values) largest = std::max(largest, std::abs(v));
    const double factor =
        largest > 0 ? static_cast<double>(kLargest) / static_cast<double>(largest) : 0;
    for (std::size_t i = 0; i < values.size(); ++i)
        out[i] = f32_to_f16(static_cast<float>(static_cast<double>(values[i]) * factor));
    return factor;
}

}  // namespace

std::vector<float> stack_scales(std::span<const float> mean_squares) {
    std::vector<float> out(mean_squares.size());
    std::ranges::transform(mean_squares, out.begin(), [](float x) { return std::sqrt(x); });
    const float largest = out.empty() ? 0 : *std::ranges::max_element(out);
    for (float& s : out) s = largest > 0 ? std::max(s, kLeastScale * largest) : 1;
    return out;
}

void pack_signs(std::span<const float> row, std::span<std::byte> out) {
    std::ranges::fill(out, std::byte{0});
    for (std::size_t c = 0; c < row.size(); ++c)
        if (row[c] < 0) out[c / 8] |= std::byte{1} << (c % 8);
}

StackEncoder::StackEncoder(const Exec& exec, const StackForm& form, std::vector<float> weights,
                           std::span<const float> scales)
    : exec_(exec),
      form_(form),
      residual_(std::move(weights)),
      magnitudes_(residual_.size()),
      scales_(scales.begin(), scales.end()) {
    const auto cols = static_cast<std::size_t>(form.shape.cols);
    if (scales_.empty()) scales_.assign(cols, 1);
    for (std::size_t i = 0; i < residual_.size(); ++i) residual_[i] *= scales_[i % cols];
    for (const float x : residual_) square_ += static_cast<double>(x) * static_cast<double>(x);
    negligible_ = 0x1p-48 * square_;
}

std::uint64_t StackEncoder::bytes(const StackForm& form) {
    const auto [rows, cols] = form.shape;
    return static_cast<std::uint64_t>(2 * rows * cols + form.rank * (rows + cols)) * sizeof(float) +
           leading_factors_bytes(rows, cols, form.rank);
}

void StackEncoder::next(std::span<std::byte> out) {
    const auto [rows, cols] = form_.shape;
    std::ranges::transform(residual_, magnitudes_.begin(), [](float x) { return std::abs(x); });
    const View w{reinterpret_cast<std::byte*>(magnitudes_.data()), DType::kF32, rows, cols, cols};
    LowRankFactors factors = leading_factors(exec_, w, {.rank = form_.rank, .seed = level_++});
    for (std::size_t i = 0; i < factors.b.size(); ++i)
        factors.b[i] /= scales_[i / static_cast<std::size_t>(form_.rank)];
    std::ranges::fill(out, std::byte{0});
    const auto sign_bytes = static_cast<std::size_t>(cpu::sign_row_bytes(cols));
    for (std::int64_t r = 0; r < rows; ++r) {
        pack_signs({residual_.data() + r * cols, static_cast<std::size_t>(cols)},
                   out.subspan(static_cast<std::size_t>(r) * sign_bytes, sign_bytes));
    }
    const double of_a =
        normalised(factors.a, reinterpret_cast<std::uint16_t*>(out.data() + form_.a));
    const double of_b =
        normalised(factors.b, reinterpret_cast<std::uint16_t*>(out.data() + form_.b));
    const auto scale = static_cast<float>(of_a * of_b > 0 ? 1 / of_a / of_b : 0);
    std::memcpy(out.data() + form_.scale, &scale, sizeof scale);
    subtract(form_.block(out.data()));
}

// The residual loses the block as it was rounded.
void StackEncoder::subtract(const ops::SignedBlock& block) {
    const std::int64_t rows = form_.shape.rows, cols = form_.shape.cols, rank = form_.rank;
    std::vector<float> b(static_cast<std::size_t>(rank * cols));  // [rank, cols], scaled
    for (std::int64_t c = 0; c < cols; ++c)
        for (std::int64_t k = 0; k < rank; ++k)
            b[static_cast<std::size_t>(k * cols + c)] =
                f16_to_f32(block.b[c * rank + k]) * scales_[static_cast<std::size_t>(c)];
    std::vector<double> squares(static_cast<std::size_t>(rows));
    exec_.team->run(rows, kRowsAtOnce, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> sums(static_cast<std::size_t>(cols));
        for (std::int64_t r = begin; r < end; ++r) {
            std::ranges::fill(sums, 0.0f);
            for (std::int64_t k = 0; k < rank; ++k) {
                const float a = f16_to_f32(block.a[r * rank + k]) * block.scale;
                const float* of_k = b.data() + k * cols;
                for (std::int64_t c = 0; c < cols; ++c)
                    sums[static_cast<std::size_t>(c)] += a * of_k[c];
            }
            float* residual = residual_.data() + r * cols;
            double square = 0;
            for (std::int64_t c = 0; c < cols; ++c) {
                const float part = sums[static_cast<std::size_t>(c)];
                residual[c] -= residual[c] < 0 ? -part : part;
                square += static_cast<double>(residual[c]) * static_cast<double>(residual[c]);
            }
            squares[static_cast<std::size_t>(r)] = square;
        }
    });
    square_ = 0;
    for (const double s : squares) square_ += s;
    if (square_ > negligible_) return;
    std::ranges::fill(residual_, 0.0f);
    square_ = 0;
}

}  // namespace thimble
