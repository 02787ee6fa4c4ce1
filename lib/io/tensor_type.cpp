// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <limits>

#include "core/checked.h"
#include "io/model_file.h"

namespace thimble {
namespace {

using T = TensorType;
constexpr std::array kTypes = {
    TensorTypeInfo{T::kF32, "f32", 1, 4},
    TensorTypeInfo{T::kF16, "f16", 1, 2},
    TensorTypeInfo{T::kQ4_0, "q4_0", 32, 18},
    TensorTypeInfo{T::kQ4_1, "q4_1", 32, 20},
    TensorTypeInfo{T::kQ5_0, "q5_0", 32, 22},
    TensorTypeInfo{T::kQ5_1, "q5_1", 32, 24},
    TensorTypeInfo{T::kQ8_0, "q8_0", 32, 34},
    TensorTypeInfo{T::kQ8_1, "q8_1", 32, 36},
    TensorTypeInfo{T::kQ2_K, "q2_k", 256, 84},
    TensorTypeInfo{T::kQ3_K, "q3_k", 256, 110},
    TensorTypeInfo{T::kQ4_K, "q4_k", 256, 144},
    TensorTypeInfo{T::kQ5_K, "q5_k", 256, 176},
    TensorTypeInfo{T::kQ6_K, "q6_k", 256, 210},
    TensorTypeInfo{T::kQ8_K, "q8_k", 256, 292},
    TensorTypeInfo{T::kIQ2_XXS, "iq2_xxs", 256, 66},
    TensorTypeInfo{T::kIQ2_XS, "iq2_xs", 256, 74},
    TensorTypeInfo{T::kIQ3_XXS, "iq3_xxs", 256, 98},
    TensorTypeInfo{T::kIQ1_S, "iq1_s", 256, 50},
    TensorTypeInfo{T::kIQ4_NL, "iq4_nl", 32, 18},
    TensorTypeInfo{T::kIQ3_S, "iq3_s", 256, 110},
    TensorTypeInfo{T::kIQ2_S, "iq2_s", 256, 82},
    TensorTypeInfo{T::kIQ4_XS, "iq4_xs", 256, 136},
    TensorTypeInfo{T::kI8, "i8", 1, 1},
    TensorTypeInfo{T::kI16, "i16", 1, 2},
    TensorTypeInfo{T::kI32, "i32", 1, 4},
    TensorTypeInfo{T::kI64, "i64", 1, 8},
    TensorTypeInfo{T::kF64, "f64", 1, 8},
    TensorTypeInfo{T::kIQ1_M, "iq1_m", 256, 56},
    TensorTypeInfo{T::kBF16, "bf16", 1, 2},
    TensorTypeInfo{T::kTQ1_0, "tq1_0", 256, 54},
    TensorTypeInfo{T::kTQ2_0, "tq2_0", 256, 66},
    TensorTypeInfo{T::kMXFP4, "mxfp4", 32, 17},
    TensorTypeInfo{T::kU8, "u8", 1, 1},
    TensorTypeInfo{T::kF8_E4M3, "f8_e4m3", 1, 1},
    TensorTypeInfo{T::kF8_E5M2, "f8_e5m2", 1, 1},
    TensorTypeInfo{T::kBool, "bool", 1, 1},
};

}  // namespace

const TensorTypeInfo* find_tensor_type(TensorType type) noexcept {
    const auto at = std::find_if(kTypes.begin(), kTypes.end(),
                                 [&](const TensorTypeInfo& info) { return info.type == type; });
    return at == kTypes.end() ? nullptr : &*at;
}

const TensorTypeInfo* find_tensor_type(std::string_view name) noexcept {
    const auto at = std::find_if(kTypes.begin(), kTypes.end(),
                                 [&](const TensorTypeInfo& info) { return info.name == name; });
    return at == kTypes.end() ? nullptr : &*at;
}

std::optional<std::uint64_t> tensor_bytes(TensorType type,
                                          std::span<const std::uint64_t> dims) noexcept {
    const TensorTypeInfo* info = find_tensor_type(type);
    const std::uint64_t row = dims.empty() ? 1 : dims.back();
    if (info == nullptr || row % info->block_elements != 0) return std::nullopt;
    // Both counts must be representable even when another dimension is zero.
    std::uint64_t elements = 1;
    for (const std::uint64_t dim : dims) {
        const auto product = checked_mul(elements, std::max<std::uint64_t>(dim, 1));
        if (!product) return std::nullopt;
        elements = *product;
    }
    const auto bytes =
        checked_mul(ceil_div<std::uint64_t>(elements, info->block_elements), info->block_bytes);
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (elements > kMost || !bytes || *bytes > kMost) return std::nullopt;
    return std::count(dims.begin(), dims.end(), 0u) > 0 ? 0 : bytes;
}

std::uint64_t TensorEntry::rows() const noexcept {
    std::uint64_t product = 1;
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) product *= dims[i];
    return product;
}

}  // namespace thimble
