// SPDX-License-Identifier: Apache-2.0
// One invocation of evaluate: what it will hold, then the work.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "cli/tool.h"
#include "eval/gate.h"
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
    void open_tasks();
    void check_options() const;
    void check_outputs() const;
    void open_gates();  // and the baseline
    [[nodiscard]] RunnerOptions runner_options() const;
    [[nodiscard]] RunnerOptions model_options() const;
    [[nodiscard]] RunnerOptions reference_options() const;
    struct Share;
    [[nodiscard]] std::vector<Share> shares();
    [[nodiscard]] bool share_out(std::vector<Share>& shares, std::uint64_t limit_bytes);
    [[nodiscard]] std::uint64_t read_bytes(const std::vector<Share>& shares) const;
    [[nodiscard]] bool choose_group(std::vector<Share>& shares, std::uint64_t limit_bytes);
    void stream_layers(Plan& plan, std::uint64_t limit_bytes, const cli::CommonOptions& common);
    [[nodiscard]] std::int64_t most_tokens() const;  // of one sequence of the model
    [[nodiscard]] Plan memory() const;
    void add_models(Plan& plan) const;
    void predict_time(Plan& plan, const cli::CommonOptions& common) const;
    [[nodiscard]] std::string remedy(std::uint64_t limit_bytes);

    [[nodiscard]] std::string journal_path() const;
    [[nodiscard]] Json journal_about(const eval::Record& record) const;
    [[nodiscard]] bool score(cli::Context& context, eval::Record& record);
    void fill_settings(eval::Record& record, const cli::Context& context) const;
    void finish(cli::Context& context, eval::Record& record);
    void write_results(const cli::Context& context, const eval::Record& record, const Json& json);
    void check_gates(cli::Context& context, const eval::Record& record) const;

    std::uint64_t baseline_bytes_, predicted_bytes_ = 0;
    std::uint64_t vram_bytes_ = UINT64_MAX;  // of each model on the CUDA device
    std::uint64_t weight_bytes_ = UINT64_MAX, reference_weight_bytes_ = UINT64_MAX;
    Device device_ = Device::kCpu;
    Isa isa_ = Isa::kPortable;
    std::unique_ptr<ModelSource> model_, reference_;
    std::vector<AdapterUse> adapters_;  // of the model
    std::unique_ptr<Tokenizer> tokenizer_;
    eval::TaskSetting setting_;
    eval::Suite suite_;
    std::unique_ptr<eval::Journal> journal_;
    std::optional<eval::Record> baseline_;
    std::vector<Gate> gates_;
};

void run_compare(const CompareOptions& options, cli::Context& context);
void run_report(const ReportOptions& options, cli::Context& context);

}  // namespace thimble::evaluate
