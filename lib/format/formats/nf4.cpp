// SPDX-License-Identifier: Apache-2.0
// nf4: 4-bit codes into a table of 16 values, nf4's or fp4's, as bitsandbytes checkpoints hold
// them. Encoded as in "QLoRA: Efficient Finetuning of Quantized LLMs" (2023): the weights of a
// group share their largest magnitude, codes are of the nearest value, peaks are nested or floats;
// importance is not used. differs: groups do not cross rows; see nested_peaks.h, too.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "format/nested_peaks.h"
#include "format/plane_format.h"
#include "kernels/encode/lanes.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_nf4>;
namespace lanes = encode::plain;

// Quantiles of the normal distribution, as parts of the last: of probability 0.9677083, to which 8
// even steps lead from a half; below zero 7.
constexpr std::array<float, 16> kLevels = {-1.0f,        -0.6961928f,  -0.52507305f,  -0.39491749f,
                                           -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
                                           0.0795803f,   0.1609302f,   0.2461123f,    0.33791524f,
                                           0.44070983f,  0.562617f,    0.72295684f,   1.0f};
static_assert(L::kNestedGroup == NestedPeaks::kGroup);
// Twelfths, by the code without its sign: E2M1 with a subnormal that is an eighth of the usual one.
constexpr std::array<float, 8> kFp4 = {0,         0.0625f / 12, 8.0f / 12, 1,
                                       4.0f / 12, 0.5f,         2.0f / 12, 0.25f};
constexpr int kSign = 8;
constexpr std::int64_t kRun = 4096;  // weights between two calls of the sink, the widest group
constexpr std::int64_t kStep = 64;   // weights at a time

struct Nf4Options {
    std::string values = "nf4";
    bool nested = true;
    std::int64_t group = 64;
    void visit(OptionVisitor& v) {
        v.option({.name = "values",
                  .help = "nf4: quantiles of the normal distribution; fp4: floating point",
                  .choices = {"nf4", "fp4"}},
                 values);
        v.option(
            {.name = "nested",
             .help = "peaks take 8 bits and a scale for every 256 (double quantisation), not 32"},
            nested);
        v.option(
            {.name = "group",
             .help = "columns under one peak, a power of two, halved until that divides the row",
             .value = "N",
             .least = 32,
             .most = 4096},
            group);
    }
};

// A 32nd of [-1, 1] and what is in it: at most one number above which the next code is nearer.
struct Cell {
    float middle = std::numeric_limits<float>::infinity();
    std::int32_t code = 0, above = 0;  // up to the middle, and above
};

