// SPDX-License-Identifier: Apache-2.0
// One invocation of evaluate: what it will hold, then the work.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/tool.h"
#include "eval/record.h"
#include "eval/windows.h"
#include "model/runner.h"
#include "options.h"

namespace thimble::evaluate {

class Pipeline {
  public:
    // Most of the process before any work; the plan adds it.
    explicit Pipeline(std::uint64_t baseline_bytes) : baseline_bytes_(baseline_bytes) {}
    EvaluateOptions options;

    [[nodiscard]] Plan plan(const cli::CommonOptions& common);
    void run(cli::Context& context);

  private:
    void open();  // headers of both models, and the text if it comes from stdin
    [[nodiscard]] RunnerOptions runner_options(Device device, Isa isa) const;
    [[nodiscard]] std::uint64_t text_bytes() const;
    [[nodiscard]] std::int64_t most_windows() const;
    [[nodiscard]] Plan memory(Device device, Isa isa) const;
    void add_models(Plan& plan, Device device, Isa isa) const;
    void add_text(Plan& plan, Device device, Isa isa) const;
    void predict_time(Plan& plan, const cli::CommonOptions& common) const;
    [[nodiscard]] std::string remedy(std::uint64_t limit_bytes, Device device, Isa isa);

    [[nodiscard]] eval::Windows read_text(eval::TextFacts& facts) const;
    void check_reference_tokenizer(const Tokenizer& tokenizer, std::string_view text) const;
    void fill_settings(eval::Record& record, const cli::Context& context,
                       const RunnerOptions& runner) const;
    void finish(cli::Context& context, eval::Record& record) const;

    std::uint64_t baseline_bytes_, predicted_bytes_ = 0;
    std::unique_ptr<ModelSource> model_, reference_;
    std::optional<std::string> stdin_text_;
};

void run_report(const ReportOptions& options, cli::Context& context);

}  // namespace thimble::evaluate
