// SPDX-License-Identifier: Apache-2.0
// jlcm: learned books of 4, 8 or 16 values, shared by rows of like distribution. "Jointly learnable
// codebooks and mappings" (ICLR 2024) has the shape: gather neurons, learn values and codes
// together. Its formulas are not public; these are ours.
// differs: its objective is a layer's output, learned by gradients; here it is the weights' squared
// error, weighted by importance, the diagonal of that objective's quadratic form (no activations'
// full Hessian reaches an encoder). Values are the exact minimum over a histogram instead of a
// proximal gradient's, a row (or 16 together) names its book, so that rows keep their order, and
// codes and scales are fitted in turn when a row is encoded.
#include <cmath>
#include <limits>

#include "format/books.h"
#include "format/plane_format.h"
#include "format/row_encoder.h"
#include "kernels/encode/lanes.h"

namespace thimble {
namespace {

using L = Layout<LayoutId::k_jlcm>;
namespace lanes = encode::plain;
constexpr int kRounds = 4;                  // of moving rows between books
constexpr int kFirstSteps = 2, kSteps = 6;  // of fitting codes and a scale

struct JlcmOptions {
    std::int64_t bits = 4, group = 128, rows = 64, together = L::kTileRows;
    void visit(OptionVisitor& v) {
        v.option({.name = "bits", .help = "of a code: 2 to 4", .value = "N", .least = 2, .most = 4},
                 bits);
        v.option({.name = "group",
                  .help = "columns under one scale, a multiple of 32, halved until that divides "
                          "the row; 0: a row",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 20},
                 group);
        v.option({.name = "rows",
                  .help = "rows for each book that is learned; 0: one book for the matrix",
                  .value = "N",
                  .least = 0,
                  .most = 1 << 30},
                 rows);
        v.option({.name = "together",
                  .help = "rows that take a book together: 16, which is fast to run, or 1",
                  .value = "N",
                  .least = 1,
                  .most = L::kTileRows},
                 together);
    }
    [[nodiscard]] std::int64_t units(Shape2 shape) const {
        return (shape.rows + together - 1) / together;
    }
    [[nodiscard]] std::int64_t books(Shape2 shape) const {
        const std::int64_t wanted = rows == 0 ? 1 : (shape.rows + rows - 1) / rows;
        return std::min(wanted, units(shape));
    }
};

class JlcmEncoder final : public Encoder {
  public:
    JlcmEncoder(const FormatInfo& info, Shape2 shape, const JlcmOptions& options,
                const EncodeOptions& encode)
        : info_(info),
          options_(options),
          shape_(shape),
          group_(dividing_group(options.group, shape.cols)),
          left_(shape.rows),
          importance_(encode.column_importance),
          units_(static_cast<std::size_t>(options.units(shape))) {}

    void scan(std::int64_t first_row, std::span<const float> rows) override {
        const std::int64_t count = rows_in(rows);
        std::vector<float> w;
        for (std::int64_t r = first_row; r < first_row + count; ++r) {
            const float* row = rows.data() + (r - first_row) * shape_.cols;
            check_finite(info_, r, 0, {row, static_cast<std::size_t>(shape_.cols)});
            Histogram& unit = units_[static_cast<std::size_t>(r / options_.together)];
            for (std::int64_t k = 0; k < shape_.cols; k += group_) {
                const float size = size_of(row + k);
                if (size == 0) continue;
                group_importance(importance_at(k), group_, w);
                // Errors count in the weights' own size; within what a float holds.
                const float square =
                    std::clamp(size, 1e-15f, 1e10f) * std::clamp(size, 1e-15f, 1e10f);
                for (std::int64_t i = 0; i < group_; ++i)
                    unit.add(row[k + i] / size, square * w[static_cast<std::size_t>(i)]);
            }
        }
        left_ -= count;
        if (left_ == 0) settle();
    }

    void encode(std::int64_t first_row, std::span<const float> rows,
                PlaneSink& sink) const override {
        if (left_ != 0) throw Error(Exit::kFailure, std::string(info_.name), "encode before scan");
        if (first_row == 0) sink.append(L::kBooks, std::as_bytes(std::span(books_)));
        const std::int64_t count = rows_in(rows);
        Row row{std::vector<std::uint8_t>(static_cast<std::size_t>(shape_.cols)), {}};
        for (std::int64_t r = first_row; r < first_row + count; ++r)
            encode_row(r, rows.data() + (r - first_row) * shape_.cols, row, sink);
    }

  private:
    struct Row {
        std::vector<std::uint8_t> codes;
        std::vector<float> importance;  // of a group
    };

    [[nodiscard]] std::int64_t rows_in(std::span<const float> rows) const {
        const auto size = static_cast<std::int64_t>(rows.size());
        if (size % shape_.cols != 0) throw_bad_rows(info_);
        return size / shape_.cols;
    }
    [[nodiscard]] const float* importance_at(std::int64_t column) const {
        return importance_.empty() ? nullptr : importance_.data() + column;
    }
    // What makes groups alike when books are learned: a quarter of the largest magnitude, which is
    // about their deviation.
    // differs: with the deviation itself outliers lie far outside the values, and though the error
    // is hardly larger, a model suffers.
    [[nodiscard]] float size_of(const float* group) const {
        float peak = 0;
        for (std::int64_t i = 0; i < group_; ++i) peak = std::max(peak, std::fabs(group[i]));
        return peak / 4;
    }

