// SPDX-License-Identifier: Apache-2.0
// The texts of a tool that changes a model: windows to learn from, and others to measure the change
// on, before and after.
#pragma once

#include <optional>
#include <string>

#include "calib/calibration_text.h"
#include "calib/collector.h"
#include "core/options.h"
#include "eval/windows.h"
#include "io/model_file.h"

namespace thimble::eval {

struct CheckedTextOptions {
    std::string file, chat_template, check_file;
    std::int64_t context_tokens = 512, chunks = 64, check_chunks = 8;
    bool parse_special = false;
    double max_kld = 0;  // 0: none
    void visit(OptionVisitor& v);
};

class CheckedTexts {
  public:
    // Without a file there is nothing, and without windows to measure on no such.
    CheckedTexts(const CheckedTextOptions& options, const ModelFile& model);

    [[nodiscard]] const CalibrationTexts& windows() const noexcept { return windows_; }
    [[nodiscard]] std::int64_t longest() const noexcept { return longest_; }
    [[nodiscard]] const std::optional<Windows>& checks() const noexcept { return checks_; }
    // Held now, and at most while they were read, tokenizer included.
    [[nodiscard]] std::uint64_t bytes() const noexcept;
    [[nodiscard]] std::uint64_t peak_bytes() const noexcept { return peak_bytes_; }

  private:
    std::optional<CalibrationText> text_, check_text_;
    CalibrationTexts windows_;
    std::optional<Windows> checks_;
    std::int64_t longest_ = 1;
    std::uint64_t peak_bytes_ = 0;
};

}  // namespace thimble::eval
