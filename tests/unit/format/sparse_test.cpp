// SPDX-License-Identifier: Apache-2.0
// sparse: what comes back is what was there, bit for bit where it is a float of its kind; planes
// are as large as the kept weights ask for; and masks that say more than there is are refused.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/sparse.h"
#include "tests/kernels/harness.h"

using namespace thimble;

namespace {

using L = Layout<LayoutId::k_sparse>;

// A matrix with room for what it keeps.
struct Packed final : PlaneSink {
    std::array<std::vector<std::byte>, kMaxPlanes> bytes;
    SharedFormat format;
    PackedForm form;
    Shape2 shape;

    Packed(const char* spec, Shape2 of, const std::vector<float>& weights) : shape(of) {
        format = make_format(spec, "test");
        if (const auto fitting = format->fitting(shape)) {
            const std::size_t half =
                static_cast<std::size_t>(shape.rows / 2) * static_cast<std::size_t>(shape.cols);
            fitting->see(std::span(weights).subspan(half));
            fitting->see(std::span(weights).first(half));
            format = fitting->fitted();
        }
        form = form_of(*format, shape);
        format->encoder(shape, {})->encode(0, weights, *this);
    }
    void append(int plane, std::span<const std::byte> more) override {
        auto& to = bytes[static_cast<std::size_t>(plane)];
        to.insert(to.end(), more.begin(), more.end());
    }
    [[nodiscard]] PackedView view() const {
        PackedView out{form.layout, shape, {}, static_cast<int>(form.planes.size()), form.params};
        for (std::size_t p = 0; p < form.planes.size(); ++p)
            out.planes[p] = {bytes[p].data(), form.planes[p].row_bytes, form.planes[p].bytes};
        return out;
    }
    [[nodiscard]] std::vector<float> decoded() const {
        std::vector<float> out(static_cast<std::size_t>(shape.rows * shape.cols), NAN);
        format->decode(view(), {0, shape.rows},
                       {out.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
        return out;
    }
};

std::vector<float> pruned(Shape2 shape, std::uint64_t seed) {
    std::vector<float> weights = test::Random(seed).normals(shape.rows * shape.cols, 0.05F);
    test::prune_rows(weights, shape.cols, seed);
    return weights;
}

template <class Fn>
std::string refusal(Fn&& fn) {
    try {
        fn();
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kBadData);
        return e.where() + " " + e.problem();
    }
    return "";
}

}  // namespace

TEST_CASE("sparse: floats of the kind that is stored come back bit for bit, -0 as 0") {
    for (const bool f16 : {false, true}) {
        const Shape2 shape{13, 160};
        std::vector<float> weights = pruned(shape, 41);
        for (float& w : weights) w = f16 ? f16_to_f32(f32_to_f16(w)) : bf16_to_f32(f32_to_bf16(w));
        for (std::size_t i = 0; i < weights.size(); ++i) {
            if (i % 160 >= 120) weights[i] = 0;
        }
        const float smallest = f16 ? 0x1p-24F : 0x1p-133F;  // of the subnormals
        weights[161] = smallest, weights[162] = -smallest;
        weights[170] = -0.0F;
        weights[171] = smallest / 4;  // rounds to zero
        weights[172] = f16 ? 65504.0F : 0x1.FEp127F;
        const Packed p(f16 ? "sparse:values=f16" : "sparse", shape, weights);
        CHECK_NOTHROW(p.format->verify(p.view(), {0, shape.rows}));
        const std::vector<float> back = p.decoded();
        weights[170] = weights[171] = 0;
        CHECK(std::memcmp(back.data(), weights.data(), 4 * weights.size()) == 0);
    }
}

TEST_CASE("sparse: floats that a mask makes larger stay as they are") {
    const Shape2 shape{4, 64};
    std::vector<float> weights(4 * 64, 1.0F);
    for (std::size_t i = 0; i < weights.size(); i += 16) weights[i] = 0;  // 60 of 64 stay
    const auto chosen = [&](const char* spec) { return Packed(spec, shape, weights).format; };
    CHECK(chosen("sparse")->name() == "bf16");
    CHECK(chosen("sparse:values=f16")->name() == "f16");
    CHECK(chosen("sparse8")->name() == "sparse");
    for (std::size_t i = 1; i < weights.size(); i += 64) weights[i] = 0;
    CHECK(spec_of(*chosen("sparse")) == "sparse:slots=59");
}

TEST_CASE("sparse: planes hold the mask and the kept values in order") {
    const Shape2 shape{9, 96};
    const std::vector<float> weights = pruned(shape, 42);
    const Packed p("sparse", shape, weights);
    CHECK(p.form.params.slots == 84);  // of the row with one zero in eight
    const auto slots = static_cast<std::size_t>(p.form.params.slots);
    for (std::size_t r = 0; r < 9; ++r) {
        std::size_t n = 0;
        for (std::size_t k = 0; k < 96; ++k) {
            const float w = weights[r * 96 + k];
            const auto byte = static_cast<unsigned>(p.bytes[L::kMask][r * 12 + k / 8]);
            CHECK((byte >> k % 8 & 1U) == (w != 0 ? 1U : 0U));
            if (w == 0) continue;
            std::uint16_t half = 0;
            std::memcpy(&half, &p.bytes[L::kValues][2 * (r * slots + n++)], 2);
            CHECK(half == f32_to_bf16(w));
        }
        for (; n < slots; ++n) {
            std::uint16_t half = 1;
            std::memcpy(&half, &p.bytes[L::kValues][2 * (r * slots + n)], 2);
            CHECK(half == 0);
        }
    }
}

TEST_CASE("sparse: two of four fill every slot, whatever a weight is stored as") {
    const Shape2 shape{7, 128};
    std::vector<float> weights = test::Random(43).normals(7 * 128);
    for (std::size_t i = 0; i < weights.size(); ++i) {
        if ((i + i / 128) % 4 < 2) weights[i] = 0;
    }
    const auto bytes = [&](const char* spec) {
        return Packed(spec, shape, weights).view().bytes();
    };
    CHECK(bytes("sparse") == 7 * (128 / 8 + 64 * 2));
    CHECK(bytes("sparse8") == 7 * (128 / 8 + 64 + 2 * 2));
    CHECK(bytes("sparse4:group=32") == 7 * (128 / 8 + 32 + 4 * 2));
    // As asked for, without a look.
    const SharedFormat asked = make_format("sparse:slots=64", "test");
    CHECK(asked->fitting(shape) == nullptr);
    CHECK(form_of(*asked, shape).params.slots == 64);
    CHECK(make_format("sparse", "test")->fitting(shape) != nullptr);
}

TEST_CASE("sparse: codes are within half a step of the group's scale, and zeros stay zero") {
    for (const char* spec : {"sparse8", "sparse8:group=0", "sparse4", "sparse4:group=32"}) {
        CAPTURE(spec);
        const Shape2 shape{11, 192};
        const std::vector<float> weights = pruned(shape, 44);
        const Packed p(spec, shape, weights);
        const std::vector<float> back = p.decoded();
        const auto most = static_cast<float>((1 << (p.form.params.bits - 1)) - 1);
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            const PackedRow row = p.view().packed_row(r);
            for (std::int64_t k = 0; k < shape.cols; ++k) {
                const auto i = static_cast<std::size_t>(r * shape.cols + k);
                if (weights[i] == 0) REQUIRE(back[i] == 0);
                const float scale = L::scale_at(row, k / p.form.params.group);
                const float inside = std::clamp(weights[i], -most * scale, most * scale);
                REQUIRE(std::fabs(back[i] - inside) <= scale * 0.5001F);
            }
        }
    }
}

