// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "io/json.h"

namespace thimble {

// JSON Lines to a file, pipe or, for "-", to `print`: each line whole and at once.
class JsonLines {
  public:
    using Print = std::function<void(std::string_view)>;
    enum class IfThere : std::uint8_t { kReplace, kAppend };
    // "" writes nothing. Throws kCannotCreate.
    JsonLines(const std::string& path, Print print, IfThere if_there = IfThere::kReplace);
    ~JsonLines();
    JsonLines(const JsonLines&) = delete;
    JsonLines& operator=(const JsonLines&) = delete;
    void write(const Json& line);  // Error(kIo) if it cannot

  private:
    std::string path_;
    Print print_;
    int fd_ = -1;
};

}  // namespace thimble
