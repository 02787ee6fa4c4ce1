// SPDX-License-Identifier: Apache-2.0
// A weight format turns rows of floats into planes of bytes and back. Stateless and shared; options
// ("affine:bits=3,group=64") steer how it encodes, never how it decodes.
// One leaf file in formats/ plus one line in formats.def makes a new one.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/leaf.h"
#include "format/packed.h"
#include "io/model_file.h"
#include "kernels/encode/scale_search.h"

namespace thimble {

struct FormatInfo {
    std::string_view name;  // "q8_0", lower case
    LayoutId layout = LayoutId::k_f32;
    bool lossless = false;               // f32 -> format -> f32 is exact for every input in range
    int block_elements = 1;              // cols must be a multiple
    double nominal_bits_per_weight = 0;  // for display only; sizes come from planes()
    // Bound on |w - decode(encode(w))| as a factor of the block's largest |w| when that is in
    // [2^-8, 2^8], where no half-precision field is subnormal or overflows; 0 if lossless.
    double error_bound = 0;
    bool needs_scan = false;  // encoder must see all rows before the first is encoded
    bool encodes = true;      // encoder() makes one; else such files come from elsewhere
    bool doubles = false;     // holds more of a weight than a float does: Encoder::encode_doubles
};

// Encodes `count` blocks of a row; importance is null or has a value per weight.
using EncodeBlocks = void (*)(LayoutId layout, const float* weights, const float* importance,
                              std::int64_t count, void* out);

struct EncodeOptions {
    // Importance of each column (mean square activation), [cols], finite and not negative; empty:
    // none. Formats whose encoder is fixed bit for bit without it use it when given.
    std::span<const float> column_importance;
    // The same encoder compiled for a faster instruction-set level (ops::encoder sets it); null:
    // the format's own.
    EncodeBlocks blocks = nullptr;
    encode::SearchScale fit = nullptr;  // likewise, of formats of groups
};

// Receives each plane's bytes in order.
class PlaneSink {
  public:
    virtual ~PlaneSink() = default;
    virtual void append(int plane, std::span<const std::byte> bytes) = 0;
};

// Rows are passed as [count, cols] F32, contiguous, starting at row `first_row` of the matrix.
class Encoder {
  public:
    virtual ~Encoder() = default;
    // All rows, in order, where info().needs_scan. What it keeps is WeightFormat::scan_bytes.
    virtual void scan(std::int64_t first_row, std::span<const float> rows) {
        (void)first_row, (void)rows;
    }
    // Appends these rows' bytes to each plane; tables where first_row is 0, even without rows. Safe
    // on several threads, a sink each: a row's bytes depend on it and the scan alone. Both throw
    // Error(kBadData) at "row R, column C" for a weight not finite, or too large for the scales.
    virtual void encode(std::int64_t first_row, std::span<const float> rows,
                        PlaneSink& sink) const = 0;
    // The same of F64 rows, where info().doubles; elsewhere Error(kFailure).
    virtual void encode_doubles(std::int64_t first_row, std::span<const double> rows,
                                PlaneSink& sink) const;
};

class WeightFormat;
using SharedFormat = std::shared_ptr<const WeightFormat>;

// Looks at a matrix before its planes' sizes are known. Safe on several threads, in any order.
class Fitting {
  public:
    virtual ~Fitting() = default;
    virtual void see(std::span<const float> rows) = 0;  // whole ones, as Encoder::scan takes them
    // The format with as much room as all that was seen needs; another where that is no smaller.
    [[nodiscard]] virtual SharedFormat fitted() const = 0;
};

class WeightFormat {
  public:
    virtual ~WeightFormat() = default;
    [[nodiscard]] virtual FormatInfo info() const = 0;
    [[nodiscard]] std::string_view name() const { return info().name; }
    // The same format with the options "key=value,..." set; Error(kUsage) naming `where`.
    [[nodiscard]] virtual std::unique_ptr<WeightFormat> with(std::string_view options,
                                                             std::string_view where) const = 0;
    // Of this instance; none for most formats.
    virtual void visit_options(OptionVisitor& v) const { (void)v; }
    // Throws Error(kUsage) when cols is not a multiple of block_elements.
    [[nodiscard]] virtual std::vector<PlaneInfo> planes(Shape2 shape,
                                                        const EncodeOptions& options) const = 0;
    [[nodiscard]] virtual std::unique_ptr<Encoder> encoder(Shape2 shape,
                                                           const EncodeOptions& options) const = 0;
    // Where the planes' sizes depend on the weights: whoever writes a header must show all rows to
    // this first, and encode with what comes of it. Without that planes() has room for any weights.
    // Null: they do not, or an option says what they are.
    [[nodiscard]] virtual std::unique_ptr<Fitting> fitting(Shape2 shape) const {
        (void)shape;
        return nullptr;
    }
    // What an encoder of this shape keeps of a scan.
    [[nodiscard]] virtual std::size_t scan_bytes(Shape2 shape) const {
        (void)shape;
        return 0;
    }
    // How a matrix is stored whose planes have these names, types and dims, in any order. Throws
    // Error(kBadData) whose `where` is the plane, when one is missing, unknown or of another size,
    // and for formats of blocks, which are stored as one tensor.
    [[nodiscard]] virtual PackedForm form(Shape2 shape, std::span<const PlaneInfo> planes) const;
    // The oracle: rows `range` of `packed` into out (F32 or F64), [range.count, cols].
    virtual void decode(const PackedView& packed, RowRange range, View out) const = 0;
    // Finite scales (and values, for float formats) in these rows, and indices inside their tables,
    // so that what passed can be decoded; throws Error(kBadData) with row and block. `packed` may
    // be a piece of a matrix: its row 0 is reported as `row_zero`.
    virtual void verify(const PackedView& packed, RowRange range,
                        std::int64_t row_zero = 0) const = 0;
};

// One of each, with the options' defaults.
[[nodiscard]] const Registry<WeightFormat>& weight_formats();
[[nodiscard]] const WeightFormat& format_of(LayoutId layout);
[[nodiscard]] SharedFormat shared_format_of(LayoutId layout);
// The format that "name" or "name:key=value,..." asks for, in any case; Error(kUsage) naming
// `where`. Names are those of the registry and of format_aliases(), whose options come first.
[[nodiscard]] SharedFormat make_format(std::string_view spec, std::string_view where);
struct FormatAlias {
    std::string_view name, spec;  // "int4", "affine:bits=4"
};
[[nodiscard]] std::span<const FormatAlias> format_aliases() noexcept;
// "affine:bits=3": the name, and the options that are not the defaults.
[[nodiscard]] std::string spec_of(const WeightFormat& format);

// The one mapping between element types of containers and packed layouts; nullopt where the other
// side has no such type.
[[nodiscard]] std::optional<LayoutId> layout_of(TensorType type);
[[nodiscard]] std::optional<TensorType> tensor_type_of(LayoutId layout);
// A layout of several planes, each a tensor of its own.
[[nodiscard]] bool has_planes(LayoutId layout) noexcept;
// The form that a format's encoder gives a matrix; of a layout, with the options' defaults.
[[nodiscard]] PackedForm form_of(const WeightFormat& format, Shape2 shape);
[[nodiscard]] PackedForm block_form(LayoutId layout, Shape2 shape);

}  // namespace thimble