TEST_CASE("sparse: an all-zero matrix has planes, and is small") {
    const Shape2 shape{5, 64};
    for (const char* spec : {"sparse", "sparse8", "sparse4"}) {
        const Packed p(spec, shape, std::vector<float>(5 * 64));
        CHECK_NOTHROW(p.format->verify(p.view(), {0, 5}));
        for (const float w : p.decoded()) REQUIRE(w == 0);
        CHECK(p.view().bytes() <= 5 * (8 + 2 + 2));
    }
}

TEST_CASE("sparse: a row with more weights than there are slots is refused by its number") {
    std::vector<float> weights(3 * 64);
    for (std::size_t i = 64; i < 64 + 9; ++i) weights[i] = 1;
    CHECK(refusal([&] {
              Packed("sparse:slots=8", {3, 64}, weights);
          }) == "row 1 has 9 weights that are not zero, and room for 8");
    CHECK_NOTHROW(Packed("sparse:slots=9", {3, 64}, weights));
}

TEST_CASE("sparse: no mask may reach past the slots, no value be anything but a number") {
    const Shape2 shape{6, 64};
    std::vector<float> weights(6 * 64);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = i % 64 < 20 ? 0.5F : 0.0F;
    const auto verify = [&](const char* spec, int plane, std::size_t at, int byte) {
        Packed p(spec, shape, weights);
        p.bytes[static_cast<std::size_t>(plane)][at] = static_cast<std::byte>(byte);
        CHECK(refusal([&] { p.format->verify(p.view(), {0, 4}); }).empty());
        return refusal([&] { p.format->verify(p.view(), {0, 6}, 100); });
    };
    for (const char* spec : {"sparse", "sparse8", "sparse4"}) {
        CAPTURE(spec);
        // Row 4's last byte of the mask: one bit more.
        CHECK(verify(spec, L::kMask, 4 * 8 + 7, 0x80).find("row 104") == 0);
        CHECK(verify(spec, L::kMask, 4 * 8 + 7, 0).empty());
    }
    CHECK(verify("sparse", L::kValues, 2 * (4 * 20 + 19) + 1, 0x7f).empty());  // 0x7f00: finite
    CHECK(verify("sparse", L::kValues, 2 * (4 * 20 + 19), 0x80).empty());
    CHECK(verify("sparse:values=f16", L::kValues, 2 * (4 * 20 + 19) + 1, 0x7c).find("row 104") ==
          0);
    CHECK(verify("sparse8", L::kScales, 2 * 4 + 1, 0x7c).find("row 104") == 0);
}

