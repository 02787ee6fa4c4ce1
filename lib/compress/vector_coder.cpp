// SPDX-License-Identifier: Apache-2.0
#include "compress/vector_coder.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace thimble {
namespace {

constexpr std::array<EmbeddingFormat, 7> kFormats = {{
    {"f32", VectorCode::kF32, TensorType::kF32, "as they are"},
    {"f16", VectorCode::kF16, TensorType::kF16, "cast"},
    {"e4m3", VectorCode::kE4m3, TensorType::kF8_E4M3, "cast"},
    {"e5m2", VectorCode::kE5m2, TensorType::kF8_E5M2, "cast"},
    {"int8", VectorCode::kU8, TensorType::kU8, "each dimension from its least to its greatest"},
    {"e2m1", VectorCode::kE2m1, TensorType::kU8, "cast: of use with a prescale only"},
    {"binary", VectorCode::kSign, TensorType::kU8, "signs"},
}};

constexpr float kU8Most = 255;

}  // namespace

std::span<const EmbeddingFormat> embedding_formats() noexcept { return kFormats; }

const EmbeddingFormat* find_embedding_format(std::string_view name) noexcept {
    for (const EmbeddingFormat& format : kFormats)
        if (format.name == name) return &format;
    return nullptr;
}

std::string_view name_of(VectorCode code) noexcept {
    for (const EmbeddingFormat& format : kFormats)
        if (format.code == code) return format.name;
    return {};
}

bool takes_prescale(VectorCode code) noexcept {
    return code != VectorCode::kF32 && code != VectorCode::kU8 && code != VectorCode::kSign;
}

void VectorStatistics::add(std::span<const float> x) {
    if (rows++ == 0) {
        least.assign(x.begin(), x.end());
        greatest = least;
    }
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        least[i] = std::min(least[i], x[i]);
        greatest[i] = std::max(greatest[i], x[i]);
        sum += std::abs(x[i]);
    }
    magnitudes += sum;
}

double VectorStatistics::magnitude() const noexcept {
    const double numbers = static_cast<double>(rows) * static_cast<double>(least.size());
    return numbers > 0 ? magnitudes / numbers : 0;
}

VectorCoder::VectorCoder(VectorCode code, int prescale, const VectorStatistics& statistics) {
    const std::size_t dims = statistics.least.size();
    p_.code = code;
    p_.dims = static_cast<std::int64_t>(dims);
    if (code == VectorCode::kU8) {
        p_.offset = statistics.least;
        p_.step.resize(dims);
        for (std::size_t i = 0; i < dims; ++i)
            p_.step[i] = (statistics.greatest[i] - statistics.least[i]) / kU8Most;
    } else if (code == VectorCode::kSign) {
        p_.magnitude = static_cast<float>(statistics.magnitude());
    } else if (takes_prescale(code)) {
        p_.prescale = prescale;
    }
}

void VectorCoder::encode(const float* x, std::uint8_t* codes) const noexcept {
    std::fill_n(codes, bytes(), std::uint8_t{0});
    const float scale = std::ldexp(1.0f, p_.prescale);
    for (std::int64_t k = 0; k < p_.dims; ++k) {
        const float v = x[k] * scale;
        const auto at = static_cast<std::size_t>(k);
        switch (p_.code) {
            case VectorCode::kF32:
                std::memcpy(codes + 4 * k, &v, sizeof v);
                break;
            case VectorCode::kF16: {
                const std::uint16_t h = f32_to_f16(std::clamp(v, -65504.0f, 65504.0f));
                std::memcpy(codes + 2 * k, &h, sizeof h);
                break;
            }
            case VectorCode::kE4m3:
                codes[k] = f32_to_e4m3(v);
                break;
            case VectorCode::kE5m2:
                codes[k] = f32_to_e5m2(v);
                break;
            case VectorCode::kU8:
                if (p_.step[at] > 0) {
                    const float code = std::nearbyint((x[k] - p_.offset[at]) / p_.step[at]);
                    codes[k] = static_cast<std::uint8_t>(std::clamp(code, 0.0f, kU8Most));
                }
                break;
            case VectorCode::kE2m1:
                codes[k / 2] |= static_cast<std::uint8_t>(f32_to_e2m1(v) << k % 2 * 4);
                break;
            case VectorCode::kSign:
                codes[k / 8] |= static_cast<std::uint8_t>((x[k] > 0 ? 0x80 : 0) >> k % 8);
                break;
        }
    }
}

void VectorCoder::decode(const std::uint8_t* codes, float* x) const noexcept {
    const float scale = std::ldexp(1.0f, -p_.prescale);
    for (std::int64_t k = 0; k < p_.dims; ++k) {
        const float v = vector_value(p_.code, codes, k);
        const auto at = static_cast<std::size_t>(k);
        switch (p_.code) {
            case VectorCode::kU8:
                x[k] = p_.offset[at] + p_.step[at] * v;
                break;
            case VectorCode::kSign:
                x[k] = p_.magnitude * v;
                break;
            case VectorCode::kE4m3:
                x[k] = e4m3_is_nan(codes[k]) ? std::nanf("") : v * scale;
                break;
            default:
                x[k] = v * scale;
        }
    }
}

void VectorCoder::adapt(const float* query, float* out) const noexcept {
    for (std::int64_t k = 0; k < p_.dims; ++k)
        out[k] =
            p_.code == VectorCode::kU8 ? query[k] * p_.step[static_cast<std::size_t>(k)] : query[k];
}

}  // namespace thimble
