// SPDX-License-Identifier: Apache-2.0
// Moves one tensor from a source to a writer by chunks of rows: read, decode, encode, write, each
// chunk in one worker's own slice of a fixed buffer. A chunk's bytes depend on its rows alone, so
// threads and chunk sizes never show in the output.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "core/error.h"
#include "core/ledger.h"
#include "core/team.h"
#include "io/tensor_writer.h"
#include "quant/rules.h"
#include "quant/tensor_error.h"
#include "tensor/buffer.h"

namespace thimble {

// What a tensor's rows become.
[[nodiscard]] PackedForm written_form(const TensorChoice& choice);

// Bytes that one row needs in a worker's slice.
struct RowBytes {
    std::size_t stored = 0, plain = 0, packed = 0, decoded = 0;
    std::size_t stored_tables = 0, packed_tables = 0, scratch = 0;  // besides, however many rows
    [[nodiscard]] std::size_t sum() const noexcept { return stored + plain + packed + decoded; }
};
[[nodiscard]] RowBytes row_bytes(const TensorChoice& choice, bool measure_error);

// A worker's slice that holds `rows` rows, and the rows that a slice holds (0: not one).
[[nodiscard]] std::size_t slice_bytes(const RowBytes& row, std::int64_t rows);
[[nodiscard]] std::int64_t rows_that_fit(const RowBytes& row, std::size_t slice);

// What an encoder keeps that sees all rows first.
[[nodiscard]] std::size_t scan_bytes(const TensorChoice& choice);

class RowStream {
  public:
    struct Setup {
        const ModelSource* source = nullptr;
        TensorWriter* writer = nullptr;
        Team* team = nullptr;
        std::size_t slice = 0;  // bytes per worker
        Isa isa = Isa::kPortable;
        bool measure_error = false;
        AdapterMerge* merge = nullptr;  // with the terms of the tensor at hand
    };
    struct Sums {
        TensorError error;   // if errors are measured
        TensorError change;  // by merging
        void add(const Sums& other) noexcept {
            error.add(other.error);
            change.add(other.change);
        }
    };
    explicit RowStream(const Setup& setup);

    // Converts the tensor from row `done` on into the writer's tensor `index`, or the planes of a
    // copied one into `index` and those that follow; adds to `sums`. Calls
    // between(rows done) between groups of chunks on the calling thread; stops when it returns
    // false.
    template <class Between>
    bool convert(const TensorChoice& choice, std::size_t index, std::int64_t done, Sums& sums,
                 Between&& between) {
        const std::int64_t rows = choice.tensor->rows();
        if (done < rows) prepare(choice);
        while (done < rows) {
            done = convert_some(choice, index, done, sums);
            if (!between(done)) return false;
        }
        return true;
    }

    // use(row, begin, end) for columns [begin, end) of each row of a matrix as it is before it is
    // changed, adapters merged. The rows of a column come in order, several columns at once. Leaves
    // the matrix's adapters in place of those loaded; false when go_on(), asked now and then on the
    // calling thread, stopped it.
    using ColumnUse = std::function<void(const float*, std::int64_t, std::int64_t)>;
    [[nodiscard]] bool survey(const SourceTensor& tensor, const ColumnUse& use,
                              const std::function<bool()>& go_on);

    // The choice's format with room for what its rows hold; go_on as survey() takes it, and null
    // where it stopped the look. Only where the format asks for one.
    [[nodiscard]] SharedFormat fit(const TensorChoice& choice, const std::function<bool()>& go_on);

  private:
    struct Chunk;
    // Makes the tensor's encoder.
    void prepare(const TensorChoice& choice);
    void scan(const TensorChoice& choice);
    // Returns the row after the last one converted.
    std::int64_t convert_some(const TensorChoice& choice, std::size_t index, std::int64_t first,
                              Sums& sums);
    Sums convert_chunk(const Chunk& chunk, std::byte* slice) const;
    [[nodiscard]] std::byte* slice(std::int64_t i) noexcept;
    [[nodiscard]] std::int64_t chunk_rows(const TensorChoice& choice) const;
    [[nodiscard]] Error placed(const Error& e, const TensorChoice& choice) const;
    // Loads as many rows as the slices hold, all at once, then sees them: see(first, pieces) with
    // the rows from `first` on, in order.
    template <class See>
    void load_in_turn(const TensorChoice& choice, See&& see);
    template <class Real>
    [[nodiscard]] std::span<Real> plain(const Chunk& chunk, std::byte* slice) const;
    template <class Real>
    [[nodiscard]] Sums convert_rows(const Chunk& chunk, std::byte* slice) const;
    PackedView read_stored(const Chunk& chunk, std::byte* out) const;
    void verify(const Chunk& chunk, const PackedView& view) const;
    void copy(const Chunk& chunk, std::byte* stored) const;
    template <class Real>
    TensorError load(const Chunk& chunk, std::byte* slice) const;
    template <class Real>
    TensorError load_wide(const Chunk& chunk, std::byte* slice) const;
    void read(const Chunk& chunk, std::byte* slice) const;
    TensorError merge(const Chunk& chunk, std::byte* slice) const;
    [[nodiscard]] double* scratch(const Chunk& chunk, std::byte* slice) const;
    template <class Real>
    void encode(const Chunk& chunk, std::span<const Real> weights,
                std::span<std::byte> packed) const;
    template <class Real>
    [[nodiscard]] TensorError measure(const Chunk& chunk, std::span<const Real> weights,
                                      std::span<const std::byte> packed,
                                      std::span<Real> decoded) const;
    void write(const Chunk& chunk, const PackedView& rows) const;

    Setup setup_;
    Buffer buffer_;
    Charge scanned_;
    std::unique_ptr<Encoder> encoder_;
};

}  // namespace thimble
