// SPDX-License-Identifier: Apache-2.0
// nvfp4: E2M1 codes, an E4M3 scale for every 16 and one float for the matrix, without which scales
// of common weights would be subnormal ("Pretraining Large Language Models with NVFP4", 2025).
// differs: with fit=mse a block's peak may become 6, 4 or what the scales beside these make of it,
// whichever leaves the least error.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/groups.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_nvfp4>;
constexpr float kMost = 6;  // of E2M1

struct Nvfp4Options {
    std::string fit = "mse";
    void visit(OptionVisitor& v) {
        v.option({.name = "fit",
                  .help = "peak: a block's largest weight becomes 6; mse: least squared error",
                  .choices = {"peak", "mse"}},
                 fit);
    }
};

class Nvfp4Encoder final : public Encoder {
  public:
    Nvfp4Encoder(const FormatInfo& info, Shape2 shape, const Nvfp4Options& options,
                 const EncodeOptions& encode)
        : info_(info), shape_(shape), importance_(encode.column_importance) {
        if (options.fit == "mse") search_ = encode.fit ? encode.fit : encode::plain::search_scales;
    }

    void scan(std::int64_t first_row, std::span<const float> rows) override {
        for (std::int64_t r = 0; r < rows_in(rows); ++r) {
            const auto row = rows.subspan(static_cast<std::size_t>(r * shape_.cols),
                                          static_cast<std::size_t>(shape_.cols));
            check_finite(info_, first_row + r, 0, row);
            for (const float w : row) peak_ = std::max(peak_, std::fabs(w));
        }
    }

    void encode(std::int64_t first_row, std::span<const float> rows,
                PlaneSink& sink) const override {
        const float matrix = peak_ / (kMost * kE4m3Most);
        if (first_row == 0) sink.append(L::kScale, std::as_bytes(std::span(&matrix, 1)));
        for (std::int64_t r = 0; r < rows_in(rows); ++r)
            encode_row(rows.data() + r * shape_.cols, matrix, sink);
    }

  private:
    [[nodiscard]] std::int64_t rows_in(std::span<const float> rows) const {
        const auto size = static_cast<std::int64_t>(rows.size());
        if (size % shape_.cols != 0) throw_bad_rows(info_);
        return size / shape_.cols;
    }

    void encode_row(const float* weights, float matrix, PlaneSink& sink) const {
        std::vector<std::uint8_t> codes, scales;
        std::vector<float> w;
        for (std::int64_t k = 0; k < shape_.cols; k += L::kGroup) {
            group_importance(importance_.empty() ? nullptr : importance_.data() + k, L::kGroup, w);
            const float* block = weights + k;
            const std::uint8_t scale = choose(block, w, matrix);
            const float step = e4m3_to_f32(scale) * matrix;
            scales.push_back(scale);
            for (int i = 0; i < L::kGroup; ++i) codes.push_back(code(block[i], step));
        }
        append_codes(sink, L::kCodes, codes, 4);
        sink.append(L::kScales, std::as_bytes(std::span(scales)));
    }

    [[nodiscard]] std::uint8_t choose(const float* block, const std::vector<float>& w,
                                      float matrix) const {
        float peak = 0;
        for (int i = 0; i < L::kGroup; ++i) peak = std::max(peak, std::fabs(block[i]));
        const auto scale_of = [&](float most) {
            return matrix > 0 ? f32_to_e4m3(peak / most / matrix) : std::uint8_t{0};
        };
        const std::uint8_t by_peak = scale_of(kMost);
        if (by_peak == 0 || search_ == nullptr) return by_peak;
        // From scales that clip the peak up to those that make it 4.
        encode::ScaleSearch fit{.layout = LayoutId::k_nvfp4, .weights = block};
        fit.importance = w.data(), fit.n = L::kGroup;
        fit.first_id = std::max(by_peak - 2, 1), fit.end_id = std::min(scale_of(4) + 2, 0x7f);
        fit.unit = matrix, fit.id = by_peak;
        search_(fit);
        return static_cast<std::uint8_t>(fit.id);
    }

    // Of the nearest value, the even code of two.
    static std::uint8_t code(float weight, float step) {
        if (!(step > 0)) return 0;
        const float x = std::min(std::fabs(weight) / step, kMost);
        const float unit = x > 4 ? 2.0f : x > 2 ? 1.0f : 0.5f;
        const float value = encode::plain::round_even(x / unit) * unit;
        const float size = value > 4 ? 7.0f : value > 2 ? value + 2 : 2 * value;
        return static_cast<std::uint8_t>(static_cast<int>(size) + (weight < 0 && size > 0 ? 8 : 0));
    }

    FormatInfo info_;
    Shape2 shape_;
    encode::SearchScale search_ = nullptr;  // of the least error; null: the peak's scale
    std::span<const float> importance_;
    float peak_ = 0;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_nvfp4;
    using Options = Nvfp4Options;

    static FormatInfo info(const Options&) {
        return {.name = "nvfp4",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = 4.5,
                // A sixth of a peak between 4 and 6, an eighth of one at 4 and what scales miss.
                .error_bound = 0.25,
                .needs_scan = true};
    }
    static std::vector<PlaneInfo> planes(Shape2 shape, const Options&) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        return {{"codes", DType::kU8, {rows, cols / 2}},
                {"scales", DType::kU8, {rows, cols / 16}},
                {"scale", DType::kF32, {1}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        return std::make_unique<Nvfp4Encoder>(info(o), shape, o, encode);
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("codes", bytes, L::kElements, 4, 4);
        form.planes[L::kScales] = picker.rows("scales", {DType::kU8}, groups);
        form.params.group = L::kGroup;
        if (groups * L::kGroup != shape.cols)
            picker.fail("scales", "has not one value for every 16 columns");
        form.planes[L::kScale] = picker.table("scale", {DType::kF32}, n);
        if (n != 1) picker.fail("scale", "is not one value");
        return form;
    }

    static void verify_tables(const PackedView& m) {
        if (!std::isfinite(L::unit(m.packed_row(0))))
            PlanePicker::fail("scale", "is NaN or infinite");
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const auto* scales = static_cast<const std::uint8_t*>(m.packed_row(r).planes[L::kScales]);
        for (std::int64_t g = 0; g < m.shape.cols / L::kGroup; ++g) {
            if (e4m3_is_nan(scales[g])) throw_bad_group(info({}), reported, g, "NaN scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_nvfp4() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
