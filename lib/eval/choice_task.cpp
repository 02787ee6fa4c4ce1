// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "eval/choice.h"
#include "eval/facts.h"
#include "eval/shots.h"
#include "io/lines.h"
#include "io/sha256.h"

namespace thimble::eval {
namespace {

enum Figure : std::size_t { kAcc, kAccNorm, kAccBytes, kAccTokens, kAnswerNll, kFigures };
const std::array<MetricInfo, kFigures> kMetrics = {{{"acc", true},
                                                    {"acc_norm", true},
                                                    {"acc_bytes", true},
                                                    {"acc_tokens", true},
                                                    {"answer_nll", false}}};

double is_best(std::span<const double> scores, std::int64_t answer) {
    const auto best = std::max_element(scores.begin(), scores.end());
    return best - scores.begin() == answer ? 1 : 0;
}

std::vector<double> divided(std::span<const double> sums, std::span<const double> lengths) {
    std::vector<double> out;
    for (std::size_t i = 0; i < sums.size(); ++i) out.push_back(sums[i] / lengths[i]);
    return out;
}

class ChoiceTask final : public Task {
  public:
    ChoiceTask(ChoiceTaskOptions options, ChoiceReader reader)
        : options_(std::move(options)), reader_(std::move(reader)) {}

    void open(const TaskSetting& setting) override;
    [[nodiscard]] std::vector<std::string> inputs() const override {
        return options_.fewshot.empty() ? std::vector{options_.file}
                                        : std::vector{options_.file, options_.fewshot};
    }
    [[nodiscard]] std::string default_name() const override { return options_.kind; }
    [[nodiscard]] std::vector<MetricInfo> metrics() const override {
        return {kMetrics.begin(), kMetrics.end()};
    }
    [[nodiscard]] TaskNeeds needs() const override { return needs_; }
    void add_to_plan(Plan& plan) const override;
    void load() override {
        sha256_ = sha256_of_file(options_.file);
        if (!options_.fewshot.empty())
            sha256_ = sha256_of(sha256_ + sha256_of_file(options_.fewshot));
    }
    [[nodiscard]] double predicted_tokens() const override { return fed_tokens_; }
    [[nodiscard]] std::int64_t samples() const override { return std::ssize(items_); }
    [[nodiscard]] Json evaluate(std::int64_t sample, const TaskRun& run) override;
    void stop() noexcept override { scorer_.reset(); }
    void add(const Json& outcome, std::string_view where) override;
    [[nodiscard]] TaskResult facts() const override;
    [[nodiscard]] TaskResult result() override;
    [[nodiscard]] bool takes_shots() const override { return true; }

  private:
    [[nodiscard]] std::string read_shots(const TaskSetting& setting) const;
    void take(EncodedChoices item);
    [[nodiscard]] std::array<double, kFigures> figures(const EncodedChoices& item,
                                                       std::span<const double> sums,
                                                       std::span<const double> means) const;

