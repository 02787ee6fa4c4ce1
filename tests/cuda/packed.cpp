// SPDX-License-Identifier: Apache-2.0
#include "packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/layout/all.h"

namespace thimble::cuda_test {
namespace {

std::vector<std::byte> random_bytes(std::size_t n, std::uint32_t seed) {
    std::vector<std::byte> out(n);
    for (std::size_t i = 0; i < n; ++i)
        out[i] = static_cast<std::byte>(philox(seed, i / 4).v[i % 4] >> 11 & 255u);
    return out;
}

template <class T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
    std::vector<std::byte> out(values.size() * sizeof(T));
    if (!out.empty()) std::memcpy(out.data(), values.data(), out.size());
    return out;
}

std::vector<std::byte> scales_of(ScaleType type, std::size_t n, std::uint32_t seed, float size) {
    const std::vector<float> scales = values(n, seed, size);
    if (type == ScaleType::kF32) return bytes_of(scales);
    std::vector<std::uint16_t> out;
    for (const float s : scales)
        out.push_back(type == ScaleType::kF16 ? f32_to_f16(s) : f32_to_bf16(s));
    return bytes_of(out);
}

// Gives the fields of a block that are floating point sensible values.
template <class Block>
void mend(Block& block, float value) {
    if constexpr (requires { block.value; }) block.value = value;
    if constexpr (requires { block.bits; }) block.bits = f32_to_f16(value);
    if constexpr (requires { block.d; }) {
        if constexpr (sizeof(block.d) == 1) {
            block.d = static_cast<std::uint8_t>(120 + (block.d & 7));
        } else {
            block.d = f32_to_f16(value * 0x1p-6f);
        }
    }
    if constexpr (std::is_same_v<Block, Layout<LayoutId::k_iq1_m>::Block>)  // d: its top nibbles
        block.scales[3] = static_cast<std::uint16_t>((block.scales[3] & 0xfff) | 0x2000);
    if constexpr (requires { block.dmin; }) block.dmin = f32_to_f16(value * 0x1p-7f);
    if constexpr (requires { block.m; }) block.m = f32_to_f16(-value);
}

}  // namespace

std::vector<PackedForm> packed_forms() {
    std::vector<PackedForm> out;
#define THIMBLE_LAYOUT(id) out.push_back({LayoutId::k_##id, {}});
#include "kernels/layout/layouts.def"
#undef THIMBLE_LAYOUT
    constexpr ScaleType kTypes[] = {ScaleType::kF32, ScaleType::kF16, ScaleType::kBF16};
    int i = 0;
    for (const std::int32_t bits : {2, 3, 4, 8}) {
        out.push_back({LayoutId::k_affine, {bits, 64, kTypes[i++ % 3]}, i % 2 == 1});
        out.push_back({LayoutId::k_affine, {bits, 32, kTypes[i++ % 3]}, i % 2 == 1, true});
    }
    for (const std::int32_t bits : {5, 6, 7}) {
        const std::int32_t zero_bits = 8 - bits;
        out.push_back({LayoutId::k_affine, {bits, 64, ScaleType::kF16, zero_bits}, true});
    }
    out.push_back({LayoutId::k_affine, {4, 16, ScaleType::kF16, 4}, true});
    out.push_back({LayoutId::k_nf4, {4, 64, ScaleType::kF32}});
    out.push_back({LayoutId::k_nf4, {4, 64, ScaleType::kNested}});
    for (const std::int32_t bits : {3, 4})
        out.push_back({LayoutId::k_bitmod, {bits, 64, ScaleType::kF16}});
    for (const std::int32_t bits : {2, 4, 7, 8}) {
        out.push_back({LayoutId::k_bfp, {bits, bits == 4 ? 16 : 64, ScaleType::kE8m0}});
        out.push_back({LayoutId::k_bipolar, {bits, 64, ScaleType::kF16}});
    }
    out.push_back({LayoutId::k_bipolar, {1, 64, ScaleType::kF16}});
    out.push_back({LayoutId::k_fp8, {8, 64, ScaleType::kF32}});
    out.push_back({LayoutId::k_fp8, {8, 32, ScaleType::kE8m0}});
    out.push_back({LayoutId::k_nvfp4, {4, 16, ScaleType::kF32}});
    for (const std::int32_t bits : {2, 3, 4})
        out.push_back({LayoutId::k_jlcm, {bits, 64, ScaleType::kF16}});
    for (const ScaleType type : {ScaleType::kF16, ScaleType::kBF16})
        out.push_back({LayoutId::k_sparse, {16, 0, type}});
    out.push_back({LayoutId::k_sparse, {8, 64, ScaleType::kF16}});
    out.push_back({LayoutId::k_sparse, {4, 32, ScaleType::kF16}});
    return out;
}

