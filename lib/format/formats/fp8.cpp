// SPDX-License-Identifier: Apache-2.0
// fp8: E4M3 values scaled per row or group by a float, or per 32 columns by a power of two (MXFP8
// of the "OCP Microscaling Formats (MX) Specification" 1.0, 2023). differs: the specification's
// conversion takes the peak's own exponent, which clips peaks above 448/512 of the next power of
// two; here the exponent above is tried, too.
#include "format/plane_format.h"
#include "format/row_encoder.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_fp8>;

struct Fp8Options {
    std::int64_t group = 0;
    std::string scale = "f32";
    void visit(OptionVisitor& v) {
        v.option({.name = "group",
                  .help = "columns under one scale, halved until that divides the row; 0: a row, "
                          "or 32 with scale=e8m0",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option(
            {.name = "scale", .help = "f32, or e8m0: powers of two", .choices = {"f32", "e8m0"}},
            scale);
    }
    [[nodiscard]] bool powers() const { return scale == "e8m0"; }
    [[nodiscard]] std::int64_t wanted() const { return group == 0 && powers() ? 32 : group; }
};

class Fp8Row {
  public:
    Fp8Row(const Fp8Options& options, std::int64_t cols)
        : powers_(options.powers()), cols_(cols), group_(dividing_group(options.wanted(), cols)) {}

    void operator()(std::int64_t, const float* weights, const float* importance,
                    PlaneSink& sink) const {
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_)), exponents;
        std::vector<float> w;
        ScaleRow scales(ScaleType::kF32);
        for (std::int64_t k = 0; k < cols_; k += group_) {
            group_importance(importance ? importance + k : nullptr, group_, w);
            float peak = 0;
            for (std::int64_t i = k; i < k + group_; ++i)
                peak = std::max(peak, std::fabs(weights[i]));
            float scale = peak / kE4m3Most;
            if (powers_) {
                const int own = static_cast<int>(float_to_bits(peak) >> 23) - 8;
                int d = std::clamp(own, 0, kE8m0Finite);
                if (d < kE8m0Finite &&
                    error(weights + k, w, power(d + 1)) < error(weights + k, w, power(d)))
                    ++d;
                exponents.push_back(static_cast<std::uint8_t>(d));
                scale = power(d);
            } else {
                scales.add(scale);
            }
            for (std::int64_t i = k; i < k + group_; ++i)
                codes[static_cast<std::size_t>(i)] = code(weights[i], scale);
        }
        sink.append(L::kCodes, std::as_bytes(std::span(codes)));
        sink.append(L::kScales, powers_ ? std::as_bytes(std::span(exponents)) : scales.bytes());
    }

  private:
    static float power(int d) { return 2 * e8m0_half_to_f32(static_cast<std::uint8_t>(d)); }
    static std::uint8_t code(float weight, float scale) {
        return f32_to_e4m3(scale > 0 ? weight / scale : 0.0f);
    }
    [[nodiscard]] double error(const float* group, const std::vector<float>& w, float scale) const {
        double sum = 0;
        for (std::int64_t i = 0; i < group_; ++i) {
            const auto missed =
                static_cast<double>(group[i] - scale * e4m3_to_f32(code(group[i], scale)));
            sum += static_cast<double>(w[static_cast<std::size_t>(i)]) * missed * missed;
        }
        return sum;
    }

    bool powers_;
    std::int64_t cols_, group_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_fp8;
    using Options = Fp8Options;

    static FormatInfo info(const Options& o) {
        const double group = o.wanted() == 0 ? 4096.0 : static_cast<double>(o.wanted());
        return {.name = "fp8",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = 8 + (o.powers() ? 8 : 32) / group,
                // Half a step at the peak, or a peak clipped from 512 to 448.
                .error_bound = o.powers() ? 0.125 : 0.0358};
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::int64_t group = checked_group("fp8", o.wanted(), shape.cols);
        if (group % L::kElements != 0)
            throw Error(Exit::kUsage, "fp8: group", "must be a multiple of 32");
        return {{"codes", DType::kU8, {rows, cols}},
                {"scales",
                 o.powers() ? DType::kU8 : DType::kF32,
                 {rows, cols / static_cast<std::uint64_t>(group)}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        return make_row_encoder(info(o), shape, encode, Fp8Row(o, shape.cols));
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        if (bytes != shape.cols) picker.fail("codes", "has not one byte for each column");
        form.planes[L::kScales] = picker.rows("scales", {DType::kF32, DType::kU8}, groups);
        form.params.bits = 8;
        form.params.group = picker.group("scales", groups, L::kElements);
        form.params.scale =
            form.planes[L::kScales].dtype == DType::kU8 ? ScaleType::kE8m0 : ScaleType::kF32;
        return form;
    }

    static void verify_tables(const PackedView&) {}
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        const auto* codes = static_cast<const std::uint8_t*>(row.planes[L::kCodes]);
        const auto* d = static_cast<const std::uint8_t*>(row.planes[L::kScales]);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            const bool finite = m.params.scale == ScaleType::kE8m0
                                    ? d[g] <= kE8m0Finite
                                    : std::isfinite(L::scale_at(row, g));
            if (!finite) throw_bad_group(info({}), reported, g, "NaN or infinite scale");
            for (std::int64_t i = 0; i < m.params.group; ++i) {
                if (e4m3_is_nan(codes[g * m.params.group + i]))
                    throw_bad_group(info({}), reported, g, "NaN");
            }
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_fp8() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