    ChoiceTaskOptions options_;
    ChoiceReader reader_;
    std::vector<EncodedChoices> items_;
    Charge charge_{Tier::kRam, Purpose::kIo, 0};
    TaskNeeds needs_;
    double fed_tokens_ = 0;
    std::int64_t shots_ = 0;
    std::string sha256_;
    std::array<std::vector<double>, kFigures> columns_;
    std::optional<ChoiceScorer> scorer_;
};

std::string ChoiceTask::read_shots(const TaskSetting& setting) const {
    ShotText shots({options_.kind, options_.fewshot, setting.shots});
    if (shots.wanted()) {
        reader_(options_.fewshot, [&](ChoiceItem item, const std::string&) {
            const auto answer = static_cast<std::size_t>(item.answer);
            return shots.add(item.context + options_.delimiter + item.choices[answer]);
        });
    }
    return shots.finish();
}

void ChoiceTask::open(const TaskSetting& setting) {
    shots_ = setting.shots;
    const std::string before = read_shots(setting);
    const std::int64_t longest = setting.spec->context_tokens;
    std::int64_t cut_items = 0;
    reader_(options_.file, [&](const ChoiceItem& item, const std::string& where) {
        bool cut = false;
        ChoiceItem shown = item;
        shown.context = setting.repeat.apply(before + item.context);
        EncodedChoices encoded =
            encode_choices(*setting.tokenizer, shown, options_.delimiter, longest, cut);
        for (const auto& tokens : encoded.tokens) {
            if (std::ssize(tokens) - 1 <= longest) continue;
            throw Error(Exit::kBadData, where,
                        "a choice of " + std::to_string(std::ssize(tokens) - encoded.start) +
                            " tokens exceeds the model's context of " + std::to_string(longest));
        }
        take(std::move(encoded));
        cut_items += cut ? 1 : 0;
        return setting.samples_limit == 0 || std::ssize(items_) < setting.samples_limit;
    });
    if (items_.empty()) throw Error(Exit::kBadData, escaped(options_.file, 1024), "holds no item");
    if (cut_items > 0) {
        log_warning(options_.kind + ": " + std::to_string(cut_items) +
                    " items are longer than the model's context of " + std::to_string(longest) +
                    " tokens and lose their beginning");
    }
    std::uint64_t bytes = items_.size() * kFigures * sizeof(double);
    for (const EncodedChoices& item : items_) bytes += item.held_bytes();
    charge_.resize(bytes);
    for (auto& column : columns_) column.reserve(items_.size());
}

void ChoiceTask::take(EncodedChoices item) {
    std::int64_t context = 0;
    for (const auto& tokens : item.tokens) {
        const std::int64_t fed = std::ssize(tokens) - 1;
        needs_.sequence_tokens = std::max(needs_.sequence_tokens, fed);
        fed_tokens_ += static_cast<double>(fed - std::min(item.start, item.common) + 1);
        context = std::min(item.start, item.common);
    }
    fed_tokens_ += static_cast<double>(context);
    needs_.logit_rows = std::max(needs_.logit_rows, ChoiceScorer::logit_rows(item));
    items_.push_back(std::move(item));
}

void ChoiceTask::add_to_plan(Plan& plan) const {
    plan.at(Tier::kRam, Purpose::kIo) += charge_.bytes() + line_reader_bytes();
}

Json ChoiceTask::evaluate(std::int64_t sample, const TaskRun& run) {
    if (!scorer_) scorer_.emplace(run.model);
    const EncodedChoices& item = items_[static_cast<std::size_t>(sample)];
    const ChoiceScores scores = scorer_->score(item);
    Json sums = Json::array(), means = Json::array();
    for (const double sum : scores.sums) sums.push(sum);
    for (const double mean : scores.means) means.push(mean);
    const auto all = figures(item, scores.sums, scores.means);
    Json out = Json::object();
    out.set("target", item.answer);
    out.set("logprobs", std::move(sums));
    out.set("logprobs_per_token", std::move(means));
    for (std::size_t f = 0; f < kAnswerNll; ++f)
        out.set(kMetrics[f].name, static_cast<std::int64_t>(all[f]));
    return out;
}

std::array<double, kFigures> ChoiceTask::figures(const EncodedChoices& item,
                                                 std::span<const double> sums,
                                                 std::span<const double> means) const {
    return {is_best(sums, item.answer), is_best(divided(sums, item.characters), item.answer),
            is_best(divided(sums, item.bytes), item.answer), is_best(means, item.answer),
            -sums[static_cast<std::size_t>(item.answer)]};
}

void ChoiceTask::add(const Json& outcome, std::string_view where) {
    const std::size_t done = columns_[0].size();
    if (done >= items_.size()) throw Error(Exit::kBadData, std::string(where), "one too many");
    const EncodedChoices& item = items_[done];
    const auto numbers = [&](const char* key) {
        std::vector<double> out;
        const Json* found = outcome.find(key);
        if (found != nullptr && found->is_array())
            for (const Json& value : found->as_array(where)) out.push_back(value.as_double(where));
        if (out.size() != item.tokens.size()) {
            throw Error(
                Exit::kBadData, std::string(where),
                "expected " + std::to_string(item.tokens.size()) + " numbers under '" + key + "'");
        }
        return out;
    };
    const auto sums = numbers("logprobs"), means = numbers("logprobs_per_token");
    const auto all = figures(item, sums, means);
    for (std::size_t f = 0; f < kFigures; ++f) columns_[f].push_back(all[f]);
}

TaskResult ChoiceTask::facts() const {
    TaskResult out;
    out.options = options_.options;
    out.file = basename_of(options_.file);
    out.sha256 = sha256_;
    out.samples = samples();
    out.shots = shots_;
    return out;
}

TaskResult ChoiceTask::result() {
    TaskResult out = facts();
    for (std::size_t f = 0; f < kFigures; ++f) {
        out.metrics.push_back({kMetrics[f], estimate_of(columns_[f])});
        out.columns.push_back({kMetrics[f].name, std::move(columns_[f])});
    }
    return out;
}

}  // namespace

std::unique_ptr<Task> make_choice_scorer(ChoiceTaskOptions options, ChoiceReader reader) {
    return std::make_unique<ChoiceTask>(std::move(options), std::move(reader));
}

}  // namespace thimble::eval
