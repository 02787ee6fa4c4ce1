// SPDX-License-Identifier: Apache-2.0
// bitmod: each group takes the one of four 3- or 4-bit datatypes that suits it best ("BitMoD:
// Bit-serial Mixture-of-Datatype LLM Acceleration", 2025, section 3). Its authors say that a patent
// application covers the method.
// differs: with fit=mse scales are searched, too, and importance weighs the error.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/search.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_bitmod>;
namespace lanes = encode::plain;

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
    BitmodRow(const FormatInfo& info, BitmodOptions options, std::int64_t cols)
        : info_(info),
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
        const float x = scale > 0x1p-126f ? weight / scale : 0.0f;
        int best = 0;
        for (int code = 1; code < 1 << bits; ++code) {
            const float value = static_cast<float>(value_of(code, id));
            const float least = static_cast<float>(value_of(best, id));
            const float nearer = std::fabs(x - value), near = std::fabs(x - least);
            if (nearer < near || (nearer == near && value < least)) best = code;
        }
        return static_cast<std::uint8_t>(best);
    }

    [[nodiscard]] Choice choose(const float* group, const std::vector<float>& w) const {
        float peak = 0;
        for (std::int64_t i = 0; i < group_; ++i) peak = std::max(peak, std::fabs(group[i]));
        Choice best;
        const int first = options_.only == "ea" ? 2 : 0, end = options_.only == "er" ? 2 : 4;
        best.id = first;
        if (!(peak > lanes::kTiny)) return best;
        for (int id = first; id < end; ++id) {
            const int most = std::max(Values::value((1 << (bits - 1)) - 1),
                                      std::abs(Values::special(id)));
            const float scale = peak / static_cast<float>(most);
            const Choice choice = options_.fit == "peak" || peak > lanes::kHuge
                                      ? by_peak(group, w, scale, id)
                                      : by_search(group, w, scale, id);
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

    // Sixteen scales at once, each replaced by the least-squares solution for its codes.
    [[nodiscard]] Choice by_search(const float* group, const std::vector<float>& w, float scale,
                                   int id) const {
        constexpr lanes::Ladder kParts{0.7f, 1.15f};  // of the scale by the peak
        const lanes::Lanes special = lanes::spread(static_cast<float>(Values::special(id)));
        lanes::Lanes inverse = lanes::spread(1) / (lanes::rungs(kParts) * lanes::spread(scale));
        lanes::Lanes fitted = inverse, score = inverse;
        for (int pass = 0; pass < 2; ++pass) {
            lanes::Lanes lx = lanes::spread(0), ll = lx;
            for (std::int64_t i = 0; i < group_; ++i) {
                const lanes::Lanes x = lanes::spread(group[i]);
                const lanes::Lanes value = nearest_values(x * inverse, special);
                const lanes::Lanes wl = lanes::spread(w[static_cast<std::size_t>(i)]) * value;
                lx = lx + wl * x;
                ll = ll + wl * value;
            }
            const lanes::IntLanes valid =
                lanes::greater(ll, lanes::spread(0)) & lanes::greater(lx, lanes::spread(0));
            fitted = lanes::select(valid, lx / ll, lanes::spread(0));
            score = lanes::select(valid, fitted * lx, lanes::spread(-1));
            inverse = lanes::select(valid, ll / lx, lanes::spread(0));
        }
        const int lane = lanes::best_lane(score);
        // What the codes leave of the weights' squares, less these.
        return {id, lanes::lane_of(fitted, lane), -static_cast<double>(lanes::lane_of(score, lane))};
    }

    static lanes::Lanes nearest_values(lanes::Lanes x, lanes::Lanes special) {
        const lanes::Lanes size = lanes::magnitude(x);
        lanes::Lanes value;
        if constexpr (bits == 4) {
            const lanes::Lanes half = lanes::spread(0.5f) * size;
            const lanes::Lanes top = lanes::min(half, lanes::spread(6));
            const lanes::IntLanes above2 = lanes::greater(top, lanes::spread(2));
            const lanes::IntLanes above4 = lanes::greater(top, lanes::spread(4));
            const lanes::Lanes step = lanes::select(
                above4, lanes::spread(2), lanes::select(above2, lanes::spread(1), lanes::spread(0.5f)));
            value = lanes::round_even(top / step) * step * lanes::spread(2);
        } else {
            const auto at = [&](float limit, float from, lanes::Lanes to) {
                return lanes::select(lanes::greater(size, lanes::spread(limit)), lanes::spread(from),
                                     to);
            };
            const lanes::Lanes small = at(0.5f, 1, lanes::spread(0));
            value = lanes::select(lanes::greater(size, lanes::spread(1.5f)), at(3, 4, lanes::spread(2)),
                                  small);
        }
        value = lanes::select(lanes::greater(lanes::spread(0), x), lanes::spread(0) - value, value);
        const lanes::Lanes gap = lanes::magnitude(x - value), other = lanes::magnitude(x - special);
        return lanes::select(lanes::greater(gap, other), special, value);
    }

    FormatInfo info_;
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
            return make_row_encoder(info(o), shape, encode, BitmodRow<3>(info(o), o, shape.cols));
        return make_row_encoder(info(o), shape, encode, BitmodRow<4>(info(o), o, shape.cols));
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
