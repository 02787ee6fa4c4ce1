// SPDX-License-Identifier: Apache-2.0
// affine: integer codes with a scale and a zero point per group, as GPTQ, AWQ and
// compressed-tensors checkpoints hold them. Encoded to nearest, by least squares, or as in
// "Half-Quadratic Quantization of Large Machine Learning Models" (2023), whose zero points are not
// whole: those that are found here lie on a 256th of the codes' range.
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/groups.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_affine>;

struct AffineOptions {
    std::int64_t bits = 4, group = 64;
    bool symmetric = false;
    std::string fit = "mse", scale = "f16";
    void visit(OptionVisitor& v) {
        v.option({.name = "bits", .help = "of a code", .value = "N", .least = 2, .most = 8}, bits);
        v.option({.name = "group",
                  .help = "columns under one scale, halved until that divides the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "symmetric", .help = "codes count from the middle, without zero points"},
                 symmetric);
        v.option({.name = "fit",
                  .help = "minmax: the codes span the group; mse: least squared error; hqq: least "
                          "0.7-norm over the zero points",
                  .choices = {"minmax", "mse", "hqq"}},
                 fit);
        v.option({.name = "scale", .help = "type of scales", .choices = {"f16", "bf16", "f32"}},
                 scale);
    }
};

// A group's scale and zero point: w ~ scale * (code - zero).
struct Grid {
    float scale = 0, zero = 0;
};

class AffineRow {
  public:
    AffineRow(const FormatInfo& info, const AffineOptions& options, std::int64_t cols,
              encode::SearchScale search)
        : info_(info),
          search_(search ? search : encode::plain::search_scales),
          options_(options),
          cols_(cols),
          group_(dividing_group(options.group, cols)),
          top_((1 << options.bits) - 1),
          unit_(L::zero_unit(static_cast<int>(8 - options.bits))) {}

