// SPDX-License-Identifier: Apache-2.0
// A text file line by line, and a JSONL file value by value, through a buffer of fixed size: files
// of any length are read in bounded memory.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "io/file.h"
#include "io/json.h"
#include "tensor/buffer.h"

namespace thimble {

class LineReader {
  public:
    static constexpr std::size_t kBufferBytes = std::size_t{64} << 10;
    static constexpr std::size_t kMostLineBytes = std::size_t{16} << 20;

    // Throws kNoInput or kBadData as File does.
    explicit LineReader(const std::string& path);
    // The next line without its newline; false at the end. Error(kBadData) naming file and line
    // when it is longer than kMostLineBytes.
    [[nodiscard]] bool next(std::string& line);
    // The same, but of a line longer than `most_bytes` (from 1 up) only that many bytes; the rest
    // follows as if it were a line, with the same number. terminated() tells the last part.
    [[nodiscard]] bool next_part(std::string& part, std::size_t most_bytes);
    [[nodiscard]] std::int64_t line_number() const noexcept { return line_; }  // of the last one
    // Bytes of all lines so far, newlines included; whether the last one had its newline.
    [[nodiscard]] std::uint64_t consumed_bytes() const noexcept { return consumed_; }
    [[nodiscard]] bool terminated() const noexcept { return terminated_; }
    [[nodiscard]] std::string where() const;  // "file: line 3"

  private:
    [[nodiscard]] std::string_view fill();
    [[nodiscard]] bool take(std::string& line, std::size_t most_bytes);
    File file_;
    Buffer buffer_;
    std::uint64_t offset_ = 0, consumed_ = 0;
    std::size_t begin_ = 0, end_ = 0;  // of what the buffer still holds
    std::int64_t line_ = 0;
    bool terminated_ = true;
};

// Calls `take(value, where)` for each line that is not blank, until it returns false. Throws
// Error(kBadData) naming file and line.
void for_each_json_line(const std::string& path,
                        const std::function<bool(const Json&, const std::string& where)>& take);

// What reading holds, of Purpose::kIo, for plans.
[[nodiscard]] std::uint64_t line_reader_bytes();

}  // namespace thimble
