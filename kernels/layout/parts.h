// SPDX-License-Identifier: Apache-2.0
// Blocks of more than 32 weights also decode in parts of 32, which is what one thread of a device
// holds in registers. Their layouts have
//   template <class Real> static void unpack_part(const Block&, int part, Real* out /* [32] */);
#pragma once

namespace thimble {

inline constexpr int kPartElements = 32;

}  // namespace thimble