    void operator()(std::int64_t row, const float* weights, const float* importance,
                    PlaneSink& sink) const {
        std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols_)), zeros;
        std::vector<float> w;
        ScaleRow scales(scale_type_named(options_.scale));
        for (std::int64_t k = 0; k < cols_; k += group_) {
            group_importance(importance ? importance + k : nullptr, group_, w);
            const std::span<const float> group(weights + k, static_cast<std::size_t>(group_));
            Grid grid = fit(group, w);
            grid.scale = scales.add(grid.scale);
            if (!std::isfinite(grid.scale)) throw_too_large(info_, row, k);
            if (!options_.symmetric) {
                zeros.push_back(static_cast<std::uint8_t>(
                    encode::plain::round_even(std::clamp(grid.zero / unit_, 0.0f, 255.0f))));
                grid.zero = static_cast<float>(zeros.back()) * unit_;
            }
            for (std::size_t i = 0; i < group.size(); ++i)
                codes[static_cast<std::size_t>(k) + i] = code(group[i], grid);
        }
        append_codes(sink, L::kCodes, codes, static_cast<int>(options_.bits));
        sink.append(L::kScales, scales.bytes());
        if (!options_.symmetric) sink.append(L::kZeros, std::as_bytes(std::span(zeros)));
    }

  private:
    [[nodiscard]] std::uint8_t code(float weight, const Grid& grid) const {
        const float inverse = std::fabs(grid.scale) > 0x1p-126f ? 1.0f / grid.scale : 0.0f;
        const float place = weight * inverse + grid.zero;
        return static_cast<std::uint8_t>(
            encode::plain::round_even(std::clamp(place, 0.0f, static_cast<float>(top_))));
    }

    [[nodiscard]] Grid fit(std::span<const float> group, const std::vector<float>& w) const {
        const int n = static_cast<int>(group.size());
        if (options_.symmetric) {
            // Codes reach one further down than up: a negative scale turns that around.
            const int middle = (top_ + 1) / 2;
            if (options_.fit != "minmax")
                return {least_squares(group, w).scale, static_cast<float>(middle)};
            float peak = 0;
            for (const float x : group) peak = std::max(peak, std::fabs(x));
            return {peak / static_cast<float>(middle - 1), static_cast<float>(middle)};
        }
        const auto [least, most] = std::minmax_element(group.begin(), group.end());
        const float low = std::min(*least, 0.0f), high = std::max(*most, 0.0f);
        Grid grid{high / static_cast<float>(top_) - low / static_cast<float>(top_), 0};
        if (grid.scale > 0) grid.zero = -low / grid.scale;
        if (options_.fit == "mse" && n >= 4) {
            const encode::ScaleSearch found = least_squares(group, w);
            // Weights far from zero have their grid's zero point out of reach.
            const float zero = found.scale > 0 ? -found.minimum / found.scale : 256.0f;
            if (zero <= 255.0f * unit_) grid = {found.scale, zero};
        }
        if (options_.fit == "hqq" && grid.scale > 0) improve(group, grid);
        return grid;
    }

    [[nodiscard]] encode::ScaleSearch least_squares(std::span<const float> group,
                                                    const std::vector<float>& w) const {
        encode::ScaleSearch fit{.layout = LayoutId::k_affine,
                                .bits = static_cast<int>(options_.bits),
                                .weights = group.data()};
        fit.importance = w.data(), fit.n = static_cast<int>(group.size());
        fit.symmetric = options_.symmetric;
        search_(fit);
        return fit;
    }

    // Half-quadratic steps on the zero point, the scale held: the errors' outliers are taken off by
    // the shrinkage of the 0.7-norm, the zero point is the mean of what is left.
    // differs: a group stops on its own, where the paper's code stops a whole matrix.
    void improve(std::span<const float> group, Grid& grid) const {
        constexpr float kNorm = 0.7f, kGrowth = 1.01f;
        constexpr int kSteps = 20;
        float beta = 10, zero = grid.zero;
        double least = std::numeric_limits<double>::infinity();
        const float inverse = 1.0f / grid.scale;
        for (int step = 0; step < kSteps; ++step, beta *= kGrowth) {
            double missed = 0, sum = 0;
            for (const float x : group) {
                const float q = static_cast<float>(code(x, {grid.scale, zero}));
                const float error = x - grid.scale * (q - zero), size = std::fabs(error);
                missed += static_cast<double>(std::pow(size, kNorm));
                const float kept =
                    size > 0 ? std::max(size - std::pow(size, kNorm - 1) / beta, 0.0f) : 0.0f;
                sum += static_cast<double>(q - (x - std::copysign(kept, error)) * inverse);
            }
            if (!(missed < least)) break;
            least = missed, grid.zero = zero;
            zero = std::clamp(static_cast<float>(sum / static_cast<double>(group.size())), 0.0f,
                              255.0f * unit_);
        }
    }

    FormatInfo info_;
    encode::SearchScale search_;
    AffineOptions options_;
    std::int64_t cols_, group_;
    int top_;
    float unit_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_affine;
    using Options = AffineOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        const double scale = o.scale == "f32" ? 32 : 16;
        return {.name = "affine",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight =
                    static_cast<double>(o.bits) + (scale + (o.symmetric ? 0 : 8)) / group,
                .error_bound = bound(o)};
    }

    // Of the peak: half a step and a scale that is rounded, or what a fit cuts off.
    static double bound(const Options& o) {
        const double step = 2.0 / ((1 << o.bits) - 2);
        return o.fit == "minmax" ? 0.51 * step + 0.004 : std::min(3 * step + 0.004, 0.75);
    }

    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::uint64_t groups =
            cols / static_cast<std::uint64_t>(checked_group("affine", o.group, shape.cols));
        std::vector<PlaneInfo> planes = {
            {"codes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(o.bits) / 8}},
            {"scales", dtype_of(scale_type_named(o.scale)), {rows, groups}}};
        if (!o.symmetric)
            planes.push_back({o.bits == 8 ? "zeros" : "fine_zeros", DType::kU8, {rows, groups}});
        return planes;
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        return make_row_encoder(info(o), shape, encode,
                                AffineRow(info(o), o, shape.cols, encode.fit));
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("codes", bytes, L::kElements, 2, 8);
        form.planes[L::kScales] =
            picker.rows("scales", {DType::kF32, DType::kF16, DType::kBF16}, groups);
        form.params.scale = scale_type_of(form.planes[L::kScales].dtype);
        for (const char* zeros : {"zeros", "fine_zeros"}) {
            if (!picker.has(zeros)) continue;
            if (form.planes[L::kZeros].bytes != 0) picker.fail(zeros, "is given besides 'zeros'");
            form.planes[L::kZeros] = picker.rows(zeros, {DType::kU8}, n);
            if (n != groups) picker.fail(zeros, "has not one value for each scale");
            if (zeros[0] == 'f') form.params.zero_bits = 8 - form.params.bits;
        }
        if (picker.has("groups")) {
            form.planes[L::kGroups] = picker.table("groups", {DType::kI16}, n);
            if (n != shape.cols) picker.fail("groups", "has not one value for each column");
            return form;
        }
        form.params.group = picker.group("scales", groups, 1);
        return form;
    }

    static std::int64_t groups_of(const PackedView& m) {
        const std::size_t size = m.params.scale == ScaleType::kF32 ? 4 : 2;
        return static_cast<std::int64_t>(m.planes[L::kScales].row_bytes / size);
    }

    static void verify_tables(const PackedView& m) {
        const auto* groups = static_cast<const std::uint16_t*>(m.packed_row(0).planes[L::kGroups]);
        if (groups == nullptr) return;
        for (std::int64_t k = 0; k < m.shape.cols; ++k) {
            if (groups[k] >= groups_of(m)) {
                PlanePicker::fail("groups", "names group " + std::to_string(groups[k]) + " of " +
                                                std::to_string(groups_of(m)) + " for column " +
                                                std::to_string(k));
            }
        }
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        for (std::int64_t g = 0; g < groups_of(m); ++g) {
            if (!std::isfinite(L::scale_at(row, g)))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_affine() {
    return std::make_unique<PlaneFormat<Codec>>();
}

}  // namespace thimble