    void settle() {
        const std::int64_t books = options_.books(shape_);
        const auto values = std::size_t{1} << options_.bits;
        Books learned = learn_books(units_, books, static_cast<int>(values), kRounds);
        book_of_unit_ = std::move(learned.book_of_unit);
        books_.resize(learned.values.size());
        for (std::size_t at = 0; at < books_.size(); at += values)
            book_units_.push_back(
                static_cast<float>(round_book(std::span(learned.values).subspan(at, values),
                                              std::span(books_).subspan(at, values))));
        units_ = {};
    }

    void encode_row(std::int64_t r, const float* weights, Row& row, PlaneSink& sink) const {
        const std::uint16_t book = book_of_unit_[static_cast<std::size_t>(r / options_.together)];
        ScaleRow scales(ScaleType::kF16);
        for (std::int64_t k = 0; k < shape_.cols; k += group_) {
            group_importance(importance_at(k), group_, row.importance);
            std::uint8_t* codes = row.codes.data() + k;
            const float scale =
                scales.add(fit(weights + k, row.importance, book, codes) / L::kUnit);
            if (!std::isfinite(scale)) throw_too_large(info_, r, k);
            assign(weights + k, scale * L::kUnit, book, codes);
        }
        append_codes(sink, L::kCodes, row.codes, static_cast<int>(options_.bits));
        sink.append(L::kScales, scales.bytes());
        sink.append(L::kBook, std::as_bytes(std::span(&book, 1)));
    }

    // The scale of least squares for the codes that are nearest, in turn: a few steps from three
    // scales around the one that the book was learned with, the rest from the best.
    [[nodiscard]] float fit(const float* group, const std::vector<float>& w, std::uint16_t book,
                            std::uint8_t* codes) const {
        const float usual = size_of(group) * book_units_[book];
        Fit best{usual, 0};
        for (const float part : {1.0f, 0.8f, 1.2f}) {
            const Fit found = improve(group, w, book, {part * usual, 0}, kFirstSteps, codes);
            if (found.gain > best.gain) best = found;
        }
        return improve(group, w, book, best, kSteps, codes).scale;
    }
    // What the squared error is less than that of no weights at all.
    struct Fit {
        float scale = 0;
        double gain = 0;
    };
    [[nodiscard]] Fit improve(const float* group, const std::vector<float>& w, std::uint16_t book,
                              Fit out, int steps, std::uint8_t* codes) const {
        const std::int8_t* values = values_of(book);
        for (int step = 0; step < steps && out.scale > 0; ++step) {
            assign(group, out.scale, book, codes);
            double product = 0, square = 0;
            for (std::int64_t i = 0; i < group_; ++i) {
                const double weight = static_cast<double>(w[static_cast<std::size_t>(i)]);
                const double value = values[codes[i]];
                product += weight * value * static_cast<double>(group[i]);
                square += weight * value * value;
            }
            if (!(product > 0)) break;
            const double gain = product * product / square;
            if (gain <= out.gain) break;
            out = {static_cast<float>(product / square), gain};
        }
        return out;
    }

    // Codes of the nearest values, the lower one of two.
    void assign(const float* group, float scale, std::uint16_t book, std::uint8_t* codes) const {
        const std::int8_t* values = values_of(book);
        const lanes::Lanes one = lanes::spread(1), zero = lanes::spread(0);
        const lanes::Lanes inverse = lanes::spread(scale > 0x1p-126f ? 1.0f / scale : 0.0f);
        for (std::int64_t i = 0; i < group_; i += lanes::kLanes) {
            const lanes::Lanes x = lanes::load(group + i) * inverse;
            lanes::Lanes code = zero;
            for (int v = 0; v + 1 < 1 << options_.bits; ++v) {
                const lanes::Lanes middle =
                    lanes::spread(0.5f * static_cast<float>(values[v] + values[v + 1]));
                code = code + lanes::select(lanes::greater(x, middle), one, zero);
            }
            lanes::store_bytes(codes + i, lanes::truncate(code));
        }
    }
    [[nodiscard]] const std::int8_t* values_of(std::uint16_t book) const {
        return books_.data() + (std::size_t{book} << options_.bits);
    }

    FormatInfo info_;
    JlcmOptions options_;
    Shape2 shape_;
    std::int64_t group_;
    std::int64_t left_;  // rows not seen yet
    std::span<const float> importance_;
    std::vector<Histogram> units_;  // of weights as parts of their group's size
    std::vector<std::uint16_t> book_of_unit_;
    std::vector<std::int8_t> books_;
    std::vector<float> book_units_;  // what a book's 1 was, as part of a group's size
};

struct Codec {
    static constexpr LayoutId kLayout = LayoutId::k_jlcm;
    using Options = JlcmOptions;

