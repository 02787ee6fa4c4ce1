// SPDX-License-Identifier: Apache-2.0
// The rows of each training step, in an order that (seed, epoch) alone decides: an epoch's samples
// are shuffled, cut into windows, packed into rows within each window, and a window's rows are
// shuffled again, because packing begins with the longest. A step takes the next rows of that
// order; they are dealt to the ranks in turn, so any number of ranks trains on the same steps. An
// epoch's last step is the smaller one. Nothing depends on threads.
#pragma once

#include <cstdint>
#include <memory_resource>
#include <span>
#include <vector>

#include "core/ledger.h"
#include "train/data/data_set.h"
#include "train/data/packing.h"

namespace thimble::train {

inline constexpr std::int32_t kNoTarget = -1;

// Documents one after the other; positions begin anew in each, and none sees another.
struct PackedRow {
    std::vector<Token> tokens;
    std::vector<std::int32_t> targets;  // [tokens] what is to follow, in the same document, or
                                        // kNoTarget
    std::vector<std::int64_t> document_lengths;  // their sum is the number of tokens
};

struct TrainingBatch {
    std::vector<PackedRow> rows;  // of this rank
    std::int64_t epoch = 0;
    // Of all ranks together.
    std::int64_t global_rows = 0, global_tokens = 0, global_targets = 0;
    Charge charge;  // of the rows
};

// The next row of the order. Saved with a checkpoint.
struct DataCursor {
    std::int64_t epoch = 0, window = 0, row = 0;
    bool operator==(const DataCursor&) const = default;
};

struct BatchPlan {
    std::int64_t rows_per_step = 1;  // of all ranks together
    std::int64_t epochs = 1;
    std::uint64_t seed = 0;
    std::int64_t rank = 0, ranks = 1;
};

class BatchStream {
  public:
    // Takes from the options how rows are packed and whether they are shuffled. The data set must
    // outlive the stream.
    BatchStream(const DataSet& data, const DataOptions& options, const BatchPlan& plan);

    // The next step's rows of this rank, possibly none in an epoch's last step; false after the
    // last epoch.
    [[nodiscard]] bool next(TrainingBatch& batch);
    [[nodiscard]] const DataCursor& cursor() const noexcept { return cursor_; }
    // The following next() gives what it gave, or would have given, at that cursor.
    // Error(kBadData): not a cursor of this data and these options.
    void seek(const DataCursor& cursor);

    // Of one epoch, found by packing it.
    struct EpochCounts {
        std::int64_t rows = 0, steps = 0;
    };
    [[nodiscard]] EpochCounts count(std::int64_t epoch) const;

    // Bytes of Purpose::kIo, for plans: what a stream over `samples` samples may hold (count() as
    // much again while it works), and what a batch and reading it may hold besides.
    [[nodiscard]] static std::uint64_t most_bytes(const DataOptions& options,
                                                  std::int64_t samples) noexcept;
    [[nodiscard]] static std::uint64_t batch_bytes(const DataSet& data, const DataOptions& options,
                                                   const BatchPlan& plan) noexcept;

  private:
    // One window of an epoch's order as rows.
    struct Window {
        std::int64_t epoch = -1, index = -1;
        std::int64_t order_epoch = -1;                            // of `order`
        std::pmr::vector<std::uint32_t> order{&data_memory()};    // samples of the epoch
        std::pmr::vector<std::uint32_t> lengths{&data_memory()};  // of the window's samples
        std::pmr::vector<std::uint32_t> rows{&data_memory()};     // in their order
        PackedWindow packed{&data_memory()};
    };
    void load(Window& window, std::int64_t epoch, std::int64_t index) const;
    [[nodiscard]] std::int64_t windows() const noexcept;
    [[nodiscard]] std::span<const std::uint32_t> samples(std::int64_t row) const;
    [[nodiscard]] PackedRow read(std::int64_t row) const;
    void settle();  // moves the cursor over the ends of windows and epochs

    const DataSet& data_;
    BatchPlan plan_;
    Packing packing_;
    bool shuffle_;
    std::int64_t window_samples_, context_tokens_;
    DataCursor cursor_;
    Window window_;
};

}  // namespace thimble::train
