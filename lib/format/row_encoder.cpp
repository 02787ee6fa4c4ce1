// SPDX-License-Identifier: Apache-2.0
#include "format/row_encoder.h"

#include <cstring>

namespace thimble {

void append_codes(PlaneSink& sink, int plane, std::span<const std::uint8_t> codes, int bits) {
    std::vector<std::uint8_t> out;
    out.reserve((codes.size() * static_cast<std::size_t>(bits) + 7) / 8);
    unsigned word = 0;
    int held = 0;
    for (const std::uint8_t code : codes) {
        word |= static_cast<unsigned>(code) << held;
        held += bits;
        for (; held >= 8; held -= 8, word >>= 8) out.push_back(static_cast<std::uint8_t>(word));
    }
    if (held > 0) out.push_back(static_cast<std::uint8_t>(word));
    sink.append(plane, std::as_bytes(std::span(out)));
}

float ScaleRow::add(float scale) {
    const auto push = [&](auto stored) {
        const auto* at = reinterpret_cast<const std::byte*>(&stored);
        bytes_.insert(bytes_.end(), at, at + sizeof stored);
    };
    switch (type_) {
        case ScaleType::kF16: {
            const std::uint16_t half = f32_to_f16(scale);
            push(half);
            return f16_to_f32(half);
        }
        case ScaleType::kBF16: {
            const std::uint16_t half = f32_to_bf16(scale);
            push(half);
            return bf16_to_f32(half);
        }
        default:
            push(scale);
            return scale;
    }
}

ScaleType scale_type_named(std::string_view name) {
    if (name == "bf16") return ScaleType::kBF16;
    return name == "f32" ? ScaleType::kF32 : ScaleType::kF16;
}

DType dtype_of(ScaleType type) {
    if (type == ScaleType::kF16) return DType::kF16;
    return type == ScaleType::kBF16 ? DType::kBF16 : DType::kF32;
}

ScaleType scale_type_of(DType type) {
    if (type == DType::kF16) return ScaleType::kF16;
    return type == DType::kBF16 ? ScaleType::kBF16 : ScaleType::kF32;
}

void group_importance(const float* importance, std::int64_t n, std::vector<float>& out) {
    out.assign(static_cast<std::size_t>(n), 1.0f);
    if (importance == nullptr) return;
    float total = 0;
    for (std::int64_t i = 0; i < n; ++i) total += importance[i];
    if (total > 0) std::copy(importance, importance + n, out.begin());
}

}  // namespace thimble