double decoding_tolerance(const std::vector<double>& want) {
    double largest = 0;
    for (const double w : want) largest = std::max(largest, std::abs(w));
    return 0x1p-22 * largest;
}

Packed::Packed(const PackedForm& form, std::int64_t rows, std::int64_t cols, std::uint32_t seed) {
    shape_.layout = form.layout, shape_.params = form.params;
    shape_.rows = rows, shape_.cols = cols;
    if (form.layout == LayoutId::k_affine) {
        make_affine(form, seed);
    } else if (form.layout == LayoutId::k_nf4) {
        make_nf4(seed);
    } else if (form.layout == LayoutId::k_sparse) {
        make_sparse(seed);
    } else if (form.params.bits != 0) {
        make_groups(seed);
    } else {
        make_blocks(seed);
    }
}

// Codes, scales and, where the layout has them, one or two planes more.
void Packed::make_groups(std::uint32_t seed) {
    const auto cols = static_cast<std::size_t>(shape_.cols);
    const auto rows = static_cast<std::size_t>(shape_.rows);
    const auto bits = static_cast<std::size_t>(shape_.params.bits);
    const std::size_t groups = cols / static_cast<std::size_t>(shape_.params.group);
    std::vector<std::byte> codes = random_bytes(rows * cols * bits / 8, seed);
    if (shape_.layout == LayoutId::k_fp8) {  // no NaN
        for (std::byte& code : codes) code &= std::byte{0xf7};
    }
    add_plane(0, cols * bits / 8, std::move(codes));
    std::vector<std::byte> bytes = random_bytes(rows * groups, seed + 1);
    switch (shape_.layout) {
        case LayoutId::k_nvfp4:
            for (std::byte& scale : bytes) scale &= std::byte{0x77};
            add_plane(1, groups, std::move(bytes));
            return add_plane(2, 0, bytes_of(std::vector<float>{0.0123f}));
        case LayoutId::k_bfp:
        case LayoutId::k_fp8:
            if (shape_.params.scale != ScaleType::kE8m0) break;
            for (std::byte& d : bytes) d = static_cast<std::byte>(118 + (static_cast<int>(d) & 7));
            return add_plane(1, groups, std::move(bytes));
        case LayoutId::k_bitmod:
            add_plane(2, (groups + 3) / 4, random_bytes(rows * ((groups + 3) / 4), seed + 2));
            break;
        case LayoutId::k_jlcm: {
            std::vector<std::uint16_t> books(rows);
            for (std::size_t r = 0; r < rows; ++r) books[r] = static_cast<std::uint16_t>(r % 3);
            add_plane(2, 2, bytes_of(books));
            add_plane(3, 0, random_bytes(std::size_t{3} << bits, seed + 2));
            break;
        }
        default:
            break;
    }
    const std::size_t size = shape_.params.scale == ScaleType::kF32 ? 4 : 2;
    add_plane(1, groups * size, scales_of(shape_.params.scale, rows * groups, seed + 1, 0.1f));
}

// About half of the weights kept, with room for all of them.
void Packed::make_sparse(std::uint32_t seed) {
    using L = Layout<LayoutId::k_sparse>;
    LayoutParams& params = shape_.params;
    params.slots = static_cast<std::int32_t>(shape_.cols);
    const auto cols = static_cast<std::size_t>(shape_.cols);
    const auto rows = static_cast<std::size_t>(shape_.rows);
    add_plane(L::kMask, cols / 8, random_bytes(rows * cols / 8, seed));
    if (!L::has_codes(params))
        return add_plane(L::kValues, cols * 2, scales_of(params.scale, rows * cols, seed + 1, 1));
    const std::size_t bytes = cols * static_cast<std::size_t>(params.bits) / 8;
    add_plane(L::kValues, bytes, random_bytes(rows * bytes, seed + 1));
    const std::size_t groups = cols / static_cast<std::size_t>(params.group);
    add_plane(L::kScales, groups * 2,
              scales_of(params.scale, rows * groups, seed + 2,
                        1.0f / static_cast<float>(1 << (params.bits - 1))));
}

