// SPDX-License-Identifier: Apache-2.0
#include "quant/row_stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>

#include "core/error.h"
#include "ops/encode.h"

namespace thimble {
namespace {

constexpr std::size_t kAlign = 64;
constexpr std::int64_t kChunksPerGroup = 64;  // of all workers together, between two reports
constexpr std::int64_t kSurveyColumns = 256;  // of one worker at a time

std::size_t aligned(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

Shape2 shape_of(const TensorChoice& choice) {
    return {choice.tensor->rows(), choice.tensor->cols()};
}

// Of one row of planes laid out in turn; what each takes however many rows there are is `tables`.
std::size_t row_of(const PackedForm& form, std::size_t& tables) {
    std::size_t bytes = 0;
    for (const PlaneInfo& plane : form.planes) {
        bytes += plane.row_bytes;
        if (form.planes.size() == 1) continue;
        tables += kAlign + (plane.row_bytes == 0 ? plane.bytes : 0);
    }
    return bytes;
}

// Puts each plane of some rows where their form has it.
class SliceSink final : public PlaneSink {
  public:
    SliceSink(const PackedForm& form, std::int64_t rows, std::byte* out) {
        for (std::size_t p = 0; p < form.planes.size(); ++p)
            next_[p] = out + form.plane_offset(p, rows);
    }
    void append(int plane, std::span<const std::byte> bytes) override {
        std::byte*& next = next_[static_cast<std::size_t>(plane)];
        std::memcpy(next, bytes.data(), bytes.size());
        next += bytes.size();
    }

  private:
    std::array<std::byte*, kMaxPlanes> next_{};
};

// A row as it was to the row as it will be.
template <class Real>
void fold(const TensorFold* how, std::span<const double> row, Real* out) {
    if (how != nullptr && how->replaced) {
        std::transform(how->values.begin(), how->values.end(), out,
                       [](double v) { return static_cast<Real>(v); });
        return;
    }
    const std::span<const std::int32_t> columns = how ? how->columns : decltype(how->columns){};
    const std::span<const double> scale = how ? how->scale : decltype(how->scale){};
    for (std::size_t c = 0; c < row.size(); ++c) {
        const double w = row[columns.empty() ? c : static_cast<std::size_t>(columns[c])];
        out[c] = static_cast<Real>(scale.empty() ? w : w * scale[c]);
    }
}

}  // namespace

// Rows [first, first + count) of a tensor on their way.
struct RowStream::Chunk {
    const TensorChoice& choice;
    std::size_t index;
    std::int64_t first, count;
    std::mutex& writing;
};

PackedForm written_form(const TensorChoice& choice) {
    return choice.copied ? choice.tensor->form : form_of(*choice.format, shape_of(choice));
}

// Whether rows are held in doubles until they are encoded.
static bool in_doubles(const TensorChoice& choice) {
    return !choice.copied && choice.format->info().doubles;
}

// Whether each row is computed in double and then narrowed once.
static bool is_wide(const TensorChoice& choice) {
    return !choice.copied &&
           (in_doubles(choice) || (choice.fold != nullptr && choice.fold->changes_rows()));
}

// The row that becomes row r.
static std::int64_t row_before(const TensorChoice& choice, std::int64_t r) {
    if (choice.fold == nullptr || choice.fold->rows.empty()) return r;
    return choice.fold->rows[static_cast<std::size_t>(r)];
}

RowBytes row_bytes(const TensorChoice& choice, bool measure_error) {
    const SourceTensor& tensor = *choice.tensor;
    RowBytes row;
    if (tensor.is_stored()) row.stored = row_of(tensor.form, row.stored_tables);
    if (choice.copied) return row;
    const auto cols = static_cast<std::size_t>(tensor.cols());
    row.plain = cols * (in_doubles(choice) ? sizeof(double) : sizeof(float));
    row.packed = row_of(written_form(choice), row.packed_tables);
    if (measure_error) row.decoded = row.plain;
    if (choice.merged) row.scratch += cols * sizeof(double);
    if (is_wide(choice)) row.scratch += cols * sizeof(double);
    return row;
}

std::size_t slice_bytes(const RowBytes& row, std::int64_t rows) {
    const auto n = static_cast<std::size_t>(rows);
    return row.stored_tables + aligned(row.stored * n) + aligned(row.plain * n) +
           aligned(row.packed_tables + row.packed * n) + aligned(row.decoded * n) +
           aligned(row.scratch);
}

std::size_t scan_bytes(const TensorChoice& choice) {
    return choice.copied ? 0 : choice.format->scan_bytes(shape_of(choice));
}

std::int64_t rows_that_fit(const RowBytes& row, std::size_t slice) {
    auto rows = static_cast<std::int64_t>(slice / std::max<std::size_t>(row.sum(), 1));
    while (rows > 0 && slice_bytes(row, rows) > slice) --rows;
    return rows;
}

RowStream::RowStream(const Setup& setup)
    : setup_(setup),
      buffer_(setup.slice * static_cast<std::size_t>(setup.team->threads()), Purpose::kIo) {}

void RowStream::prepare(const TensorChoice& choice) {
    encoder_.reset();
    scanned_.resize(0);
    if (choice.copied) return;
    scanned_ = Charge(Tier::kRam, Purpose::kIo, scan_bytes(choice));
    const WeightFormat& format = *choice.format;
    const bool moved = choice.fold != nullptr && choice.fold->changes_rows();
    encoder_ =
        ops::encoder(setup_.isa, format, shape_of(choice),
                     {.column_importance = moved ? choice.fold->importance : choice.importance});
    if (format.info().needs_scan) scan(choice);
}

template <class See>
void RowStream::load_in_turn(const TensorChoice& choice, See&& see) try {
    const std::int64_t fit = chunk_rows(choice), rows = choice.tensor->rows();
    std::mutex unused;
    std::vector<std::span<const float>> pieces;
    for (std::int64_t first = 0; first < rows; first += fit * setup_.team->threads()) {
        const std::int64_t count = std::min(rows - first, fit * setup_.team->threads());
        const auto load_chunk = [&](std::int64_t begin, std::int64_t end) {
            load<float>({choice, 0, first + begin, end - begin, unused}, slice(begin / fit));
        };
        setup_.team->run(count, fit, load_chunk);
        pieces.clear();
        for (std::int64_t begin = 0; begin < count; begin += fit) {
            const std::int64_t n = std::min(fit, count - begin);
            pieces.push_back(plain<float>({choice, 0, first, n, unused}, slice(begin / fit)));
        }
        if (!see(first, std::span<const std::span<const float>>(pieces))) return;
    }
} catch (const Error& e) {
    throw placed(e, choice);
}

void RowStream::scan(const TensorChoice& choice) {
    load_in_turn(choice, [&](std::int64_t first, std::span<const std::span<const float>> pieces) {
        for (const std::span<const float> piece : pieces) {
            encoder_->scan(first, piece);
            first += std::ssize(piece) / choice.tensor->cols();
        }
        return true;
    });
}

bool RowStream::survey(const SourceTensor& tensor, const ColumnUse& use,
                       const std::function<bool()>& go_on) {
    TensorChoice choice;  // needs no more of a slice than what the matrix becomes
    choice.tensor = &tensor;
    choice.merged = setup_.merge->changes(tensor);
    if (choice.merged) setup_.merge->load(tensor, {});
    const std::int64_t cols = tensor.cols();
    bool on = true;
    load_in_turn(choice, [&](std::int64_t, std::span<const std::span<const float>> pieces) {
        setup_.team->run(cols, kSurveyColumns, [&](std::int64_t begin, std::int64_t end) {
            for (const std::span<const float> piece : pieces) {
                for (std::int64_t at = 0; at < std::ssize(piece); at += cols)
                    use(piece.data() + at, begin, end);
            }
        });
        return on = go_on();
    });
    return on;
}

SharedFormat RowStream::fit(const TensorChoice& choice, const std::function<bool()>& go_on) {
    const Shape2 shape = shape_of(choice);
    const std::unique_ptr<Fitting> fitting = choice.format->fitting(shape);
    bool on = true;
    load_in_turn(choice, [&](std::int64_t, std::span<const std::span<const float>> pieces) {
        setup_.team->run(std::ssize(pieces), 1, [&](std::int64_t i, std::int64_t) {
            fitting->see(pieces[static_cast<std::size_t>(i)]);
        });
        return on = go_on();
    });
    return on ? fitting->fitted() : nullptr;
}

std::byte* RowStream::slice(std::int64_t i) noexcept {
    return buffer_.data() + setup_.slice * static_cast<std::size_t>(i);
}

std::int64_t RowStream::chunk_rows(const TensorChoice& choice) const {
    const std::int64_t fit = rows_that_fit(row_bytes(choice, setup_.measure_error), setup_.slice);
    if (fit == 0) throw Error(Exit::kFailure, choice.tensor->name, "a row exceeds the row buffer");
    return fit;
}

Error RowStream::placed(const Error& e, const TensorChoice& choice) const {
    if (e.exit() != Exit::kBadData) return e;
    return Error(e.exit(),
                 escaped(setup_.source->file().path(), 1024) + ": tensor '" + choice.tensor->name +
                     "', " + e.where(),
                 e.problem(), e.hint());
}

std::int64_t RowStream::convert_some(const TensorChoice& choice, std::size_t index,
                                     std::int64_t first, Sums& sums) {
    const std::int64_t fit = chunk_rows(choice);
    const std::int64_t rows = std::min(choice.tensor->rows() - first, fit * kChunksPerGroup);
    std::array<Sums, kChunksPerGroup> parts{};
    std::mutex writing;
    setup_.team->run_indexed(rows, fit, [&](std::int64_t begin, std::int64_t end, int worker) {
        parts[static_cast<std::size_t>(begin / fit)] =
            convert_chunk({choice, index, first + begin, end - begin, writing}, slice(worker));
    });
    for (const Sums& part : parts) sums.add(part);
    return first + rows;
}

RowStream::Sums RowStream::convert_chunk(const Chunk& chunk, std::byte* slice) const try {
    if (chunk.choice.copied) {
        copy(chunk, slice);
        return {};
    }
    return in_doubles(chunk.choice) ? convert_rows<double>(chunk, slice)
                                    : convert_rows<float>(chunk, slice);
} catch (const Error& e) {
    throw placed(e, chunk.choice);
}

template <class Real>
RowStream::Sums RowStream::convert_rows(const Chunk& chunk, std::byte* slice) const {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    Sums sums;
    sums.change = load<Real>(chunk, slice);
    const std::span<Real> weights = plain<Real>(chunk, slice);
    const std::span<std::byte> packed(
        reinterpret_cast<std::byte*>(weights.data()) + aligned(weights.size_bytes()),
        row.packed_tables + row.packed * count);
    encode<Real>(chunk, weights, packed);
    if (!setup_.measure_error) return sums;
    auto* decoded = reinterpret_cast<Real*>(packed.data() + aligned(packed.size()));
    sums.error = measure<Real>(chunk, weights, packed, {decoded, weights.size()});
    return sums;
}

// Where a slice has a chunk's weights.
template <class Real>
std::span<Real> RowStream::plain(const Chunk& chunk, std::byte* slice) const {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    return {reinterpret_cast<Real*>(slice + row.stored_tables + aligned(row.stored * count)),
            count * static_cast<std::size_t>(chunk.choice.tensor->cols())};
}

double* RowStream::scratch(const Chunk& chunk, std::byte* slice) const {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    return reinterpret_cast<double*>(slice + slice_bytes(row, chunk.count) - aligned(row.scratch));
}

// The chunk's rows as stored, in the order that they are to have.
PackedView RowStream::read_stored(const Chunk& chunk, std::byte* out) const {
    const ModelSource& source = *setup_.source;
    const SourceTensor& tensor = *chunk.choice.tensor;
    const TensorFold* fold = chunk.choice.fold;
    if (fold == nullptr || fold->rows.empty())
        return source.read_packed(tensor, chunk.first, chunk.count, out);
    const PackedForm& form = tensor.form;
    const PackedView view = form.view({chunk.count, tensor.cols()}, out);
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        std::byte* const plane = out + form.plane_offset(p, chunk.count);
        const std::size_t row_bytes = form.planes[p].row_bytes;
        if (row_bytes == 0 && form.planes[p].bytes > 0)
            source.read_plane(tensor, p, {}, {plane, form.planes[p].bytes});
        for (std::int64_t r = 0; r < chunk.count && row_bytes > 0; ++r) {
            source.read_plane(tensor, p, {row_before(chunk.choice, chunk.first + r), 1},
                              {plane + static_cast<std::size_t>(r) * row_bytes, row_bytes});
        }
    }
    if (form.planes.size() > 1) verify(chunk, view);
    return view;
}

// Errors name rows as the source has them.
void RowStream::verify(const Chunk& chunk, const PackedView& view) const {
    for (std::int64_t r = 0; r < chunk.count; ++r) {
        const std::int64_t before = row_before(chunk.choice, chunk.first + r);
        format_of(view.layout).verify(view, {r, 1}, before - r);
    }
}

void RowStream::copy(const Chunk& chunk, std::byte* stored) const {
    const PackedView view = read_stored(chunk, stored);
    verify(chunk, view);
    write(chunk, view);
}

// The tensor's weights as they are to be encoded; what merging changes.
template <class Real>
TensorError RowStream::load(const Chunk& chunk, std::byte* slice) const {
    if (is_wide(chunk.choice)) return load_wide<Real>(chunk, slice);
    read(chunk, slice);
    return chunk.choice.merged ? merge(chunk, slice) : TensorError{};
}

// Row by row: all that is stored, merged and folded in double, then narrowed where need be.
template <class Real>
TensorError RowStream::load_wide(const Chunk& chunk, std::byte* slice) const {
    const TensorChoice& choice = chunk.choice;
    const SourceTensor& tensor = *choice.tensor;
    const auto cols = static_cast<std::size_t>(tensor.cols());
    const std::span<double> row(scratch(chunk, slice), cols);
    Real* out = plain<Real>(chunk, slice).data();
    PackedView view;
    if (tensor.is_matrix) view = read_stored(chunk, slice);
    TensorError change;
    for (std::int64_t r = 0; r < chunk.count; ++r, out += cols) {
        if (tensor.is_matrix) {
            format_of(view.layout)
                .decode(view, {r, 1}, {row.data(), DType::kF64, 1, tensor.cols(), tensor.cols()});
        } else {  // with the architecture's transforms
            std::vector<std::byte> stored;
            setup_.source->read_rows(tensor, 0, 1, row.data(), stored);
        }
        if (choice.merged) {
            setup_.merge->apply(row_before(choice, chunk.first + r), row, {row.data() + cols, cols},
                                change);
        }
        fold(choice.fold, row, out);
    }
    return change;
}

void RowStream::read(const Chunk& chunk, std::byte* slice) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    const std::span<float> weights = plain<float>(chunk, slice);
    if (!tensor.is_matrix || tensor.add != 0) {  // with the architecture's transforms
        std::vector<std::byte> stored;
        setup_.source->read_rows(tensor, chunk.first, chunk.count, weights.data(), stored);
        return;
    }
    const PackedView view = read_stored(chunk, slice);
    ops::decode_rows(setup_.isa, view, {0, chunk.count},
                     {weights.data(), DType::kF32, chunk.count, view.shape.cols, view.shape.cols});
}

