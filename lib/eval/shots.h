// SPDX-License-Identifier: Apache-2.0
// The solved examples that stand before each sample of a task: the first ones of a file of their
// own, each followed by an empty line, as lm-evaluation-harness writes them.
#pragma once

#include <cstdint>
#include <string>

namespace thimble::eval {

struct ShotSource {
    std::string kind;  // of the task, for errors
    std::string file;  // "": none
    std::int64_t count = 0;
};

class ShotText {
  public:
    // Error(kUsage) when shots are wanted and no file is given, or the other way round.
    explicit ShotText(ShotSource source);
    [[nodiscard]] bool wanted() const noexcept { return source_.count > 0; }
    [[nodiscard]] bool add(const std::string& solved);  // whether more are wanted
    // Error(kUsage) when the file held too few.
    [[nodiscard]] std::string finish() const;

  private:
    ShotSource source_;
    std::int64_t held_ = 0;
    std::string text_;
};

}  // namespace thimble::eval
