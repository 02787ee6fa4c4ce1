// SPDX-License-Identifier: Apache-2.0
// f64: weights in double precision, for rewrites of a model that are to be compared to the last
// digit. What a float cannot hold is seen on the reference device only; a weight past a float's
// range is refused.
#include <cmath>
#include <limits>

#include "format/block_format.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_f64;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "f64",
                .layout = kLayout,
                .lossless = true,
                .nominal_bits_per_weight = 64,
                .doubles = true};
    }
    template <class Real>
    static void encode(const Real* weights, const float*, Block& out) {
        out.value = static_cast<double>(*weights);
    }
    static bool finite(const Block& block) {
        constexpr double kMost = std::numeric_limits<float>::max();
        return std::abs(block.value) <= kMost;
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_f64() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