TensorError RowStream::merge(const Chunk& chunk, std::byte* slice) const {
    const auto cols = static_cast<std::size_t>(chunk.choice.tensor->cols());
    const std::span<float> weights = plain<float>(chunk, slice);
    const std::span<double> row(scratch(chunk, slice), cols);
    TensorError change;
    for (std::int64_t r = 0; r < chunk.count; ++r) {
        setup_.merge->apply(row_before(chunk.choice, chunk.first + r),
                            weights.subspan(static_cast<std::size_t>(r) * cols, cols), row, change);
    }
    return change;
}

template <class Real>
void RowStream::encode(const Chunk& chunk, std::span<const Real> weights,
                       std::span<std::byte> packed) const {
    const PackedForm form = written_form(chunk.choice);
    SliceSink sink(form, chunk.count, packed.data());
    if (chunk.first > 0) encoder_->encode(0, {}, sink);  // tables
    if constexpr (std::is_same_v<Real, double>) {
        encoder_->encode_doubles(chunk.first, weights, sink);
    } else {
        encoder_->encode(chunk.first, weights, sink);
    }
    write(chunk, form.view({chunk.count, chunk.choice.tensor->cols()}, packed.data()));
}

template <class Real>
TensorError RowStream::measure(const Chunk& chunk, std::span<const Real> weights,
                               std::span<const std::byte> packed, std::span<Real> decoded) const {
    constexpr DType kType = std::is_same_v<Real, double> ? DType::kF64 : DType::kF32;
    const Shape2 shape{chunk.count, chunk.choice.tensor->cols()};
    chunk.choice.format->decode(written_form(chunk.choice).view(shape, packed.data()),
                                {0, chunk.count},
                                {decoded.data(), kType, shape.rows, shape.cols, shape.cols});
    TensorError sums;
    sums.compare(weights, std::span<const Real>(decoded));
    return sums;
}

// Tables come with the first rows.
void RowStream::write(const Chunk& chunk, const PackedView& rows) const {
    const std::lock_guard lock(chunk.writing);
    std::size_t index = chunk.index;
    for (int p = 0; p < rows.n_planes; ++p) {
        const PlaneView& plane = rows.planes[static_cast<std::size_t>(p)];
        if (plane.bytes == 0) continue;
        const std::uint64_t at = static_cast<std::uint64_t>(chunk.first) * plane.row_bytes;
        if (plane.row_bytes > 0 || chunk.first == 0)
            setup_.writer->write(index, at, {plane.data, plane.bytes});
        ++index;
    }
}

}  // namespace thimble
