// SPDX-License-Identifier: Apache-2.0
// The codes of formats stand for the numbers that were published: literals of the papers,
// specifications and public code, none of them taken from what is tested.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "format/dynamic_values.h"
#include "format/weight_format.h"
#include "kernels/layout/bitmod.h"
#include "kernels/layout/e2m1.h"
#include "kernels/layout/e4m3.h"
#include "kernels/layout/nf4.h"

using namespace thimble;

namespace {

struct Planes final : PlaneSink {
    std::array<std::vector<std::byte>, kMaxPlanes> bytes;
    void append(int plane, std::span<const std::byte> more) override {
        auto& to = bytes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), more.begin(), more.end());
    }
};

// One group of 64, the first of them 1.
Planes encoded(const char* spec, std::vector<float> weights) {
    weights.resize(64);
    Planes planes;
    make_format(spec, "test")->encoder({1, 64}, {})->encode(0, weights, planes);
    return planes;
}

std::vector<float> values_of(const char* spec) {
    const Planes planes = encoded(spec, {1});
    std::vector<float> values(16);
    std::memcpy(values.data(), planes.bytes[Layout<LayoutId::k_nf4>::kValues].data(), 64);
    return values;
}

}  // namespace

TEST_CASE("tables: values of nf4 and fp4") {
    CHECK(values_of("nf4:nested=false") ==
          std::vector<float>{-1.0f, -0.6961928009986877f, -0.5250730514526367f,
                             -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f,
                             -0.09105003625154495f, 0.0f, 0.07958029955625534f,
                             0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                             0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f});
    const std::vector<float> fp4 = {0.0f,         0.0052083333f, 0.6666666667f, 1.0f,
                                    0.333333333f, 0.5f,          0.1666666667f, 0.25f};
    const std::vector<float> values = values_of("nf4:values=fp4,nested=false");
    for (std::size_t i = 0; i < 8; ++i) {
        CHECK(values[i] == fp4[i]);
        CHECK(values[8 + i] == -fp4[i]);
    }
}

TEST_CASE("tables: codes of nf4 change at the thresholds") {
    const std::vector<float> thresholds = {
        -0.8480964004993439f,  -0.6106329262256622f,  -0.4599952697753906f,   -0.33967943489551544f,
        -0.23460740596055984f, -0.13791173323988914f, -0.045525018125772476f, 0.03979014977812767f,
        0.1202552504837513f,   0.2035212516784668f,   0.2920137718319893f,    0.3893125355243683f,
        0.5016634166240692f,   0.6427869200706482f,   0.8614784181118011f};
    std::vector<float> weights = {1, 0};
    for (const float t : thresholds) weights.push_back(t - 1e-6f), weights.push_back(t + 1e-6f);
    const Planes planes = encoded("nf4:nested=false", weights);
    for (std::size_t i = 0; i < 15; ++i) {
        const auto both = planes.bytes[0][1 + i];
        CHECK(std::to_integer<std::size_t>(both) == (i << 4 | (i + 1)));
    }
}

