// SPDX-License-Identifier: Apache-2.0
// The samples of data files, known by place and length. Opening reads every record once: it is
// checked, encoded and counted, and only where it lies is kept (32 bytes a sample); a row's tokens
// are made when they are needed. So the text is never held as a whole, and what an epoch has to do
// is known before it begins.
//
// A sample that is longer than a row is split into pieces of a row's length, each a sample of its
// own that begins with BOS where the whole one does; no token but BOS is in two of them. Pieces
// and documents of plain text without anything to learn are left out and counted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <memory_resource>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/file.h"
#include "train/data/records.h"
#include "train/data/sample.h"

namespace thimble::train {

// What all containers of the data are charged to: Purpose::kIo.
[[nodiscard]] std::pmr::memory_resource& data_memory() noexcept;

struct DataFile {
    std::string path, sha256;
    std::uint64_t bytes = 0;
    std::int64_t records = 0;
    std::string form;  // "messages", ... ; "plain text"
};

struct DataCounts {
    std::int64_t records = 0;  // that gave samples: lines, documents, or blocks of long documents
    std::int64_t samples = 0;  // after splitting
    std::int64_t tokens = 0, targets = 0;
    std::int64_t split = 0, truncated = 0, dropped = 0;  // records longer than a row
    std::int64_t without_targets = 0;                    // samples left out
};

class DataSet {
  public:
    // Reads `paths`. Errors: those of File, for_each_record and SampleEncoder; kBadData naming
    // file and line for forms mixed in one file and for a record that is too long if that is an
    // error, and naming the file if it has no sample. The tokenizer must outlive the data set.
    DataSet(const DataOptions& options, std::span<const std::string> paths,
            const Tokenizer& tokenizer);

    [[nodiscard]] std::int64_t size() const noexcept { return std::ssize(items_); }  // samples
    [[nodiscard]] std::int64_t tokens(std::int64_t sample) const noexcept {
        return items_[static_cast<std::size_t>(sample)].tokens;
    }
    [[nodiscard]] std::int64_t targets(std::int64_t sample) const noexcept {
        return items_[static_cast<std::size_t>(sample)].targets;
    }
    // Error(kBadData) when the file is no longer what was opened.
    [[nodiscard]] TrainingSample read(std::int64_t sample) const;

    [[nodiscard]] const DataCounts& counts() const noexcept { return counts_; }
    [[nodiscard]] const std::vector<DataFile>& files() const noexcept { return source_->files; }
    // Of Purpose::kIo, for plans: what it holds at most, and what reading a sample holds besides.
    [[nodiscard]] std::uint64_t most_bytes() const noexcept;
    [[nodiscard]] std::uint64_t reading_bytes() const noexcept;

    // Takes `fraction` of the records out, at least one and not all, and gives them as a data set
    // of their own. The choice depends on the seed alone; pieces of a record stay together.
    [[nodiscard]] DataSet split_off(double fraction, std::uint64_t seed);

  private:
    struct Item {
        std::uint64_t offset = 0;  // of the record
        std::uint32_t bytes = 0, line = 0;
        std::uint32_t begin = 0;   // of the record's tokens
        std::uint32_t tokens = 0;  // with BOS, where it was put before a piece
        std::uint32_t targets = 0;
        std::uint16_t file = 0;
        bool ends_document = true, first = true;  // of the record's pieces
    };
    struct Source {
        std::vector<DataFile> files;
        std::vector<File> open;
        std::vector<std::optional<SampleForm>> forms;  // of JSON lines
        SampleEncoder encoder;
        std::uint64_t largest_record_bytes = 0;
        [[nodiscard]] std::size_t marks(const TrainingSample& sample, std::size_t begin) const;
        [[nodiscard]] TrainingSample piece(const TrainingSample& sample, std::size_t begin,
                                           std::size_t most) const;
    };
    DataSet() = default;
    void add_file(const DataOptions& options, const std::string& path);
    void add_record(const DataOptions& options, DataForm form, const Record& record);
    void add_pieces(const DataOptions& options, const Record& record, const TrainingSample& sample);
    void count();

    std::shared_ptr<Source> source_;
    std::pmr::deque<Item> items_{&data_memory()};  // grows without copies
    DataCounts counts_;
};

struct TrainingData {
    DataSet train;
    std::optional<DataSet> validation;
};
// As the options say; a directory stands for its train.jsonl and, if nothing else is to be
// validated on, its valid.jsonl.
[[nodiscard]] TrainingData open_training_data(const DataOptions& options,
                                              const Tokenizer& tokenizer, std::uint64_t seed);

}  // namespace thimble::train