    static FormatInfo info(const Options& o) {
        const double group = o.group == 0 ? 4096.0 : static_cast<double>(o.group);
        return {.name = "jlcm",
                .layout = kLayout,
                .block_elements = L::kElements,
                .nominal_bits_per_weight = static_cast<double>(o.bits) + 16 / group,
                // What a book that suits other rows cuts off.
                .error_bound = 1,
                .needs_scan = true};
    }

    static std::size_t scan_bytes(Shape2 shape, const Options& o) {
        const auto units = static_cast<std::size_t>(o.units(shape));
        const auto books = static_cast<std::size_t>(o.books(shape));
        const std::size_t values = books << o.bits;
        // Of a unit its histogram, quantiles (16 floats), place in the order twice (a pair) and
        // book; of a book all units' histogram and its values, before and after a round.
        return units * (sizeof(Histogram) + 64 + 4 + 16 + 3 * sizeof(std::uint16_t)) +
               books * sizeof(Histogram) + values * (2 * sizeof(double) + 1) +
               books * sizeof(float);
    }
    static std::vector<PlaneInfo> planes(Shape2 shape, const Options& o) {
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto cols = static_cast<std::uint64_t>(shape.cols);
        const std::int64_t group = checked_group("jlcm", o.group, shape.cols);
        if (group % L::kElements != 0)
            throw Error(Exit::kUsage, "jlcm: group", "must be a multiple of 32");
        if (o.together != 1 && o.together != L::kTileRows)
            throw Error(Exit::kUsage, "jlcm: together", "must be 1 or 16");
        const auto books = static_cast<std::uint64_t>(o.books(shape));
        if (books > std::numeric_limits<std::uint16_t>::max())
            throw Error(Exit::kUsage, "jlcm: rows", "makes more than 65535 books of the matrix");
        return {{"codes", DType::kU8, {rows, cols * static_cast<std::uint64_t>(o.bits) / 8}},
                {"scales", DType::kF16, {rows, cols / static_cast<std::uint64_t>(group)}},
                {o.together == 1 ? "book" : "tile_book", DType::kI16, {rows, 1}},
                {"books", DType::kI8, {books << o.bits}}};
    }
    static std::unique_ptr<Encoder> encoder(Shape2 shape, const Options& o,
                                            const EncodeOptions& encode) {
        (void)planes(shape, o);  // refuses what cannot be
        return std::make_unique<JlcmEncoder>(info(o), shape, o, encode);
    }

    static PackedForm form(PlanePicker& picker, Shape2) {
        PackedForm form;
        std::int64_t bytes = 0, groups = 0, n = 0;
        form.planes.resize(L::kPlanes);
        form.planes[L::kCodes] = picker.rows("codes", {DType::kU8}, bytes);
        form.params.bits = picker.bits("codes", bytes, L::kElements, 2, 4);
        form.planes[L::kScales] = picker.rows("scales", {DType::kF16}, groups);
        form.params.group = picker.group("scales", groups, L::kElements);
        form.params.scale = ScaleType::kF16;
        const char* book = picker.has("tile_book") ? "tile_book" : "book";
        if (book[0] == 't') form.params.rows = L::kTileRows;
        form.planes[L::kBook] = picker.rows(book, {DType::kI16}, n);
        if (n != 1) picker.fail(book, "has not one value for each row");
        form.planes[L::kBooks] = picker.table("books", {DType::kI8}, n);
        if (n % (std::int64_t{1} << form.params.bits) != 0)
            picker.fail("books", "has " + std::to_string(n) + " values, not whole books");
        return form;
    }

    static void verify_tables(const PackedView& m) {
        const auto& plane = m.planes[L::kBooks];
        const auto* values = reinterpret_cast<const std::int8_t*>(plane.data);
        const std::size_t size = std::size_t{1} << m.params.bits;
        for (std::size_t i = 0; i < plane.bytes; ++i) {
            if (i % size != 0 && values[i] <= values[i - 1])
                PlanePicker::fail("books", "does not ascend at " + std::to_string(i));
        }
    }
    static void verify_row(const PackedView& m, std::int64_t r, std::int64_t reported) {
        const PackedRow row = m.packed_row(r);
        const auto* scales = static_cast<const std::uint16_t*>(row.planes[L::kScales]);
        for (std::int64_t g = 0; g < m.shape.cols / m.params.group; ++g) {
            if (!finite_half(scales[g]))
                throw_bad_group(info({}), reported, g, "NaN or infinite scale");
        }
        const auto books = static_cast<std::int64_t>(m.planes[L::kBooks].bytes >> m.params.bits);
        if (L::book_at(row) >= books)
            throw_bad_group(info({}), reported, 0, "a book outside the table");
        if (reported % m.params.rows != 0 && r > 0 &&
            L::book_at(row) != L::book_at(m.packed_row(r - 1)))
            throw_bad_group(info({}), reported, 0, "a book that is not the 16 rows'");
    }
};

}  // namespace

std::unique_ptr<WeightFormat> make_format_jlcm() { return std::make_unique<PlaneFormat<Codec>>(); }

}  // namespace thimble