TEST_CASE("tables: the signed dynamic map") {
    // Upwards from zero, of bitsandbytes' create_dynamic_map().
    const std::vector<double> positive = {
        5.5e-07,      3.25e-06,    7.75e-06,   2.125e-05,  4.375e-05,    6.625e-05,    8.875e-05,
        0.00015625,   0.00026875,  0.00038125, 0.00049375, 0.0006062501, 0.0007187501, 0.00083125,
        0.0009437501, 0.00128125,  0.00184375, 0.00240625, 0.00296875,   0.00353125,   0.00409375,
        0.00465625,   0.00521875,  0.00578125, 0.00634375, 0.00690625,   0.00746875,   0.00803125,
        0.00859375,   0.009156249, 0.00971875, 0.01140625, 0.01421875,   0.01703125,   0.01984375,
        0.02265625,   0.02546875,  0.02828125, 0.03109375, 0.03390625,   0.03671875,   0.03953125,
        0.04234375,   0.04515625,  0.04796875, 0.05078125, 0.05359375,   0.05640625,   0.05921875,
        0.06203125,   0.06484375,  0.06765626, 0.07046875, 0.07328125,   0.07609375,   0.07890625,
        0.08171876,   0.08453125,  0.08734375, 0.09015625, 0.09296875,   0.09578126,   0.09859375,
        0.1070313,    0.1210938,   0.1351562,  0.1492188,  0.1632812,    0.1773438,    0.1914062,
        0.2054687,    0.2195313,   0.2335937,  0.2476562,  0.2617188,    0.2757813,    0.2898437,
        0.3039063,    0.3179687,   0.3320312,  0.3460937,  0.3601562,    0.3742188,    0.3882812,
        0.4023438,    0.4164062,   0.4304687,  0.4445313,  0.4585937,    0.4726562,    0.4867187,
        0.5007812,    0.5148437,   0.5289062,  0.5429688,  0.5570313,    0.5710938,    0.5851563,
        0.5992187,    0.6132812,   0.6273438,  0.6414063,  0.6554688,    0.6695312,    0.6835938,
        0.6976563,    0.7117188,   0.7257813,  0.7398437,  0.7539062,    0.7679688,    0.7820312,
        0.7960938,    0.8101562,   0.8242188,  0.8382813,  0.8523437,    0.8664063,    0.8804687,
        0.8945312,    0.9085938,   0.9226562,  0.9367188,  0.9507812,    0.9648438,    0.9789063,
        0.9929687};
    const std::vector<double> map = signed_dynamic_values();
    REQUIRE(map.size() == 256);
    CHECK(map[127] == 0);
    CHECK(map[255] == 1);
    for (std::size_t i = 0; i < 127; ++i) {
        CHECK(map[128 + i] == doctest::Approx(positive[i]).epsilon(1e-6));
        CHECK(map[126 - i] == -map[128 + i]);
    }
}

TEST_CASE("tables: datatypes of bitmod, E2M1 and E4M3") {
    const std::vector<double> fp4 = {0, 0.5, 1, 1.5, 2, 3, 4, 6}, fp3 = {0, 1, 2, 4};
    for (int i = 0; i < 8; ++i) {
        const double want = fp4[static_cast<std::size_t>(i)];
        CHECK(E2m1::value(i) == 2 * want);
        CHECK(E2m1::value(8 | i) == -2 * want);
        CHECK(Bitmod<4>::value(i) == 2 * want);
        if (i > 0) CHECK(Bitmod<4>::value(8 | i) == -2 * want);
    }
    for (int i = 0; i < 4; ++i) {
        const double want = fp3[static_cast<std::size_t>(i)];
        CHECK(Bitmod<3>::value(i) == want);
        if (i > 0) CHECK(Bitmod<3>::value(4 | i) == -want);
    }
    const std::vector<double> extra4 = {5, -5, 8, -8}, extra3 = {3, -3, 6, -6};
    for (int id = 0; id < 4; ++id) {
        CHECK(Bitmod<4>::special(id) == 2 * extra4[static_cast<std::size_t>(id)]);
        CHECK(Bitmod<3>::special(id) == extra3[static_cast<std::size_t>(id)]);
    }
    // OCP's table of E4M3: largest and least of normal and subnormal numbers.
    CHECK(e4m3_to_f32(0x7e) == 448.0f);
    CHECK(e4m3_to_f32(0xfe) == -448.0f);
    CHECK(e4m3_to_f32(0x08) == 0.015625f);
    CHECK(e4m3_to_f32(0x07) == 0.013671875f);
    CHECK(e4m3_to_f32(0x01) == 0.001953125f);
    CHECK(e4m3_to_f32(0x38) == 1.0f);
    CHECK(e4m3_to_f32(0x39) == 1.125f);
    CHECK(e4m3_is_nan(0x7f));
    CHECK(e4m3_is_nan(0xff));
}
