// SPDX-License-Identifier: Apache-2.0
// Moves one tensor from a source to a writer by chunks of rows: read, decode, encode, write, each
// chunk in one worker's own slice of a fixed buffer. A chunk's bytes depend on its rows alone, so
// threads and chunk sizes never show in the output.
#pragma once

#include <cstddef>
#include <cstdint>
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
    std::size_t stored_tables = 0, packed_tables = 0, merging = 0;  // besides, however many rows
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
        const AdapterMerge* merge = nullptr;  // with the terms of the tensor at hand
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
    [[nodiscard]] std::span<float> plain(const Chunk& chunk, std::byte* slice) const;
    void copy(const Chunk& chunk, std::byte* stored) const;
    TensorError load(const Chunk& chunk, std::byte* slice) const;
    void read(const Chunk& chunk, std::byte* slice) const;
    TensorError merge(const Chunk& chunk, std::byte* slice) const;
    void encode(const Chunk& chunk, std::span<const float> weights,
                std::span<std::byte> packed) const;
    [[nodiscard]] TensorError measure(const Chunk& chunk, std::span<const float> weights,
                                      std::span<const std::byte> packed,
                                      std::span<float> decoded) const;
    void write(const Chunk& chunk, const PackedView& rows) const;

    Setup setup_;
    Buffer buffer_;
    Charge scanned_;
    std::unique_ptr<Encoder> encoder_;
};

}  // namespace thimble
