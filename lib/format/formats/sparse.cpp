// SPDX-License-Identifier: Apache-2.0
// sparse: a bit for every weight, and the values of those that are not zero: floats rounded as f16
// and bf16 round them, or codes of 8 or 4 bits under a scale for a group of columns. Whatever a row
// has besides zeros is kept; how many that is at most, a look at the whole matrix says, or slots=.
#include <bit>

#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/lanes.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_sparse>;

struct SparseOptions {
    std::string values = "bf16";
    std::int64_t group = 64, slots = 0;
    void visit(OptionVisitor& v) {
        v.option({.name = "values",
                  .help = "what a weight that is kept is stored as",
                  .choices = {"bf16", "f16", "i8", "i4"}},
                 values);
        v.option({.name = "group",
                  .help = "columns under one scale of codes, a multiple of 32, halved until that "
                          "divides the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "slots",
                  .help = "weights that a row has room for; 0: as many as the fullest row needs",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 30},
                 slots);
    }
    [[nodiscard]] bool has_codes() const { return values[0] == 'i'; }
    [[nodiscard]] int bits() const { return values == "i8" ? 8 : values == "i4" ? 4 : 16; }
    [[nodiscard]] DType dtype() const {
        return values == "i8"    ? DType::kI8
               : values == "i4"  ? DType::kU8
               : values == "f16" ? DType::kF16
                                 : DType::kBF16;
    }
    // Of rows of `cols`: whole bytes, and never none, as no plane is empty.
    [[nodiscard]] std::int64_t room(std::int64_t cols) const {
        const std::int64_t wanted = slots == 0 ? cols : std::clamp<std::int64_t>(slots, 1, cols);
        return bits() == 4 ? (wanted + 1) / 2 * 2 : wanted;
    }
    // What a weight is stored as where it has no code. Zero: it is not kept.
    [[nodiscard]] std::uint16_t half(float weight) const {
        const std::uint16_t h = values == "f16" ? f32_to_f16(weight) : f32_to_bf16(weight);
        return (h & 0x7fffu) == 0 ? std::uint16_t{0} : h;
    }
    [[nodiscard]] bool keeps(float weight) const {
        return has_codes() ? weight != 0 : half(weight) != 0;
    }
};

class SparseRow {
  public:
    SparseRow(const FormatInfo& info, const SparseOptions& options, std::int64_t cols)
        : info_(info),
          options_(options),
          cols_(cols),
          group_(dividing_group(options.group, cols)),
          most_(static_cast<float>((1 << (options.bits() - 1)) - 1)) {}

    void operator()(std::int64_t r, const float* weights, const float*, PlaneSink& sink) const {
        std::vector<std::uint8_t> mask(static_cast<std::size_t>(cols_ / 8));
        std::vector<std::size_t> kept;  // columns
        for (std::size_t k = 0; k < static_cast<std::size_t>(cols_); ++k) {
            if (!options_.keeps(weights[k])) continue;
            mask[k / 8] = static_cast<std::uint8_t>(mask[k / 8] | 1u << k % 8);
            kept.push_back(k);
        }
        const std::int64_t room = options_.room(cols_);
        if (std::ssize(kept) > room)
            throw Error(Exit::kBadData, "row " + std::to_string(r),
                        "has " + std::to_string(kept.size()) +
                            " weights that are not zero, and room for " + std::to_string(room),
                        "leave slots= out");
        sink.append(L::kMask, std::as_bytes(std::span(mask)));
        if (options_.has_codes())
            append_codes_of(r, weights, kept, sink);
        else
            append_halves(r, weights, kept, sink);
    }

  private:
    void append_halves(std::int64_t r, const float* weights, const std::vector<std::size_t>& kept,
                       PlaneSink& sink) const {
        std::vector<std::uint16_t> halves(static_cast<std::size_t>(options_.room(cols_)));
        const unsigned infinity = options_.values == "f16" ? 0x7c00u : 0x7f80u;
        for (std::size_t n = 0; n < kept.size(); ++n) {
            halves[n] = options_.half(weights[kept[n]]);
            if ((halves[n] & infinity) == infinity)
                throw_too_large(info_, r, static_cast<std::int64_t>(kept[n]));
        }
        sink.append(L::kValues, std::as_bytes(std::span(halves)));
    }

