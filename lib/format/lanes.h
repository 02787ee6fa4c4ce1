// SPDX-License-Identifier: Apache-2.0
// Four float lanes for encoders. Sums keep one partial result per lane and add the lanes in a fixed
// order, so the bytes do not depend on what the compiler vectorises.
#pragma once

#include <cstring>

namespace thimble {

using Lanes = float __attribute__((vector_size(16)));

inline Lanes load_lanes(const float* p) {
    Lanes v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Lanes spread(float f) { return Lanes{f, f, f, f}; }
inline Lanes lane_min(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes lane_max(Lanes a, Lanes b) { return a > b ? a : b; }
inline float sum_lanes(Lanes v) { return (v[0] + v[1]) + (v[2] + v[3]); }
// Nearest integer, ties to even, for |v| < 2^22: at 1.5 * 2^23 a float's last place is one.
inline Lanes round_lanes(Lanes v) {
    const Lanes shift = spread(12582912.0f);
    return (v + shift) - shift;
}
inline float round_even(float v) { return (v + 12582912.0f) - 12582912.0f; }

}  // namespace thimble
