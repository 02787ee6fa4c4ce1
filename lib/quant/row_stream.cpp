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

std::size_t packed_row_bytes(LayoutId layout, std::int64_t cols) {
    const LayoutInfo& info = layout_info(layout);
    return static_cast<std::size_t>(cols / info.block_elements) * info.block_bytes;
}

PackedView view_of(LayoutId layout, Shape2 shape, const std::byte* data) {
    PackedView view;
    view.layout = layout;
    view.shape = shape;
    view.n_planes = 1;
    const std::size_t row = packed_row_bytes(layout, shape.cols);
    view.planes[0] = {data, row, row * static_cast<std::size_t>(shape.rows)};
    return view;
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
    const std::int64_t cols = tensor.cols();
    RowBytes row;
    row.stored = tensor.entry ? packed_row_bytes(*layout_of(tensor.type()), cols) : 0;
    if (choice.copied) return row;
    row.plain = static_cast<std::size_t>(cols) * sizeof(float);
    row.packed = packed_row_bytes(choice.layout, cols);
    if (measure_error) row.decoded = row.plain;
    return row;
}

std::size_t slice_bytes(const RowBytes& row, std::int64_t rows) {
    const auto n = static_cast<std::size_t>(rows);
    return aligned(row.stored * n) + aligned(row.plain * n) + aligned(row.packed * n) +
           aligned(row.decoded * n);
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
                                     std::int64_t first, TensorError& error) {
    const std::int64_t fit = rows_that_fit(row_bytes(choice, setup_.measure_error), setup_.slice);
    if (fit == 0) throw Error(Exit::kFailure, choice.tensor->name, "a row exceeds the row buffer");
    const std::int64_t rows = std::min(choice.tensor->rows() - first, fit * kChunksPerGroup);
    std::array<TensorError, kChunksPerGroup> errors{};
    std::mutex writing;
    setup_.team->run_indexed(rows, fit, [&](std::int64_t begin, std::int64_t end, int worker) {
        errors[static_cast<std::size_t>(begin / fit)] =
            convert_chunk({choice, index, first + begin, end - begin, writing},
                          buffer_.data() + setup_.slice * static_cast<std::size_t>(worker));
    });
    for (const TensorError& e : errors) error.add(e);
    return first + rows;
}

TensorError RowStream::convert_chunk(const Chunk& chunk, std::byte* slice) const try {
    const RowBytes row = row_bytes(chunk.choice, setup_.measure_error);
    const auto count = static_cast<std::size_t>(chunk.count);
    const std::span<std::byte> stored(slice, row.stored * count);
    std::byte* const plain = slice + aligned(stored.size());
    const std::span<std::byte> packed(plain + aligned(row.plain * count), row.packed * count);
    if (chunk.choice.copied) {
        copy(chunk, stored);
        return {};
    }
    const std::span<float> weights(reinterpret_cast<float*>(plain),
                                   count * static_cast<std::size_t>(chunk.choice.tensor->cols()));
    load(chunk, stored, weights);
    encode(chunk, weights, packed);
    if (!setup_.measure_error) return {};
    auto* decoded = reinterpret_cast<float*>(packed.data() + aligned(packed.size()));
    return measure(chunk, weights, packed, {decoded, weights.size()});
} catch (const Error& e) {
    if (e.exit() != Exit::kBadData) throw;
    throw Error(e.exit(),
                escaped(setup_.source->file().path(), 1024) + ": tensor '" +
                    chunk.choice.tensor->name + "', " + e.where(),
                e.problem(), e.hint());
}

void RowStream::copy(const Chunk& chunk, std::span<std::byte> stored) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    setup_.source->read_stored_rows(tensor, chunk.first, chunk.count, stored);
    format_of(chunk.choice.layout)
        .verify(view_of(chunk.choice.layout, {chunk.count, tensor.cols()}, stored.data()),
                {0, chunk.count}, chunk.first);
    write(chunk, stored);
}

void RowStream::load(const Chunk& chunk, std::span<std::byte> stored,
                     std::span<float> weights) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    if (!tensor.is_matrix || tensor.add != 0) {  // with the architecture's transforms
        std::vector<std::byte> scratch;
        setup_.source->read_rows(tensor, chunk.first, chunk.count, weights.data(), scratch);
        return;
    }
    setup_.source->read_stored_rows(tensor, chunk.first, chunk.count, stored);
    const LayoutId layout = *layout_of(tensor.type());
    const Shape2 shape{chunk.count, tensor.cols()};
    ops::decode_rows(setup_.isa, view_of(layout, shape, stored.data()), {0, chunk.count},
                     {weights.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
}

void RowStream::encode(const Chunk& chunk, std::span<const float> weights,
                       std::span<std::byte> packed) const {
    const SourceTensor& tensor = *chunk.choice.tensor;
    SliceSink sink(packed.data());
    ops::encoder(setup_.isa, format_of(chunk.choice.layout), {tensor.rows(), tensor.cols()},
                 {.column_importance = chunk.choice.importance})
        ->encode(chunk.first, weights, sink);
    write(chunk, packed);
}

TensorError RowStream::measure(const Chunk& chunk, std::span<const float> weights,
                               std::span<const std::byte> packed, std::span<float> decoded) const {
    const Shape2 shape{chunk.count, chunk.choice.tensor->cols()};
    format_of(chunk.choice.layout)
        .decode(view_of(chunk.choice.layout, shape, packed.data()), {0, chunk.count},
                {decoded.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
    TensorError sums;
    sums.compare(weights, decoded);
    return sums;
}

void RowStream::write(const Chunk& chunk, std::span<const std::byte> bytes) const {
    const std::uint64_t row = bytes.size() / static_cast<std::size_t>(chunk.count);
    const std::lock_guard lock(chunk.writing);
    setup_.writer->write(chunk.index, static_cast<std::uint64_t>(chunk.first) * row, bytes);
}

}  // namespace thimble