    void append_codes_of(std::int64_t r, const float* weights, const std::vector<std::size_t>& kept,
                         PlaneSink& sink) const {
        ScaleRow scales(ScaleType::kF16);
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(options_.room(cols_)));
        std::size_t n = 0;
        for (std::int64_t first = 0; first < cols_; first += group_) {
            const float scale = scales.add(scale_of(weights + first));
            if (!std::isfinite(scale)) throw_too_large(info_, r, first);
            for (; n < kept.size() && static_cast<std::int64_t>(kept[n]) < first + group_; ++n) {
                const int code = code_of(weights[kept[n]], scale);
                const int bits = options_.bits() == 4 ? code + L::kCodeOffset : code;
                codes[n] = static_cast<std::uint8_t>(bits);
            }
        }
        append_codes(sink, L::kValues, codes, options_.bits());
        sink.append(L::kScales, scales.bytes());
    }
    [[nodiscard]] int code_of(float weight, float scale) const {
        const float place = scale == 0 ? 0.0f : weight / scale;
        return static_cast<int>(encode::plain::round_even(std::clamp(place, -most_, most_)));
    }
    // The peak's code has all bits; of 4 bits, a smaller scale where that cuts less than it rounds.
    [[nodiscard]] float scale_of(const float* group) const {
        float peak = 0;
        for (std::int64_t i = 0; i < group_; ++i) peak = std::max(peak, std::fabs(group[i]));
        const float whole = peak / most_;
        if (options_.bits() == 8 || peak == 0) return whole;
        float best = whole;
        double least = HUGE_VAL;
        for (int step = 0; step < 8; ++step) {
            const float scale =
                f16_to_f32(f32_to_f16(whole * (1 - 0.04f * static_cast<float>(step))));
            double sum = 0;
            for (std::int64_t i = 0; i < group_; ++i) {
                const auto code = static_cast<float>(code_of(group[i], scale));
                const auto missed = static_cast<double>(group[i] - scale * code);
                sum += missed * missed;
            }
            if (sum < least) least = sum, best = scale;
        }
        return best;
    }

    FormatInfo info_;
    SparseOptions options_;
    std::int64_t cols_, group_;
    float most_;  // the largest code
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_sparse;
    using Options = SparseOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        return {.name = "sparse",
                .layout = kLayout,
                .block_elements = L::kElements,
                // Where no weight is zero.
                .nominal_bits_per_weight = 1.0 + o.bits() + (o.has_codes() ? 16 / group : 0.0),
                .error_bound = o.values == "bf16"  ? 0x1p-8
                               : o.values == "f16" ? 0x1p-11
                               : o.values == "i8"  ? 0.0045
                                                   : 0.3};
    }

    static std::int64_t room_of(std::span<const float> row, const Options& o) {
        return std::count_if(row.begin(), row.end(), [&](float w) { return o.keeps(w); });
    }
    static bool has_room(const Options& o) { return o.slots > 0; }
    static Options with_room(std::int64_t slots, Options o) {
        o.slots = std::max<std::int64_t>(slots, 1);
        return o;
    }

    // Floats with few zeros among them are smaller without a mask.
    static SharedFormat plain(Shape2 shape, const Options& o) {
        if (o.has_codes() || shape.cols / 8 + 2 * o.room(shape.cols) < 2 * shape.cols)
            return nullptr;
        return shared_format_of(o.values == "f16" ? LayoutId::k_f16 : LayoutId::k_bf16);
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const auto room = static_cast<std::uint64_t>(o.room(shape.cols));
        std::vector<PlaneInfo> planes = {
            {"mask", DType::kU8, {rows, cols / 8}},
            {"values", o.dtype(), {rows, o.bits() == 4 ? room / 2 : room}}};
        if (!o.has_codes()) return planes;
        const std::int64_t group = checked_group("sparse", o.group, shape.cols);
        if (group % L::kElements != 0)
            throw Error(Exit::kUsage, "sparse: group", "must be a multiple of 32");
        planes.push_back({"scales", DType::kF16, {rows, cols / static_cast<std::uint64_t>(group)}});
        return planes;
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        (void)planes(shape, o);  // refuses what cannot be
        return make_row_encoder(info(o), shape, encode, SparseRow(info(o), o, shape.cols));
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, slots = 0, groups = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kMask] = picker.rows("mask", {DType::kU8}, bytes);
        (void)picker.bits("mask", bytes, L::kElements, 1, 1);
        form.planes[L::kValues] =
            picker.rows("values", {DType::kF16, DType::kBF16, DType::kI8, DType::kU8}, slots);
        const DType type = form.planes[L::kValues].dtype;
        if (type == DType::kU8) slots *= 2;
        if (slots > shape.cols)
            picker.fail("values", "has room for " + std::to_string(slots) + " weights in rows of " +
                                      std::to_string(shape.cols));
        form.params.slots = static_cast<std::int32_t>(slots);
        form.params.bits = type == DType::kU8 ? 4 : type == DType::kI8 ? 8 : 16;
        form.params.scale = type == DType::kBF16 ? ScaleType::kBF16 : ScaleType::kF16;
        if (form.params.bits == 16) return form;
        form.planes[L::kScales] = picker.rows("scales", {DType::kF16}, groups);
        form.params.group = picker.group("scales", groups, L::kElements);
        return form;
    }

    static void verify_tables(const PackedView&) {}
    // No kernel may read past a row's values.
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        const std::int64_t kept = L::kept_before(row, m.shape.cols);
        if (kept > m.params.slots)
            throw_bad_group(info({}), reported, 0, "more weights than there are slots");
        if (!L::has_codes(m.params)) {
            const unsigned infinity = m.params.scale == ScaleType::kBF16 ? 0x7f80u : 0x7c00u;
            const auto* values = static_cast<const std::uint16_t*>(row.planes[L::kValues]);
            for (std::int64_t n = 0; n < kept; ++n) {
                if ((values[n] & infinity) == infinity)
                    throw_bad_group(info({}), reported, 0, "NaN or infinite value");
            }
            return;
        }
        const auto* scales = static_cast<const std::uint16_t*>(row.planes[L::kScales]);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            if (!finite_half(scales[g]))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_sparse() {
    return std::make_unique<PlaneFormat<Codec>>();
}

}  // namespace thimble
