// SPDX-License-Identifier: Apache-2.0
#include "format/block_format.h"

#include <cmath>
#include <limits>

#include "kernels/encode/lanes.h"

namespace thimble {

namespace {

std::string row_column(std::int64_t row, std::int64_t column) {
    return "row " + std::to_string(row) + ", column " + std::to_string(column);
}

}  // namespace

void check_columns(const FormatInfo& info, Shape2 shape) {
    if (shape.rows < 0 || shape.cols <= 0 || shape.cols % info.block_elements != 0) {
        throw Error(Exit::kUsage, std::string(info.name),
                    "rows of " + std::to_string(shape.cols) +
                        " weights do not divide into blocks of " +
                        std::to_string(info.block_elements));
    }
}

void check_finite(const FormatInfo& info, std::int64_t row, std::int64_t column,
                  std::span<const float> weights) {
    namespace lanes = encode::plain;
    // Zero times anything but a finite number is NaN, and NaN stays in a sum.
    const lanes::Lanes zero = lanes::spread(0);
    lanes::Lanes total = zero;
    std::size_t i = 0;
    for (; i + lanes::kLanes <= weights.size(); i += lanes::kLanes)
        total = total + lanes::load(weights.data() + i) * zero;
    float rest = lanes::sum(total);
    for (; i < weights.size(); ++i) rest += weights[i] * 0.0f;
    if (rest == 0) return;
    const auto bad =
        std::find_if(weights.begin(), weights.end(), [](float w) { return !std::isfinite(w); });
    throw Error(Exit::kBadData, row_column(row, column + (bad - weights.begin())),
                std::string(std::isnan(*bad) ? "NaN" : "infinite") + " weight; " +
                    std::string(info.name) + " holds finite weights only");
}

void check_finite(const FormatInfo& info, std::int64_t row, std::int64_t column,
                  std::span<const double> weights) {
    constexpr double kMost = std::numeric_limits<float>::max();
    const auto bad = std::find_if_not(weights.begin(), weights.end(),
                                      [](double w) { return std::abs(w) <= kMost; });
    if (bad == weights.end()) return;
    throw Error(Exit::kBadData, row_column(row, column + (bad - weights.begin())),
                std::string(std::isnan(*bad) ? "NaN" : "infinite or huge") + " weight; " +
                    std::string(info.name) + " holds weights in the range of f32 only");
}

void check_importance(const EncodeOptions& options, Shape2 shape) {
    const std::span<const float> importance = options.column_importance;
    if (importance.empty()) return;
    if (importance.size() != static_cast<std::size_t>(shape.cols)) {
        throw Error(Exit::kBadData, "column importance",
                    std::to_string(importance.size()) + " values for " +
                        std::to_string(shape.cols) + " columns");
    }
    for (std::size_t c = 0; c < importance.size(); ++c) {
        if (!std::isfinite(importance[c]) || importance[c] < 0) {
            throw Error(Exit::kBadData, "column importance",
                        "column " + std::to_string(c) + " is not a finite number >= 0");
        }
    }
}

void throw_too_large(const FormatInfo& info, std::int64_t row, std::int64_t column) {
    throw Error(Exit::kBadData, row_column(row, column),
                "weights too large for " + std::string(info.name) +
                    ": its half-precision field would overflow",
                "store this tensor as f32 or bf16");
}

void throw_bad_block(const FormatInfo& info, std::int64_t row, std::int64_t block) {
    const std::int64_t first = block * info.block_elements;
    const std::int64_t last = first + info.block_elements - 1;
    throw Error(Exit::kBadData, "row " + std::to_string(row) + ", block " + std::to_string(block),
                "NaN or infinite value in a " + std::string(info.name) + " block (column" +
                    (first == last ? " " : "s ") + std::to_string(first) +
                    (first == last ? "" : " to " + std::to_string(last)) + ")");
}

void throw_bad_rows(const FormatInfo& info) {
    throw Error(Exit::kFailure, std::string(info.name), "encode: not a whole number of rows");
}

}  // namespace thimble