void Packed::add_plane(int plane, std::size_t row_bytes, std::vector<std::byte> bytes) {
    shape_.row_bytes[plane] = row_bytes;
    planes_[static_cast<std::size_t>(plane)] = std::move(bytes);
}

void Packed::make_blocks(std::uint32_t seed) {
    with_layout(shape_.layout, [&](auto layout) {
        using L = decltype(layout);
        using Block = typename L::Block;
        const auto across = static_cast<std::size_t>(shape_.cols / L::kElements);
        const std::size_t count = across * static_cast<std::size_t>(shape_.rows);
        std::vector<std::byte> bytes = random_bytes(count * sizeof(Block), seed);
        const std::vector<float> floats = values(count, seed + 1);
        for (std::size_t i = 0; i < count; ++i) {
            Block block;
            std::memcpy(&block, bytes.data() + i * sizeof block, sizeof block);
            mend(block, floats[i]);
            std::memcpy(bytes.data() + i * sizeof block, &block, sizeof block);
        }
        add_plane(0, across * sizeof(Block), std::move(bytes));
    });
}

void Packed::make_affine(const PackedForm& form, std::uint32_t seed) {
    using L = Layout<LayoutId::k_affine>;
    const auto cols = static_cast<std::size_t>(shape_.cols);
    const auto rows = static_cast<std::size_t>(shape_.rows);
    const auto bits = static_cast<std::size_t>(form.params.bits);
    const std::size_t groups = cols / static_cast<std::size_t>(form.params.group);
    const std::size_t scale_bytes = form.params.scale == ScaleType::kF32 ? 4 : 2;
    add_plane(L::kCodes, cols * bits / 8, random_bytes(rows * cols * bits / 8, seed));
    add_plane(L::kScales, groups * scale_bytes,
              scales_of(form.params.scale, rows * groups, seed + 1,
                        2.0f / static_cast<float>(1 << bits)));
    if (form.zeros) {
        std::vector<std::byte> zeros = random_bytes(rows * groups, seed + 2);
        for (std::byte& z : zeros) z &= static_cast<std::byte>((1 << bits) - 1);
        add_plane(L::kZeros, groups, std::move(zeros));
    }
    if (form.groups) {
        std::vector<std::uint16_t> of(cols);
        for (std::size_t c = 0; c < cols; ++c)
            of[c] = static_cast<std::uint16_t>(philox(seed + 3, c).v[0] % groups);
        add_plane(L::kGroups, 0, bytes_of(of));
    }
}

void Packed::make_nf4(std::uint32_t seed) {
    using L = Layout<LayoutId::k_nf4>;
    const auto cols = static_cast<std::size_t>(shape_.cols);
    const auto rows = static_cast<std::size_t>(shape_.rows);
    const std::size_t groups = cols / static_cast<std::size_t>(shape_.params.group);
    const bool nested = shape_.params.scale == ScaleType::kNested;
    add_plane(L::kCodes, cols / 2, random_bytes(rows * cols / 2, seed));
    add_plane(L::kValues, 0, bytes_of(values(nested ? 16 + 256 : 16, seed + 1, 0.5f)));
    if (!nested) {
        add_plane(L::kPeaks, groups * 4, bytes_of(values(rows * groups, seed + 2)));
        return;
    }
    add_plane(L::kPeaks, groups, random_bytes(rows * groups, seed + 2));
    std::vector<std::int32_t> origin;
    for (std::size_t r = 0; r < rows; ++r)  // as if the rows stood 100 groups apart
        origin.push_back(static_cast<std::int32_t>(r * 100));
    add_plane(L::kOrigin, 4, bytes_of(origin));
    add_plane(L::kNested, 0, bytes_of(values(2 + (rows * 100 + groups) / 256, seed + 3)));
}

cuda::Matrix Packed::matrix() const {
    cuda::Matrix out = shape_;
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        if (planes_[i].empty()) continue;
        device_[i] = std::make_unique<Array<std::byte>>(planes_[i]);
        out.planes[i] = device_[i]->data();
    }
    return out;
}

std::vector<double> Packed::row(std::int64_t r) const {
    PackedRow row{};
    row.params = shape_.params;
    for (std::size_t i = 0; i < planes_.size(); ++i) {
        if (!planes_[i].empty())
            row.planes[i] = planes_[i].data() + static_cast<std::size_t>(r) * shape_.row_bytes[i];
    }
    std::vector<double> out(static_cast<std::size_t>(shape_.cols));
    unpack_columns(shape_.layout, row, 0, shape_.cols, out.data());
    return out;
}

}  // namespace thimble::cuda_test
