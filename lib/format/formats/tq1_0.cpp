// SPDX-License-Identifier: Apache-2.0
// tq1_0: ternary weights of one scale per 256, five to the byte. Scale and codes are those of
// tq2_0.
#include "format/block_format.h"
#include "format/ternary.h"

namespace thimble {
namespace {

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_tq1_0;
    using Block = Layout<kLayout>::Block;

    static FormatInfo info() {
        return {.name = "tq1_0",
                .layout = kLayout,
                .block_elements = 256,
                .nominal_bits_per_weight = 1.6875,
                // As for tq2_0.
                .error_bound = 1};
    }

    static void encode(const float* weights, const float* importance, Block& out) {
        TernaryBlock plain;
        encode_ternary(weights, importance, plain);
        out.d = plain.d;
        join(plain.digits, 32, 5, out.codes);
        join(plain.digits + 160, 16, 5, out.codes + 32);
        join(plain.digits + 240, 4, 4, out.last);
    }

    // digits[count * n + i], n the place after the point, to byte i: the fraction of 256, rounded
    // up.
    static void join(const std::uint8_t* digits, int count, int places, std::uint8_t* bytes) {
        for (int i = 0; i < count; ++i) {
            int number = 0;
            for (int n = 0; n < 5; ++n)
                number = 3 * number + (n < places ? digits[count * n + i] : 0);
            bytes[i] = static_cast<std::uint8_t>((number * 256 + 242) / 243);
        }
    }

    static bool finite(const Block& block) { return finite_half(block.d); }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_tq1_0() { return std::make_unique<BlockFormat<Codec>>(); }

}  // namespace thimble
