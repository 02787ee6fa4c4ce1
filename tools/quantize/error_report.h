// SPDX-License-Identifier: Apache-2.0
// What became of each tensor, for the JSON report and for --error-report.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/json.h"
#include "quant/job.h"

namespace thimble {

[[nodiscard]] Json tensor_json(const TensorReport& report);

// JSON Lines to a file, pipe or, for "-", to `print`: each line whole and at once.
class JsonLines {
  public:
    using Print = std::function<void(std::string_view)>;
    // "" writes nothing. Throws kCannotCreate.
    JsonLines(const std::string& path, Print print);
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
