// SPDX-License-Identifier: Apache-2.0
// bfp: block floating point, codes of a block under one power of two ("Accurate Block Quantization
// in LLMs with Outliers", 2024). Sorting channels by size before (quantize --rearrange) puts likes
// in one block.
// differs: with fit=mse the exponent below the peak's is tried, too, which clips a few weights.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/lanes.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_bfp>;

struct BfpOptions {
    std::int64_t bits = 4, group = 32;
    std::string fit = "mse";
    void visit(OptionVisitor& v) {
        v.option({.name = "bits",
                  .help = "of a code, its sign included",
                  .value = "N",
                  .least = 2,
                  .most = 8},
                 bits);
        v.option({.name = "group",
                  .help = "columns of a block, halved until that divides the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "fit",
                  .help = "peak: the exponent of the largest weight; mse: the better of it and the "
                          "one below",
                  .choices = {"peak", "mse"}},
                 fit);
    }
};

class BfpRow {
  public:
    BfpRow(BfpOptions options, std::int64_t cols)
        : options_(std::move(options)),
          cols_(cols),
          group_(dividing_group(options_.group, cols)),
          middle_(1 << (options_.bits - 1)) {}

    void operator()(std::int64_t, const float* weights, const float* importance,
                    PlaneSink& sink) const {
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_)), exponents;
        std::vector<float> w;
        for (std::int64_t k = 0; k < cols_; k += group_) {
            group_importance(importance ? importance + k : nullptr, group_, w);
            const float* group = weights + k;
            float peak = 0;
            for (std::int64_t i = 0; i < group_; ++i) peak = std::max(peak, std::fabs(group[i]));
            int d = exponent_of(peak);
            if (options_.fit == "mse" && d > 0 && error(group, w, d - 1) < error(group, w, d)) --d;
            exponents.push_back(static_cast<std::uint8_t>(d));
            for (std::int64_t i = 0; i < group_; ++i)
                codes[static_cast<std::size_t>(k + i)] =
                    static_cast<std::uint8_t>(code(group[i], d) + middle_);
        }
        append_codes(sink, L::kCodes, codes, static_cast<int>(options_.bits));
        sink.append(L::kExponents, std::as_bytes(std::span(exponents)));
    }

  private:
    // With it the peak's code has all bits: step = 2^(floor(log2 peak) + 2 - bits).
    [[nodiscard]] int exponent_of(float peak) const {
        const int own = static_cast<int>(float_to_bits(peak) >> 23) - 127;
        return std::clamp(own + 2 - static_cast<int>(options_.bits) + 128, 0, kE8m0Finite);
    }
    [[nodiscard]] int code(float weight, int d) const {
        const float place = weight / e8m0_half_to_f32(static_cast<std::uint8_t>(d));
        const auto most = static_cast<float>(middle_ - 1);
        return static_cast<int>(encode::plain::round_even(std::clamp(place, -most, most)));
    }
    [[nodiscard]] double error(const float* group, const std::vector<float>& w, int d) const {
        const float step = e8m0_half_to_f32(static_cast<std::uint8_t>(d));
        double sum = 0;
        for (std::int64_t i = 0; i < group_; ++i) {
            const auto missed =
                static_cast<double>(group[i] - step * static_cast<float>(code(group[i], d)));
            sum += static_cast<double>(w[static_cast<std::size_t>(i)]) * missed * missed;
        }
        return sum;
    }

    BfpOptions options_;
    std::int64_t cols_, group_;
    int middle_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_bfp;
    using Options = BfpOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        return {.name = "bfp",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = static_cast<double>(o.bits) + 8 / group,
                // A peak just below a power of two is cut down to the largest code; with fit=mse
                // to half of that.
                .error_bound = o.fit == "mse" ? 0.5 + 2.0 / (1 << o.bits) : 4.0 / (1 << o.bits)};
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::int64_t group = checked_group("bfp", o.group, shape.cols);
        return {{"codes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(o.bits) / 8}},
                {"exponents", DType::kU8, {rows, cols / static_cast<std::uint64_t>(group)}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        return make_row_encoder(info(o), shape, encode, BfpRow(o, shape.cols));
    }

    static PackedForm form(PlanePicker& picker, Shape2) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("codes", bytes, L::kElements, 2, 8);
        form.planes[L::kExponents] = picker.rows("exponents", {DType::kU8}, groups);
        form.params.group = picker.group("exponents", groups, 1);
        form.params.scale = ScaleType::kE8m0;
        return form;
    }

    static void verify_tables(const PackedView&) {}
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const auto* d = static_cast<const std::uint8_t*>(m.packed_row(r).planes[L::kExponents]);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            if (d[g] > kE8m0Finite)
                throw_bad_group(info({}), reported, g, "NaN or infinite exponent");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_bfp() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