TEST_CASE("sparse: planes of other sizes are refused") {
    const WeightFormat& format = format_of(LayoutId::k_sparse);
    const Shape2 shape{4, 96};
    const PlaneInfo mask{"mask", DType::kU8, {4, 12}}, scales{"scales", DType::kF16, {4, 3}};
    const auto refused = [&](std::vector<PlaneInfo> planes, const char* what) {
        const std::string said = refusal([&] { (void)format.form(shape, planes); });
        CAPTURE(said);
        CHECK(said.find(what) != std::string::npos);
    };
    CHECK_NOTHROW((void)format.form(shape, std::vector{mask, {"values", DType::kBF16, {4, 96}}}));
    refused({mask, {"values", DType::kBF16, {4, 97}}}, "room for 97");
    refused({mask, {"values", DType::kBF16, {5, 48}}}, "one row for each of 4");
    refused({mask, {"values", DType::kF32, {4, 48}}}, "has type");
    refused({{"mask", DType::kU8, {4, 13}}, {"values", DType::kBF16, {4, 48}}}, "13 bytes");
    refused({mask, {"values", DType::kI8, {4, 48}}}, "'scales' is missing");
    refused({mask, {"values", DType::kBF16, {4, 48}}, scales}, "not one of this format");
    refused({mask, {"values", DType::kU8, {4, 49}}, scales}, "room for 98");
    refused({mask, {"values", DType::kU8, {4, 48}}, {"scales", DType::kF16, {4, 2}}}, "2 groups");
    CHECK(form_of(*make_format("sparse4:slots=31", "test"), shape).params.slots == 32);
}
