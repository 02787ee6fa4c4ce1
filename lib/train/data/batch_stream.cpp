// SPDX-License-Identifier: Apache-2.0
#include "train/data/batch_stream.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "train/data/order.h"

namespace thimble::train {

namespace {

std::uint64_t row_bytes(const std::vector<PackedRow>& rows) {
    std::uint64_t sum = 0;
    for (const PackedRow& row : rows) {
        sum += row.tokens.capacity() * sizeof(Token) +
               row.targets.capacity() * sizeof(std::int32_t) +
               row.document_lengths.capacity() * sizeof(std::int64_t);
    }
    return sum;
}

}  // namespace

BatchStream::BatchStream(const DataSet& data, const DataOptions& options, const BatchPlan& plan)
    : data_(data),
      plan_(plan),
      packing_(parse_packing(options.pack)),
      shuffle_(options.shuffle),
      window_samples_(options.pack_window),
      context_tokens_(options.context_tokens) {
    load(window_, 0, 0);
}

std::int64_t BatchStream::windows() const noexcept {
    return (data_.size() + window_samples_ - 1) / window_samples_;
}

void BatchStream::load(Window& window, std::int64_t epoch, std::int64_t index) const {
    if (window.order.empty()) window.order.resize(static_cast<std::size_t>(data_.size()));
    if (window.order_epoch != epoch) {
        std::iota(window.order.begin(), window.order.end(), 0u);
        if (shuffle_)
            shuffle(std::span(window.order), plan_.seed, OrderOf::kSamples,
                    static_cast<std::uint64_t>(epoch));
        window.order_epoch = epoch;
    }
    const std::int64_t begin = index * window_samples_;
    const std::int64_t count = std::min(window_samples_, data_.size() - begin);
    window.lengths.clear();
    window.lengths.reserve(static_cast<std::size_t>(std::min(window_samples_, data_.size())));
    for (std::int64_t i = begin; i < begin + count; ++i) {
        const std::uint32_t sample = window.order[static_cast<std::size_t>(i)];
        window.lengths.push_back(static_cast<std::uint32_t>(data_.tokens(sample)));
    }
    window.packed.pack(window.lengths, static_cast<std::uint32_t>(context_tokens_), packing_);
    window.rows.resize(static_cast<std::size_t>(window.packed.rows()));
    std::iota(window.rows.begin(), window.rows.end(), 0u);
    if (shuffle_)
        shuffle(std::span(window.rows), plan_.seed, OrderOf::kRows,
                static_cast<std::uint64_t>(epoch), static_cast<std::uint64_t>(begin));
    window.epoch = epoch;
    window.index = index;
}

std::span<const std::uint32_t> BatchStream::samples(std::int64_t row) const {
    return window_.packed.row(window_.rows[static_cast<std::size_t>(row)]);
}

PackedRow BatchStream::read(std::int64_t row) const {
    PackedRow out;
    std::int64_t tokens = 0;
    for (const std::uint32_t position : samples(row)) tokens += window_.lengths[position];
    out.tokens.reserve(static_cast<std::size_t>(tokens));
    out.targets.reserve(static_cast<std::size_t>(tokens));
    out.document_lengths.reserve(samples(row).size());
    const std::int64_t begin = window_.index * window_samples_;
    for (const std::uint32_t position : samples(row)) {
        const TrainingSample sample =
            data_.read(window_.order[static_cast<std::size_t>(begin + position)]);
        const std::size_t count = sample.tokens.size();
        out.tokens.insert(out.tokens.end(), sample.tokens.begin(), sample.tokens.end());
        for (std::size_t i = 1; i < count; ++i)
            out.targets.push_back(sample.is_target[i] != 0 ? sample.tokens[i] : kNoTarget);
        out.targets.push_back(kNoTarget);
        out.document_lengths.push_back(static_cast<std::int64_t>(count));
    }
    return out;
}

void BatchStream::settle() {
    while (cursor_.epoch < plan_.epochs) {
        if (window_.epoch != cursor_.epoch || window_.index != cursor_.window)
            load(window_, cursor_.epoch, cursor_.window);
        if (cursor_.row < std::ssize(window_.rows)) return;
        cursor_.row = 0;
        if (++cursor_.window == windows()) {
            cursor_.window = 0;
            ++cursor_.epoch;
        }
    }
}

bool BatchStream::next(TrainingBatch& batch) {
    settle();
    batch = {};
    batch.epoch = cursor_.epoch;
    while (cursor_.epoch < plan_.epochs && cursor_.epoch == batch.epoch &&
           batch.global_rows < plan_.rows_per_step) {
        const std::int64_t begin = window_.index * window_samples_;
        for (const std::uint32_t position : samples(cursor_.row)) {
            const std::uint32_t sample = window_.order[static_cast<std::size_t>(begin + position)];
            batch.global_tokens += data_.tokens(sample);
            batch.global_targets += data_.targets(sample);
        }
        if (batch.global_rows % plan_.ranks == plan_.rank) batch.rows.push_back(read(cursor_.row));
        ++batch.global_rows;
        ++cursor_.row;
        settle();
    }
    batch.charge = Charge(Tier::kRam, Purpose::kIo, row_bytes(batch.rows));
    return batch.global_rows > 0;
}

void BatchStream::seek(const DataCursor& cursor) {
    const bool at_end = cursor == DataCursor{plan_.epochs, 0, 0};
    const bool in_range = cursor.epoch >= 0 && cursor.epoch < plan_.epochs && cursor.window >= 0 &&
                          cursor.window < windows() && cursor.row >= 0;
    if (in_range) load(window_, cursor.epoch, cursor.window);
    if (!at_end && (!in_range || cursor.row >= std::ssize(window_.rows))) {
        throw Error(Exit::kBadData, "data cursor",
                    "epoch " + std::to_string(cursor.epoch) + ", window " +
                        std::to_string(cursor.window) + ", row " + std::to_string(cursor.row) +
                        " is not in this data",
                    "resume with the data and options of the first run");
    }
    cursor_ = cursor;
}

BatchStream::EpochCounts BatchStream::count(std::int64_t epoch) const {
    Window window;
    EpochCounts out;
    for (std::int64_t i = 0; i < windows(); ++i) {
        load(window, epoch, i);
        out.rows += std::ssize(window.rows);
    }
    out.steps = (out.rows + plan_.rows_per_step - 1) / plan_.rows_per_step;
    return out;
}

std::uint64_t BatchStream::most_bytes(const DataOptions& options, std::int64_t samples) noexcept {
    const auto all = static_cast<std::uint64_t>(samples);
    const std::uint64_t window = std::min(static_cast<std::uint64_t>(options.pack_window), all);
    return sizeof(std::uint32_t) * (all + 2 * window) + PackedWindow::most_bytes(window);
}

std::uint64_t BatchStream::batch_bytes(const DataSet& data, const DataOptions& options,
                                       const BatchPlan& plan) noexcept {
    const auto rows =
        static_cast<std::uint64_t>((plan.rows_per_step + plan.ranks - 1) / plan.ranks);
    // A document has two tokens or more.
    const std::uint64_t row = static_cast<std::uint64_t>(options.context_tokens) *
                              (sizeof(Token) + sizeof(std::int32_t) + sizeof(std::int64_t) / 2);
    return rows * row + data.reading_bytes();
}

}  // namespace thimble::train
