// SPDX-License-Identifier: Apache-2.0
// The records of a data file one after the other, each with its place in the file, so that it can
// be read again alone: a line of JSON, or a document of plain text.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace thimble::train {

enum class DataForm : std::uint8_t { kJsonLines, kText };

// By the file's name. Error(kUsage) for names of other formats, with the way to convert them.
[[nodiscard]] DataForm data_form(const std::string& path);

enum class TextSplit : std::uint8_t { kNone, kLines, kSeparator };

struct RecordRules {
    DataForm form = DataForm::kJsonLines;
    TextSplit split = TextSplit::kNone;
    std::string separator;  // a line with this text divides documents; "": a blank line
    // A longer document is read in blocks of about this size, each a document of its own: so the
    // text of a large one need never be held as a whole. At least 16.
    std::size_t block_bytes = std::size_t{4} << 10;
};

struct Record {
    std::uint64_t offset = 0;  // in the file
    std::string_view text;
    std::int64_t line = 0;                              // where it begins, from 1
    bool begins_document = true, ends_document = true;  // not both: a block of a long document
};

// In the order of the file; records without a letter are passed over. `where` is "file:line".
// Errors: those of File; kBadData for text that is not UTF-8 and for a line of JSON of more than
// LineReader::kMostLineBytes.
void for_each_record(const std::string& path, const RecordRules& rules,
                     const std::function<void(const Record&)>& take);

[[nodiscard]] std::string where_in(const std::string& path, std::int64_t line);

}  // namespace thimble::train
