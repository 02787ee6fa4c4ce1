// SPDX-License-Identifier: Apache-2.0
// nf4: 4-bit codes into a table of 16 values, as bitsandbytes checkpoints hold them (fp4 has
// another table). Encoded as in "QLoRA: Efficient Finetuning of Quantized LLMs" (2023): 64 weights
// share their largest magnitude, codes are of the nearest value, peaks are nested; importance is
// not used.
// differs: rows that are no multiple of 64 have groups of 32; see nested_peaks.h, too.
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
constexpr int kZero = 7;
constexpr std::int64_t kGroup = 64;
constexpr std::int64_t kRun = 2048;  // weights between two calls of the sink

// A 32nd of [-1, 1] and what is in it: at most one number above which the next code is nearer.
struct Cell {
    float middle = std::numeric_limits<float>::infinity();
    std::int32_t code = 0;  // up to the middle
};
constexpr int kCells = 2 * 32 + 1;  // the last is of 1

const std::array<Cell, kCells>& cells() {
    static const std::array<Cell, kCells> made = [] {
        std::array<Cell, kCells> out{};
        for (std::size_t i = 0; i + 1 < kLevels.size(); ++i) {
            const float middle = middle_of(kLevels[i], kLevels[i + 1]);
            auto cell = static_cast<std::size_t>(32 * (middle + 1));
            out[cell].middle = middle;
            while (++cell < kCells) ++out[cell].code;
        }
        return out;
    }();
    return made;
}

class Nf4Encoder final : public Encoder {
  public:
    Nf4Encoder(const FormatInfo& info, Shape2 shape, std::int64_t group)
        : info_(info),
          cols_(shape.cols),
          group_(group),
          left_(shape.rows * (cols_ / group)),
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
        for (std::int64_t r = 0; r < count; ++r)
            encode_row(first_row + r, rows.data() + r * cols_, sink);
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
        sink.append(L::kValues, std::as_bytes(std::span(kLevels)));
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
        std::array<std::uint8_t, kRun / L::kElements> peaks;
        const auto origin = static_cast<std::int32_t>(row * (cols_ / group_));
        sink.append(L::kOrigin, std::as_bytes(std::span(&origin, 1)));
        for (std::int64_t first = 0; first < cols_; first += kRun) {
            const std::int64_t groups = std::min(kRun, cols_ - first) / group_;
            for (std::int64_t g = 0; g < groups; ++g) {
                const float* group = weights + first + g * group_;
                const float peak = peak_of(group);
                peaks[static_cast<std::size_t>(g)] = peaks_.code(origin + first / group_ + g, peak);
                encode_group(group, peak, codes.data() + g * group_ / 2);
            }
            const auto n = static_cast<std::size_t>(groups * group_ / 2);
            sink.append(L::kCodes, std::as_bytes(std::span(codes).first(n)));
            sink.append(L::kPeaks,
                        std::as_bytes(std::span(peaks).first(static_cast<std::size_t>(groups))));
        }
    }

    // Codes of the nearest values, the lower one of two.
    void encode_group(const float* weights, float peak, std::uint8_t* out) const {
        std::array<float, kGroup> x;
        std::array<std::int32_t, kGroup> at;
        const lanes::Lanes divisor = lanes::spread(peak), half = lanes::spread(32);
        for (std::int64_t i = 0; i < group_; i += lanes::kLanes) {
            const lanes::Lanes part = lanes::load(weights + i) / divisor;
            lanes::store(x.data() + i, part);
            lanes::store(at.data() + i, lanes::truncate(part * half + half));
        }
        const auto code = [&](std::int64_t i) {
            const auto k = static_cast<std::size_t>(i);
            const Cell& cell = cells_[static_cast<std::size_t>(at[k])];
            return cell.code + (x[k] > cell.middle ? 1 : 0);
        };
        for (std::int64_t i = 0; i < group_; i += 2) {
            const int both = peak == 0 ? kZero << 4 | kZero : code(i) << 4 | code(i + 1);
            out[i / 2] = static_cast<std::uint8_t>(both);
        }
    }

    FormatInfo info_;
    std::int64_t cols_, group_;
    std::int64_t left_;  // groups not seen yet
    NestedPeaks peaks_;
    const std::array<Cell, kCells>& cells_ = cells();
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_nf4;
    using Options = NoOptions;

    static FormatInfo info(const Options&) {
        return {.name = "nf4",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = 4 + 8.0 / 64 + 32.0 / (64 * 256),
                // Half the widest step between values, and a peak that is missed.
                .error_bound = 0.152 + static_cast<double>(NestedPeaks::kMostMissed),
                .needs_scan = true};
    }

    static std::int64_t group_of(Shape2 shape) {
        return shape.cols % kGroup == 0 ? kGroup : L::kElements;
    }
    static std::size_t scan_bytes(Shape2 shape, const Options& o) {
        std::size_t tables = 0;
        for (const PlaneInfo& plane : planes(shape, o))
            tables += plane.dims.size() == 1 ? plane.dims[0] * sizeof(float) : 0;
        return 2 * tables;
    }
    static std::vector<PlaneInfo> planes(Shape2 shape, const Options&) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::uint64_t groups = cols / static_cast<std::uint64_t>(group_of(shape));
        if (rows * groups > std::numeric_limits<std::int32_t>::max())
            throw Error(Exit::kUsage, "nf4", "the matrix has too many groups");
        const std::uint64_t scales = (rows * groups + L::kNestedGroup - 1) / L::kNestedGroup;
        return {{"codes", DType::kU8, {rows, cols / 2}},
                {"peaks", DType::kU8, {rows, groups}},
                {"values", DType::kF32, {16 + 256}},
                {"origin", DType::kI32, {rows, 1}},
                {"nested", DType::kF32, {1 + scales}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o, const EncodeOptions&) {
        return std::make_unique<Nf4Encoder>(info(o), shape, group_of(shape));
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
