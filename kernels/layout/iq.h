// SPDX-License-Identifier: Apache-2.0
// What the codebook types iq1_s to iq3_s share: a number in a block names a point of a grid, which
// has the magnitudes of 8 or 4 neighbouring weights; their signs are stored beside it. (iq1: the
// point has the signs, and all its weights are moved by an eighth up or down.)
#pragma once

#include <cstdint>

#include "kernels/layout/iq_grids.h"
#include "kernels/layout/rng.h"  // THIMBLE_HOST_DEVICE

// Before a loop whose results a device keeps in registers.
#ifdef __CUDACC__
#define THIMBLE_UNROLL _Pragma("unroll")
#else
#define THIMBLE_UNROLL
#endif

namespace thimble {

// Of a grid: static int point(int number), from the table that is at hand.
#ifdef __CUDA_ARCH__
#define THIMBLE_IQ_POINT(table) \
    THIMBLE_HOST_DEVICE static int point(int number) { return table##Device[number]; }
#else
#define THIMBLE_IQ_POINT(table) \
    THIMBLE_HOST_DEVICE static int point(int number) { return table[number]; }
#endif

// A grid: kWeights digits of kBits bits to a point, each 0..kLevels - 1; value(digit).
struct Iq2Digits {
    static constexpr int kWeights = 8, kBits = 2, kLevels = 3;
    // 8, 25, 43
    THIMBLE_HOST_DEVICE static constexpr int value(int digit) {
        return 8 + 17 * digit + (digit >> 1);
    }
};
struct Iq2XxsGrid : Iq2Digits {
    static constexpr const std::uint16_t (&kPoints)[256] = kIq2XxsGrid;
    THIMBLE_IQ_POINT(kIq2XxsGrid)
};
struct Iq2XsGrid : Iq2Digits {
    static constexpr const std::uint16_t (&kPoints)[512] = kIq2XsGrid;
    THIMBLE_IQ_POINT(kIq2XsGrid)
};
struct Iq2SGrid : Iq2Digits {
    static constexpr const std::uint16_t (&kPoints)[1024] = kIq2SGrid;
    THIMBLE_IQ_POINT(kIq2SGrid)
};
struct Iq3XxsGrid {
    static constexpr int kWeights = 4, kBits = 3, kLevels = 8;
    // 4, 12, 20 ... 52, 62
    THIMBLE_HOST_DEVICE static constexpr int value(int digit) {
        return 4 + 8 * digit + (digit == 7 ? 2 : 0);
    }
    static constexpr const std::uint16_t (&kPoints)[256] = kIq3XxsGrid;
    THIMBLE_IQ_POINT(kIq3XxsGrid)
};
struct Iq3SGrid {
    static constexpr int kWeights = 4, kBits = 3, kLevels = 8;
    // 1, 3, 5 ... 15
    THIMBLE_HOST_DEVICE static constexpr int value(int digit) { return 1 + 2 * digit; }
    static constexpr const std::uint16_t (&kPoints)[512] = kIq3SGrid;
    THIMBLE_IQ_POINT(kIq3SGrid)
};
struct Iq1Grid {
    static constexpr int kWeights = 8, kBits = 2, kLevels = 3;
    // -1, 0, 1
    THIMBLE_HOST_DEVICE static constexpr int value(int digit) { return digit - 1; }
    static constexpr const std::uint16_t (&kPoints)[2048] = kIq1Grid;
    THIMBLE_IQ_POINT(kIq1Grid)
};

#undef THIMBLE_IQ_POINT

template <class Grid>
THIMBLE_HOST_DEVICE constexpr int iq_value(int point, int k) {
    return Grid::value((point >> (Grid::kBits * k)) & ((1 << Grid::kBits) - 1));
}

// Bit k of a byte: weight k is negative. Where 7 bits are stored, an even number of the 8 is set.
THIMBLE_HOST_DEVICE constexpr int even_signs(int seven) {
    int odd = seven ^ seven >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    return seven | (odd & 1) << 7;
}

// out[k] = step * value of the point named, negative where bit k of `signs` is set.
template <class Grid, class Real>
THIMBLE_HOST_DEVICE inline void unpack_point(int number, int signs, Real step, Real* out) {
    const int point = Grid::point(number);
    THIMBLE_UNROLL
    for (int k = 0; k < Grid::kWeights; ++k) {
        const int value = iq_value<Grid>(point, k);
        out[k] = step * static_cast<Real>((signs >> k) & 1 ? -value : value);
    }
}

// The same of iq1's grid, in eighths: moved up by one or, if `down`, down.
template <class Real>
THIMBLE_HOST_DEVICE inline void unpack_iq1_point(int number, bool down, Real step, Real* out) {
    const int point = Iq1Grid::point(number);
    THIMBLE_UNROLL
    for (int k = 0; k < Iq1Grid::kWeights; ++k)
        out[k] = step * static_cast<Real>(8 * iq_value<Iq1Grid>(point, k) + (down ? -1 : 1));
}

THIMBLE_HOST_DEVICE inline std::uint32_t load_u32(const std::uint8_t* p) {
    return p[0] | static_cast<std::uint32_t>(p[1]) << 8 | static_cast<std::uint32_t>(p[2]) << 16 |
           static_cast<std::uint32_t>(p[3]) << 24;
}
THIMBLE_HOST_DEVICE inline void store_u32(std::uint32_t word, std::uint8_t* p) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<std::uint8_t>(word >> (8 * i));
}

}  // namespace thimble
