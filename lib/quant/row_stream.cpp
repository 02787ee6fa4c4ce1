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

// What a tensor's rows become.
PackedForm written_form(const TensorChoice& choice) {
    if (choice.copied) return choice.tensor->form;
    return block_form(choice.layout, {choice.tensor->rows(), choice.tensor->cols()});
}

class SliceSink final : public PlaneSink {
  public:
    explicit SliceSink(std::byte* out) : out_(out) {}
    void append(int, std::span<const std::byte> bytes) override {
        std::memcpy(out_, bytes.data(), bytes.size());
        out_ += bytes.size();
    }

  private:
    std::byte* out_;
};

}  // namespace

// Rows [first, first + count) of a tensor on their way.
struct RowStream::Chunk {
    const TensorChoice& choice;
    std::size_t index;
    std::int64_t first, count;
    std::mutex& writing;
};

RowBytes row_bytes(const TensorChoice& choice, bool measure_error) {
    const SourceTensor& tensor = *choice.tensor;
    RowBytes row;
    if (tensor.is_stored()) {
        for (const PlaneInfo& plane : tensor.form.planes) {
            row.stored += plane.row_bytes;
            if (tensor.form.planes.size() == 1) continue;
            row.tables += kAlign + (plane.row_bytes == 0 ? plane.bytes : 0);
        }
    }
    if (choice.copied) return row;
    row.plain = static_cast<std::size_t>(tensor.cols()) * sizeof(float);
    row.packed = written_form(choice).bytes(1);
    if (measure_error) row.decoded = row.plain;
    if (choice.merged) row.merging = static_cast<std::size_t>(tensor.cols()) * sizeof(double);
    return row;
}

std::size_t slice_bytes(const RowBytes& row, std::int64_t rows) {
    const auto n = static_cast<std::size_t>(rows);
    return row.tables + aligned(row.stored * n) + aligned(row.plain * n) + aligned(row.packed * n) +
           aligned(row.decoded * n) + aligned(row.merging);
}

std::int64_t rows_that_fit(const RowBytes& row, std::size_t slice) {
    auto rows = static_cast<std::int64_t>(slice / std::max<std::size_t>(row.sum(), 1));
    while (rows > 0 && slice_bytes(row, rows) > slice) --rows;
    return rows;
}

RowStream::RowStream(const Setup& setup)
    : setup_(setup),
      buffer_(setup.slice * static_cast<std::size_t>(setup.team->threads()), Purpose::kIo) {}

std::int64_t RowStream::convert_some(const TensorChoice& choice, std::size_t index,
                                     std::int64_t first, Sums& sums) {
    const std::int64_t fit = rows_that_fit(row_bytes(choice, setup_.measure_error), setup_.slice);
    if (fit == 0) throw Error(Exit::kFailure, choice.tensor->name, "a row exceeds the row buffer");
    const std::int64_t rows = std::min(choice.tensor->rows() - first, fit * kChunksPerGroup);
    std::array<Sums, kChunksPerGroup> parts{};
    std::mutex writing;
    setup_.team->run_indexed(rows, fit, [&](std::int64_t begin, std::int64_t end, int worker) {
        parts[static_cast<std::size_t>(begin / fit)] =
            convert_chunk({choice, index, first + begin, end - begin, writing},
                          buffer_.data() + setup_.slice * static_cast<std::size_t>(worker));
    });
    for (const Sums& part : parts) sums.add(part);
    return first + rows;
}

RowStream::Sums RowStream::convert_chunk(const Chunk& chunk, std::byte* slice) const try {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    std::byte* const plain = slice + row.tables + aligned(row.stored * count);
    const std::span<std::byte> packed(plain + aligned(row.plain * count), row.packed * count);
    if (chunk.choice.copied) {
        copy(chunk, slice);
        return {};
    }
    const std::span<float> weights(reinterpret_cast<float*>(plain),
                                   count * static_cast<std::size_t>(chunk.choice.tensor->cols()));
    load(chunk, slice, weights);
    Sums sums;
    if (chunk.choice.merged) {
        std::byte* const scratch = slice + slice_bytes(row, chunk.count) - aligned(row.merging);
        sums.change = merge(chunk, weights, reinterpret_cast<double*>(scratch));
    }
    encode(chunk, weights, packed);
    if (!setup_.measure_error) return sums;
    auto* decoded = reinterpret_cast<float*>(packed.data() + aligned(packed.size()));
    sums.error = measure(chunk, weights, packed, {decoded, weights.size()});
    return sums;
} catch (const Error& e) {
    if (e.exit() != Exit::kBadData) throw;
    throw Error(e.exit(),
                escaped(setup_.source->file().path(), 1024) + ": tensor '" +
                    chunk.choice.tensor->name + "', " + e.where(),
                e.problem(), e.hint());
}

void RowStream::copy(const Chunk& chunk, std::byte* stored) const {
    const PackedView view =
        setup_.source->read_packed(*chunk.choice.tensor, chunk.first, chunk.count, stored);
    format_of(view.layout).verify(view, {0, chunk.count}, chunk.first);
    write(chunk, view);
}

void RowStream::load(const Chunk& chunk, std::byte* stored, std::span<float> weights) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    if (!tensor.is_matrix || tensor.add != 0) {  // with the architecture's transforms
        std::vector<std::byte> scratch;
        setup_.source->read_rows(tensor, chunk.first, chunk.count, weights.data(), scratch);
        return;
    }
    const PackedView view = setup_.source->read_packed(tensor, chunk.first, chunk.count, stored);
    ops::decode_rows(setup_.isa, view, {0, chunk.count},
                     {weights.data(), DType::kF32, chunk.count, view.shape.cols, view.shape.cols});
}

TensorError RowStream::merge(const Chunk& chunk, std::span<float> weights, double* scratch) const {
    const auto cols = static_cast<std::size_t>(chunk.choice.tensor->cols());
    TensorError change;
    for (std::int64_t r = 0; r < chunk.count; ++r) {
        setup_.merge->apply(chunk.first + r,
                            weights.subspan(static_cast<std::size_t>(r) * cols, cols),
                            {scratch, cols}, change);
    }
    return change;
}

void RowStream::encode(const Chunk& chunk, std::span<const float> weights,
                       std::span<std::byte> packed) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    SliceSink sink(packed.data());
    ops::encoder(setup_.isa, format_of(chunk.choice.layout), {tensor.rows(), tensor.cols()},
                 {.column_importance = chunk.choice.importance})
        ->encode(chunk.first, weights, sink);
    write(chunk, written_form(chunk.choice).view({chunk.count, tensor.cols()}, packed.data()));
}

TensorError RowStream::measure(const Chunk& chunk, std::span<const float> weights,
                               std::span<const std::byte> packed, std::span<float> decoded) const {
    const Shape2 shape{chunk.count, chunk.choice.tensor->cols()};
    format_of(chunk.choice.layout)
        .decode(written_form(chunk.choice).view(shape, packed.data()), {0, chunk.count},
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
