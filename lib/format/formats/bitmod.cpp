// SPDX-License-Identifier: Apache-2.0
// bitmod: each group takes the one of four 3- or 4-bit datatypes that suits it best ("BitMoD:
// Bit-serial Mixture-of-Datatype LLM Acceleration", 2025, section 3). Its authors say that a patent
// application covers the method.
// differs: with fit=mse scales are searched, too, and importance weighs the error.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/groups.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_bitmod>;

struct BitmodOptions {
    std::int64_t bits = 4, group = 128;
    std::string fit = "mse", only;
    void visit(OptionVisitor& v) {
        v.option({.name = "bits", .help = "of a code: 3 or 4", .value = "N", .least = 3, .most = 4},
                 bits);
        v.option({.name = "group",
                  .help = "columns under one scale, a multiple of 32, halved until that divides "
                          "the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "fit",
                  .help = "peak: the largest weight sets a datatype's scale, as published; mse: "
                          "scales of least squared error",
                  .choices = {"peak", "mse"}},
                 fit);
        v.option({.name = "only",
                  .help = "er: extra resolution only, ea: extra asymmetry only",
                  .choices = {"", "er", "ea"}},
                 only);
    }
};

// What one datatype makes of a group.
struct Choice {
    int id = 0;
    float scale = 0;
    double error = std::numeric_limits<double>::infinity();
};

template <int bits>
class BitmodRow {
    using Values = Bitmod<bits>;

  public:
    BitmodRow(const FormatInfo& info, BitmodOptions options, std::int64_t cols,
              encode::SearchScale search)
        : info_(info),
          search_(search ? search : encode::plain::search_scales),
          options_(std::move(options)),
          cols_(cols),
          group_(dividing_group(options_.group, cols)) {}

    void operator()(std::int64_t row, const float* weights, const float* importance,
                    PlaneSink& sink) const {
        const std::int64_t groups = cols_ / group_;
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_));
        std::vector<std::uint8_t> ids(static_cast<std::size_t>((groups + 3) / 4));
        std::vector<float> w;
        ScaleRow scales(ScaleType::kF16);
        for (std::int64_t g = 0; g < groups; ++g) {
            const float* group = weights + g * group_;
            group_importance(importance ? importance + g * group_ : nullptr, group_, w);
            const Choice best = choose(group, w);
            const float scale = scales.add(best.scale);
            if (!std::isfinite(scale)) throw_too_large(info_, row, g * group_);
            ids[static_cast<std::size_t>(g / 4)] |=
                static_cast<std::uint8_t>(best.id << (2 * (g % 4)));
            for (std::int64_t i = 0; i < group_; ++i)
                codes[static_cast<std::size_t>(g * group_ + i)] = nearest(group[i], scale, best.id);
        }
        append_codes(sink, L::kCodes, codes, bits);
        sink.append(L::kScales, scales.bytes());
        sink.append(L::kIds, std::as_bytes(std::span(ids)));
    }

  private:
    static int value_of(int code, int id) {
        return code == Values::kSpecial ? Values::special(id) : Values::value(code);
    }
    // The code of the nearest value, of the lower of two.
    static std::uint8_t nearest(float weight, float scale, int id) {
        const float x = scale > 0x1p-126f ? weight / scale : 0.0f, size = std::fabs(x);
        constexpr int kMost = (1 << (bits - 1)) - 1;  // the largest magnitude's code
        int code = 0;
        for (int next = 1; next <= kMost; ++next) {
            const float middle =
                0.5f * static_cast<float>(Values::value(next - 1) + Values::value(next));
            // Of two magnitudes the smaller is the higher value below zero.
            code += x < 0 ? size >= middle : size > middle;
        }
        const float value = std::copysign(static_cast<float>(Values::value(code)), x);
        const auto special = static_cast<float>(Values::special(id));
        const float gap = std::fabs(x - value), other = std::fabs(x - special);
        if (other < gap || (other == gap && special < value)) return Values::kSpecial;
        return static_cast<std::uint8_t>(code == 0 || x >= 0 ? code : code | Values::kSpecial);
    }

    [[nodiscard]] Choice choose(const float* group, const std::vector<float>& w) const {
        const int first = options_.only == "ea" ? 2 : 0, end = options_.only == "er" ? 2 : 4;
        if (options_.fit == "mse") {
            encode::ScaleSearch fit{.layout = LayoutId::k_bitmod, .bits = bits, .weights = group};
            fit.importance = w.data(), fit.n = static_cast<int>(group_);
            fit.first_id = first, fit.end_id = end;
            search_(fit);
            return {fit.id, fit.scale, 0};
        }
        float peak = 0;
        for (std::int64_t i = 0; i < group_; ++i) peak = std::max(peak, std::fabs(group[i]));
        Choice best;
        for (int id = first; id < end; ++id) {
            const float scale = peak / static_cast<float>(Values::most(id));
            const Choice choice = by_peak(group, w, scale, id);
            if (choice.error < best.error) best = choice;
        }
        return best;
    }

    [[nodiscard]] Choice by_peak(const float* group, const std::vector<float>& w, float scale,
                                 int id) const {
        Choice out{id, scale, 0};
        for (std::int64_t i = 0; i < group_; ++i) {
            const int value = value_of(nearest(group[i], scale, id), id);
            const double missed = static_cast<double>(group[i] - scale * static_cast<float>(value));
            out.error += static_cast<double>(w[static_cast<std::size_t>(i)]) * missed * missed;
        }
        return out;
    }

    FormatInfo info_;
    encode::SearchScale search_;
    BitmodOptions options_;
    std::int64_t cols_, group_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_bitmod;
    using Options = BitmodOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        return {.name = "bitmod",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = static_cast<double>(o.bits) + 18 / group,
                // Half the widest step, or what a fitted scale cuts off.
                .error_bound = o.bits == 4 ? 0.35 : 0.45};
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::int64_t group = checked_group("bitmod", o.group, shape.cols);
        if (group % L::kElements != 0)
            throw Error(Exit::kUsage, "bitmod: group", "must be a multiple of 32");
        const std::uint64_t groups = cols / static_cast<std::uint64_t>(group);
        return {{"codes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(o.bits) / 8}},
                {"scales", DType::kF16, {rows, groups}},
                {"ids", DType::kU8, {rows, (groups + 3) / 4}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        if (o.bits == 3)
            return make_row_encoder(info(o), shape, encode,
                                    BitmodRow<3>(info(o), o, shape.cols, encode.fit));
        return make_row_encoder(info(o), shape, encode,
                                BitmodRow<4>(info(o), o, shape.cols, encode.fit));
    }

    static PackedForm form(PlanePicker& picker, Shape2) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("codes", bytes, L::kElements, 3, 4);
        form.planes[L::kScales] = picker.rows("scales", {DType::kF16}, groups);
        form.params.group = picker.group("scales", groups, L::kElements);
        form.params.scale = ScaleType::kF16;
        form.planes[L::kIds] = picker.rows("ids", {DType::kU8}, n);
        if (n != (groups + 3) / 4) picker.fail("ids", "has not two bits for each scale");
        return form;
    }

    static void verify_tables(const PackedView&) {}
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const auto* scales = static_cast<const std::uint16_t*>(m.packed_row(r).planes[L::kScales]);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            if (!finite_half(scales[g]))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_bitmod() {
    return std::make_unique<PlaneFormat<Codec>>();
}

}  // namespace thimble
