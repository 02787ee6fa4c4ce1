// SPDX-License-Identifier: Apache-2.0
// bipolar: codes whose bits are all signs, so that products of weights and activations of any
// widths are sums over pairs of bit planes ("Accelerating Arbitrary-Precision LLMs with
// Bipolar-INT", AP-LLM, 2024, section 3.1). What finds a group's scale is not published: ours.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/groups.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_bipolar>;

struct BipolarOptions {
    std::int64_t bits = 4, group = 128;
    std::string fit = "mse";
    void visit(OptionVisitor& v) {
        v.option({.name = "bits", .help = "of a code", .value = "N", .least = 1, .most = 8}, bits);
        v.option({.name = "group",
                  .help = "columns under one scale, a multiple of 32, halved until that divides "
                          "the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "fit",
                  .help = "peak: the largest weight has the largest code; mse: least squared error",
                  .choices = {"peak", "mse"}},
                 fit);
    }
};

class BipolarRow {
  public:
    BipolarRow(const FormatInfo& info, BipolarOptions options, std::int64_t cols,
               encode::SearchScale search)
        : info_(info),
          search_(search ? search : encode::plain::search_scales),
          options_(std::move(options)),
          cols_(cols),
          group_(dividing_group(options_.group, cols)),
          bits_(static_cast<int>(options_.bits)),
          most_((1 << bits_) - 1) {}

    void operator()(std::int64_t row, const float* weights, const float* importance,
                    PlaneSink& sink) const {
        std::vector<std::uint8_t> words(static_cast<std::size_t>(cols_ / 8 * bits_));
        std::vector<float> w;
        ScaleRow scales(ScaleType::kF16);
        for (std::int64_t k = 0; k < cols_; k += group_) {
            group_importance(importance ? importance + k : nullptr, group_, w);
            const float scale = scales.add(fit(weights + k, w));
            if (!std::isfinite(scale)) throw_too_large(info_, row, k);
            for (std::int64_t i = k; i < k + group_; ++i) {
                std::uint8_t* tile = words.data() + i / 32 * 4 * bits_;
                const int code = this->code(weights[i], scale);
                for (int b = 0; b < bits_; ++b)
                    tile[4 * b + i % 32 / 8] |=
                        static_cast<std::uint8_t>((code >> b & 1) << (i % 8));
            }
        }
        sink.append(L::kPlanesOfBits, std::as_bytes(std::span(words)));
        sink.append(L::kScales, scales.bytes());
    }

  private:
    [[nodiscard]] int code(float weight, float scale) const {
        if (bits_ == 1 || !(scale > 0x1p-126f)) return weight >= 0 ? (most_ + 1) / 2 : most_ / 2;
        const float u = (weight / scale + static_cast<float>(most_)) * 0.5f;
        return static_cast<int>(
            encode::plain::round_even(std::clamp(u, 0.0f, static_cast<float>(most_))));
    }

    [[nodiscard]] float fit(const float* group, const std::vector<float>& w) const {
        float peak = 0;
        double sum = 0, total = 0;
        for (std::int64_t i = 0; i < group_; ++i) {
            const double weight = static_cast<double>(w[static_cast<std::size_t>(i)]);
            peak = std::max(peak, std::fabs(group[i]));
            sum += weight * static_cast<double>(std::fabs(group[i]));
            total += weight;
        }
        // One bit: whatever the scale, the codes are the signs, and the mean is the best.
        if (bits_ == 1) return static_cast<float>(sum / total);
        const float by_peak = peak / static_cast<float>(most_);
        if (options_.fit == "peak") return by_peak;
        encode::ScaleSearch problem{.layout = LayoutId::k_bipolar, .bits = bits_, .weights = group};
        problem.importance = w.data(), problem.n = static_cast<int>(group_);
        search_(problem);
        return problem.scale;
    }

    FormatInfo info_;
    encode::SearchScale search_;
    BipolarOptions options_;
    std::int64_t cols_, group_;
    int bits_, most_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_bipolar;
    using Options = BipolarOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        return {.name = "bipolar",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = static_cast<double>(o.bits) + 16 / group,
                .error_bound = bound(o)};
    }

    // A step, or what a fitted scale cuts off; of one bit, all but the mean.
    static double bound(const Options& o) {
        if (o.bits == 1) return 1;
        if (o.fit == "peak") return 1.01 / ((1 << o.bits) - 1);
        return o.bits < 4 ? 1 : 0.6;
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::int64_t group = checked_group("bipolar", o.group, shape.cols);
        if (group % L::kElements != 0)
            throw Error(Exit::kUsage, "bipolar: group", "must be a multiple of 32");
        return {{"planes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(o.bits) / 8}},
                {"scales", DType::kF16, {rows, cols / static_cast<std::uint64_t>(group)}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        return make_row_encoder(info(o), shape, encode,
                                BipolarRow(info(o), o, shape.cols, encode.fit));
    }

    static PackedForm form(PlanePicker& picker, Shape2) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kPlanesOfBits] = picker.rows("planes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("planes", bytes, L::kElements, 1, 8);
        form.planes[L::kScales] = picker.rows("scales", {DType::kF16}, groups);
        form.params.group = picker.group("scales", groups, L::kElements);
        form.params.scale = ScaleType::kF16;
        return form;
    }

    static void verify_tables(const PackedView&) {}
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            if (!std::isfinite(L::scale_at(row, g)))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_bipolar() {
    return std::make_unique<PlaneFormat<Codec>>();
}

}  // namespace thimble
