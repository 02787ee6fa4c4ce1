// SPDX-License-Identifier: Apache-2.0
// Instruction-set levels that CPU kernels are compiled for. Each level includes the ones before it.
#pragma once

namespace thimble {

enum class Isa : int {
    kPortable = 0,  // the compiler's baseline (SSE2 on x86-64)
    kAvx2 = 1,      // AVX2, FMA, F16C, BMI2
    // F, BW, DQ, VL, VBMI, VBMI2, VNNI, VPOPCNTDQ: Ice Lake, Zen 4 and newer.
    // differs: the design page asks for BF16 too, which no kernel needs and Ice Lake lacks.
    kAvx512 = 2,
};
inline constexpr int kIsaLevels = 3;

// Whether a level has sums of products of whole numbers.
constexpr bool multiplies_bytes(Isa isa) noexcept {
#if defined(__SSE2__)
    return isa >= Isa::kPortable;
#else
    return isa != Isa::kPortable;
#endif
}

}  // namespace thimble
