// SPDX-License-Identifier: Apache-2.0
// One invocation of evaluate: what it will hold, then the work.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/tool.h"
#include "eval/record.h"
#include "eval/suite.h"
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
    void open(const cli::CommonOptions& common);  // headers of the models, and small data
    void open_models();
    void check_options() const;
    [[nodiscard]] RunnerOptions runner_options() const;
    [[nodiscard]] Plan memory() const;
    void add_models(Plan& plan) const;
    void predict_time(Plan& plan, const cli::CommonOptions& common) const;
    [[nodiscard]] std::string remedy(std::uint64_t limit_bytes);

    [[nodiscard]] std::string journal_path() const;
    [[nodiscard]] Json journal_about(const eval::Record& record) const;
    [[nodiscard]] bool score(cli::Context& context, eval::Record& record);
    void fill_settings(eval::Record& record, const cli::Context& context) const;
    void finish(cli::Context& context, eval::Record& record);

    std::uint64_t baseline_bytes_, predicted_bytes_ = 0;
    Device device_ = Device::kCpu;
    Isa isa_ = Isa::kPortable;
    std::unique_ptr<ModelSource> model_, reference_;
    std::unique_ptr<Tokenizer> tokenizer_;
    eval::TaskSetting setting_;
    eval::Suite suite_;
    std::unique_ptr<eval::Journal> journal_;
};

void run_report(const ReportOptions& options, cli::Context& context);

}  // namespace thimble::evaluate
