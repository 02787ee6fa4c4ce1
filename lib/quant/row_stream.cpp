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

RowBytes row_bytes(const TensorChoice& choice, bool measure_error) {
    const SourceTensor& tensor = *choice.tensor;
    RowBytes row;
    if (tensor.is_stored()) row.stored = row_of(tensor.form, row.stored_tables);
    if (choice.copied) return row;
    row.plain = static_cast<std::size_t>(tensor.cols()) * sizeof(float);
    row.packed = row_of(written_form(choice), row.packed_tables);
    if (measure_error) row.decoded = row.plain;
    if (choice.merged) row.merging = static_cast<std::size_t>(tensor.cols()) * sizeof(double);
    return row;
}

std::size_t slice_bytes(const RowBytes& row, std::int64_t rows) {
    const auto n = static_cast<std::size_t>(rows);
    return row.stored_tables + aligned(row.stored * n) + aligned(row.plain * n) +
           aligned(row.packed_tables + row.packed * n) + aligned(row.decoded * n) +
           aligned(row.merging);
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
    encoder_ = ops::encoder(setup_.isa, format, shape_of(choice),
                            {.column_importance = choice.importance});
    if (format.info().needs_scan) scan(choice);
}

// Each slice takes a chunk, all at once; then they are seen in order.
void RowStream::scan(const TensorChoice& choice) try {
    const std::int64_t fit = chunk_rows(choice), rows = choice.tensor->rows();
    std::mutex unused;
    for (std::int64_t first = 0; first < rows; first += fit * setup_.team->threads()) {
        const std::int64_t count = std::min(rows - first, fit * setup_.team->threads());
        const auto load_chunk = [&](std::int64_t begin, std::int64_t end) {
            load({choice, 0, first + begin, end - begin, unused}, slice(begin / fit));
        };
        setup_.team->run(count, fit, load_chunk);
        for (std::int64_t begin = 0; begin < count; begin += fit) {
            const std::int64_t n = std::min(fit, count - begin);
            encoder_->scan(first + begin, plain({choice, 0, first, n, unused}, slice(begin / fit)));
        }
    }
} catch (const Error& e) {
    throw placed(e, choice);
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
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    Sums sums;
    sums.change = load(chunk, slice);
    const std::span<float> weights = plain(chunk, slice);
    const std::span<std::byte> packed(
        reinterpret_cast<std::byte*>(weights.data()) + aligned(weights.size_bytes()),
        row.packed_tables + row.packed * count);
    encode(chunk, weights, packed);
    if (!setup_.measure_error) return sums;
    auto* decoded = reinterpret_cast<float*>(packed.data() + aligned(packed.size()));
    sums.error = measure(chunk, weights, packed, {decoded, weights.size()});
    return sums;
} catch (const Error& e) {
    throw placed(e, chunk.choice);
}

// Where a slice has a chunk's weights.
std::span<float> RowStream::plain(const Chunk& chunk, std::byte* slice) const {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    return {reinterpret_cast<float*>(slice + row.stored_tables + aligned(row.stored * count)),
            count * static_cast<std::size_t>(chunk.choice.tensor->cols())};
}

void RowStream::copy(const Chunk& chunk, std::byte* stored) const {
    const PackedView view =
        setup_.source->read_packed(*chunk.choice.tensor, chunk.first, chunk.count, stored);
    format_of(view.layout).verify(view, {0, chunk.count}, chunk.first);
    write(chunk, view);
}

// The tensor's weights as they are to be encoded; what merging changes.
TensorError RowStream::load(const Chunk& chunk, std::byte* slice) const {
    read(chunk, slice);
    return chunk.choice.merged ? merge(chunk, slice) : TensorError{};
}

void RowStream::read(const Chunk& chunk, std::byte* slice) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    const std::span<float> weights = plain(chunk, slice);
    if (!tensor.is_matrix || tensor.add != 0) {  // with the architecture's transforms
        std::vector<std::byte> scratch;
        setup_.source->read_rows(tensor, chunk.first, chunk.count, weights.data(), scratch);
        return;
    }
    const PackedView view = setup_.source->read_packed(tensor, chunk.first, chunk.count, slice);
    ops::decode_rows(setup_.isa, view, {0, chunk.count},
                     {weights.data(), DType::kF32, chunk.count, view.shape.cols, view.shape.cols});
}

TensorError RowStream::merge(const Chunk& chunk, std::byte* slice) const {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto cols = static_cast<std::size_t>(chunk.choice.tensor->cols());
    const std::span<float> weights = plain(chunk, slice);
    std::byte* const scratch = slice + slice_bytes(row, chunk.count) - aligned(row.merging);
    TensorError change;
    for (std::int64_t r = 0; r < chunk.count; ++r) {
        setup_.merge->apply(chunk.first + r,
                            weights.subspan(static_cast<std::size_t>(r) * cols, cols),
                            {reinterpret_cast<double*>(scratch), cols}, change);
    }
    return change;
}

void RowStream::encode(const Chunk& chunk, std::span<const float> weights,
                       std::span<std::byte> packed) const {
    const PackedForm form = written_form(chunk.choice);
    SliceSink sink(form, chunk.count, packed.data());
    if (chunk.first > 0) encoder_->encode(0, {}, sink);  // tables
    encoder_->encode(chunk.first, weights, sink);
    write(chunk, form.view({chunk.count, chunk.choice.tensor->cols()}, packed.data()));
}

TensorError RowStream::measure(const Chunk& chunk, std::span<const float> weights,
                               std::span<const std::byte> packed, std::span<float> decoded) const {
    const Shape2 shape{chunk.count, chunk.choice.tensor->cols()};
    chunk.choice.format->decode(written_form(chunk.choice).view(shape, packed.data()), {0, chunk.count},
                {decoded.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
    TensorError sums;
    sums.compare(weights, decoded);
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