// Sixteen values and the codes of numbers of [-1, 1] that are nearest to them.
class Codebook {
  public:
    explicit Codebook(bool fp4) : has_sign_(fp4), zero_(fp4 ? 0 : 7) {
        if (!fp4) {
            values_ = kLevels;
            fill({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
            return;
        }
        for (std::size_t i = 0; i < kFp4.size(); ++i)
            values_[i] = kFp4[i], values_[kSign + i] = -kFp4[i];
        fill({0, 1, 6, 7, 4, 5, 2, 3});
    }
    [[nodiscard]] const std::array<float, 16>& values() const noexcept { return values_; }
    [[nodiscard]] int zero() const noexcept { return zero_; }

    // The lower code of two where x is in the middle; of floating point, that of the smaller
    // magnitude.
    void find(const float* x, std::int32_t* codes) const {
        std::array<float, kStep> size;
        std::array<std::int32_t, kStep> at;
        const lanes::Lanes half = lanes::spread(32);
        for (std::int64_t i = 0; i < kStep; i += lanes::kLanes) {
            const lanes::Lanes part = lanes::load(x + i);
            const lanes::Lanes within = has_sign_ ? lanes::magnitude(part) : part;
            lanes::store(size.data() + i, within);
            lanes::store(at.data() + i, lanes::truncate(within * half + half));
        }
        for (std::size_t i = 0; i < kStep; ++i) {
            const Cell& cell = cells_[static_cast<std::size_t>(at[i])];
            const std::int32_t code = size[i] > cell.middle ? cell.above : cell.code;
            codes[i] = has_sign_ && x[i] < 0 ? code | kSign : code;
        }
    }

  private:
    // `codes` by ascending values, all of them or those of the magnitudes.
    void fill(const std::vector<std::int32_t>& codes) {
        const auto value = [&](std::size_t i) {
            return values_[static_cast<std::size_t>(codes[i])];
        };
        std::size_t cell = 0;
        for (std::size_t i = 0; i + 1 < codes.size(); ++i) {
            const float middle = middle_of(value(i), value(i + 1));
            const auto border = static_cast<std::size_t>(32 * (middle + 1));
            for (; cell <= border; ++cell) cells_[cell].code = codes[i];
            cells_[border].middle = middle;
            cells_[border].above = codes[i + 1];
        }
        for (; cell < cells_.size(); ++cell) cells_[cell].code = codes.back();
    }

    bool has_sign_;
    int zero_;
    std::array<float, 16> values_{};
    std::array<Cell, 2 * 32 + 1> cells_;  // the last is of 1
};

const Codebook& codebook_of(const Nf4Options& o) {
    static const Codebook nf4(false), fp4(true);
    return o.values == "fp4" ? fp4 : nf4;
}

class Nf4Encoder final : public Encoder {
  public:
    Nf4Encoder(const FormatInfo& info, Shape2 shape, const Nf4Options& options)
        : info_(info),
          codebook_(codebook_of(options)),
          nested_(options.nested),
          cols_(shape.cols),
          group_(dividing_group(options.group, shape.cols)),
          left_(nested_ ? shape.rows * (cols_ / group_) : 0),
          peaks_(left_) {}

    void scan(std::int64_t first_row, std::span<const float> rows) override {
        const std::int64_t groups = cols_ / group_, count = rows_in(rows);
        for (std::int64_t r = first_row; r < first_row + count; ++r) {
            const float* row = rows.data() + (r - first_row) * cols_;
            check_finite(info_, r, 0, {row, static_cast<std::size_t>(cols_)});
            for (std::int64_t g = 0; g < groups; ++g)
                peaks_.see(r * groups + g, peak_of(row + g * group_));
        }
        left_ -= count * groups;
        if (left_ == 0) peaks_.settle();
    }

    void encode(std::int64_t first_row, std::span<const float> rows,
                PlaneSink& sink) const override {
        if (left_ != 0) throw Error(Exit::kFailure, std::string(info_.name), "encode before scan");
        const std::int64_t count = rows_in(rows);
        if (first_row == 0) append_tables(sink);
        for (std::int64_t r = 0; r < count; ++r) {
            const float* row = rows.data() + r * cols_;
            if (!nested_)
                check_finite(info_, first_row + r, 0, {row, static_cast<std::size_t>(cols_)});
            encode_row(first_row + r, row, sink);
        }
    }

  private:
    [[nodiscard]] std::int64_t rows_in(std::span<const float> rows) const {
        const auto size = static_cast<std::int64_t>(rows.size());
        if (size % cols_ != 0) throw_bad_rows(info_);
        return size / cols_;
    }

    [[nodiscard]] float peak_of(const float* weights) const {
        lanes::Lanes peaks = lanes::spread(0);
        for (std::int64_t i = 0; i < group_; i += lanes::kLanes)
            peaks = lanes::max(peaks, lanes::magnitude(lanes::load(weights + i)));
        return lanes::greatest_lane(peaks);
    }

    void append_tables(PlaneSink& sink) const {
        sink.append(L::kValues, std::as_bytes(std::span(codebook_.values())));
        if (!nested_) return;
        sink.append(L::kValues, std::as_bytes(peaks_.values()));
        const float mean = peaks_.mean();
        sink.append(L::kNested, std::as_bytes(std::span(&mean, 1)));
        for (std::size_t i = 0; i < peaks_.scales(); ++i) {
            const float scale = peaks_.scale(i);
            sink.append(L::kNested, std::as_bytes(std::span(&scale, 1)));
        }
    }

    void encode_row(std::int64_t row, const float* weights, PlaneSink& sink) const {
        std::array<std::uint8_t, kRun / 2> codes;
        std::array<float, kRun / L::kElements> peaks;
        std::array<std::uint8_t, kRun / L::kElements> peak_codes;
        const auto origin = static_cast<std::int32_t>(row * (cols_ / group_));
        if (nested_) sink.append(L::kOrigin, std::as_bytes(std::span(&origin, 1)));
        for (std::int64_t first = 0; first < cols_; first += kRun) {
            const std::int64_t groups = std::min(kRun, cols_ - first) / group_;
            for (std::int64_t g = 0; g < groups; ++g) {
                const float* group = weights + first + g * group_;
                const auto at = static_cast<std::size_t>(g);
                peaks[at] = peak_of(group);
                encode_group(group, peaks[at], codes.data() + g * group_ / 2);
                if (nested_) peak_codes[at] = peaks_.code(origin + first / group_ + g, peaks[at]);
            }
            const auto n = static_cast<std::size_t>(groups);
            sink.append(
                L::kCodes,
                std::as_bytes(std::span(codes).first(n * static_cast<std::size_t>(group_) / 2)));
            sink.append(L::kPeaks, nested_ ? std::as_bytes(std::span(peak_codes).first(n))
                                           : std::as_bytes(std::span(peaks).first(n)));
        }
    }

    void encode_group(const float* weights, float peak, std::uint8_t* out) const {
        if (peak == 0) {
            std::fill_n(out, group_ / 2, static_cast<std::uint8_t>(17 * codebook_.zero()));
            return;
        }
        std::array<float, kStep> x{};
        std::array<std::int32_t, kStep> codes;
        const lanes::Lanes divisor = lanes::spread(peak);
        for (std::int64_t first = 0; first < group_; first += kStep) {
            const std::int64_t n = std::min(kStep, group_ - first);
            for (std::int64_t i = 0; i < n; i += lanes::kLanes)
                lanes::store(x.data() + i, lanes::load(weights + first + i) / divisor);
            codebook_.find(x.data(), codes.data());
            for (std::size_t i = 0; i < static_cast<std::size_t>(n); i += 2)
                *out++ = static_cast<std::uint8_t>(codes[i] << 4 | codes[i + 1]);
        }
    }

    FormatInfo info_;
    const Codebook& codebook_;
    bool nested_;
    std::int64_t cols_, group_;
    std::int64_t left_;  // groups not seen yet
    NestedPeaks peaks_;
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_nf4;
    using Options = Nf4Options;

    static FormatInfo info(const Options& o) {
        const double group = static_cast<double>(o.group);
        // Half the widest step between values, and a peak that is missed.
        const double missed = o.nested ? static_cast<double>(NestedPeaks::kMostMissed) : 0;
        return {
            .name = "nf4",
            .layout = kLayout,
            .block_elements = L::kElements,
            .nominal_bits_per_weight = 4 + (o.nested ? 8 / group + 32 / (group * 256) : 32 / group),
            .error_bound = (o.values == "fp4" ? 0.1667 : 0.152) + missed,
            .needs_scan = o.nested};
    }

    static std::size_t scan_bytes(Shape2 shape, const Options& o) {
        std::size_t tables = 0;
        for (const PlaneInfo& plane : planes(shape, o))
            tables += plane.dims.size() == 1 ? plane.dims[0] * sizeof(float) : 0;
        return o.nested ? 2 * tables : 0;
    }
    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        if ((o.group & (o.group - 1)) != 0)
            throw Error(Exit::kUsage, "nf4: group", "must be a power of two");
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const auto groups = cols / static_cast<std::uint64_t>(dividing_group(o.group, shape.cols));
        const PlaneInfo codes = {"codes", DType::kU8, {rows, cols / 2}};
        if (!o.nested)
            return {codes, {"peaks", DType::kF32, {rows, groups}}, {"values", DType::kF32, {16}}};
        if (rows * groups > std::numeric_limits<std::int32_t>::max())
            throw Error(Exit::kUsage, "nf4", "the matrix has too many groups");
        const std::uint64_t scales = (rows * groups + L::kNestedGroup - 1) / L::kNestedGroup;
        return {codes,
                {"peaks", DType::kU8, {rows, groups}},
                {"values", DType::kF32, {16 + 256}},
                {"origin", DType::kI32, {rows, 1}},
                {"nested", DType::kF32, {1 + scales}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o, const EncodeOptions&) {
        (void)planes(shape, o);  // refuses what cannot be
        return std::make_unique<Nf4Encoder>(info(o), shape, o);
    }

    static PackedForm form(PlanePicker& picker, Shape2 shape) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, values = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.params.bits = 4;
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        if (shape.cols % L::kElements != 0 || 2 * bytes != shape.cols) {
            picker.fail("codes", "has rows of " + std::to_string(bytes) + " bytes for " +
                                     std::to_string(shape.cols) +
                                     " columns; expected half as many, and a multiple of 16");
        }
        form.planes[L::kPeaks] = picker.rows("peaks", {DType::kF32, DType::kU8}, groups);
        form.params.group = static_cast<std::int32_t>(shape.cols / groups);
        if (form.params.group * groups != shape.cols || form.params.group % L::kElements != 0) {
            picker.fail("peaks", "has " + std::to_string(groups) + " groups for " +
                                     std::to_string(shape.cols) +
                                     " columns; groups are multiples of 32 columns");
        }
        const bool nested = form.planes[L::kPeaks].dtype == DType::kU8;
        form.params.scale = nested ? ScaleType::kNested : ScaleType::kF32;
        form.planes[L::kValues] = picker.table("values", {DType::kF32}, values);
        if (values != (nested ? 16 + 256 : 16)) {
            picker.fail("values", "has " + std::to_string(values) + " elements, expected 16" +
                                      (nested ? " and the 256 of the nested peaks" : ""));
        }
        if (!nested) return form;
        form.planes[L::kOrigin] = picker.rows("origin", {DType::kI32}, n);
        if (n != 1) picker.fail("origin", "has not one value for each row");
        form.planes[L::kNested] = picker.table("nested", {DType::kF32}, n);
        if (n < 2) picker.fail("nested", "needs an offset and at least one scale");
        return form;
    }

    static void verify_tables(const PackedView& m) {
        for (const int p : {L::kValues, L::kNested}) {
            const auto& plane = m.planes[static_cast<std::size_t>(p)];
            const auto* values = reinterpret_cast<const float*>(plane.data);
            for (std::size_t i = 0; i < plane.bytes / sizeof(float); ++i) {
                if (!std::isfinite(values[i])) {
                    PlanePicker::fail(p == L::kValues ? "values" : "nested",
                                      "has NaN or an infinity at " + std::to_string(i));
                }
            }
        }
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        const std::int64_t groups = m.shape.cols / m.params.group;
        if (m.params.scale == ScaleType::kNested) {
            const std::int64_t scales =
                static_cast<std::int64_t>(m.planes[L::kNested].bytes / sizeof(float)) - 1;
            const std::int64_t first = static_cast<const std::int32_t*>(row.planes[L::kOrigin])[0];
            if (first < 0 || first + groups > scales * L::kNestedGroup)
                throw_bad_group(info({}), reported, 0, "a nested scale outside the table");
        }
        for (std::int64_t g = 0; g < groups; ++g) {
            if (!std::isfinite(L::peak_at(row, g)))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_nf4() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
