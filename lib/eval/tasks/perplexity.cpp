// SPDX-License-Identifier: Apache-2.0
// Perplexity of a text, window by window, and with a reference model the divergence from it. A
// sample is a window; its outcome holds the scores of every row. Rows can be grouped by their
// position in the window, to see how predictions change with the length of the context.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"
#include "eval/facts.h"
#include "eval/scoring.h"
#include "eval/task.h"
#include "io/file.h"
#include "io/sha256.h"

namespace thimble::eval {
namespace {

constexpr std::uint64_t kMostTextBytes = std::uint64_t{1} << 32;
// A number of an outcome, as JSON value and as text.
constexpr std::uint64_t kNumberBytes = sizeof(Json) + 24;

class Perplexity final : public Task {
  public:
    static constexpr const char* kName = "perplexity";
    static constexpr const char* kHelp = "perplexity of a text: -f FILE is perplexity:file=FILE";
    struct Options {
        std::string file;
        std::string score = "half";
        std::int64_t buckets = 0;
        void visit(OptionVisitor& v) {
            v.option({.name = "file",
                      .help = "the text; - for stdin",
                      .value = "FILE",
                      .is_input = true},
                     file);
            v.option({.name = "score",
                      .help = "predictions that count: those of a window's second half, or all",
                      .choices = {"half", "all"}},
                     score);
            v.option({.name = "buckets",
                      .help = "also give perplexities of this many parts of the window",
                      .least = 0,
                      .most = 1024},
                     buckets);
        }
    };
    explicit Perplexity(Options options) : options_(std::move(options)) {}

    void open(const TaskSetting& setting) override;
    [[nodiscard]] std::vector<std::string> inputs() const override { return {options_.file}; }
    [[nodiscard]] std::string default_name() const override { return figure_name(file_name()); }
    [[nodiscard]] std::vector<MetricInfo> metrics() const override;
    [[nodiscard]] TaskNeeds needs() const override {
        return {context() - 1, piece_rows_, compares(),
                std::min(setting_->group_windows, most_windows_) * (context() - 1)};
    }
    [[nodiscard]] std::int64_t passes() const override {
        return scoring_passes(most_windows_, context(), scored(), setting_->runner.step_tokens,
                              steps());
    }
    void add_to_plan(Plan& plan) const override;
    [[nodiscard]] double predicted_tokens() const override {
        return static_cast<double>(most_windows_ * context());
    }
    void load() override;
    [[nodiscard]] std::int64_t samples() const override { return windows_->count(); }
    [[nodiscard]] Json evaluate(std::int64_t sample, const TaskRun& run) override;
    void stop() noexcept override { scorer_.reset(); }
    void add(const Json& outcome, std::string_view where) override;
    [[nodiscard]] TaskResult facts() const override;
    [[nodiscard]] TaskResult result() override;
    [[nodiscard]] bool is_text() const override { return true; }

  private:
    [[nodiscard]] std::string file_name() const {
        return options_.file == "-" ? "stdin" : basename_of(options_.file);
    }
    [[nodiscard]] std::int64_t context() const { return setting_->runner.kv.context_tokens; }
    [[nodiscard]] bool compares() const { return setting_->reference != nullptr; }
    [[nodiscard]] Scored scored() const {
        return options_.score == "all" ? Scored::kAll : Scored::kSecondHalf;
    }
    [[nodiscard]] std::int64_t rows() const { return scored_rows(context(), scored()); }
    [[nodiscard]] std::int64_t bucket_of(std::int64_t row) const {
        return row * options_.buckets / rows();
    }
    [[nodiscard]] std::string bucket_name(std::int64_t bucket) const;
    [[nodiscard]] std::vector<const char*> keys() const {
        if (compares()) return {"nll", "reference_nll", "kld", "same_top"};
        return {"nll"};
    }
    [[nodiscard]] ScoringSteps steps() const { return {piece_rows_, setting_->group_windows}; }
    void check_reference_tokenizer(std::string_view text) const;
    void count_bytes();

    Options options_;
    const TaskSetting* setting_ = nullptr;
    std::optional<std::string> stdin_text_;
    std::uint64_t text_bytes_ = 0;
    std::int64_t most_windows_ = 0, piece_rows_ = 0;
    TextFacts facts_;
    std::optional<Windows> windows_;
    std::optional<WindowScorer> scorer_;
    std::optional<ScoreSums> sums_;
    std::vector<Moments> buckets_;
    std::vector<Column> columns_;  // means of each window
    Charge columns_charge_;
    double scored_bytes_ = 0;  // of text, that the scored tokens stand for
};

void Perplexity::open(const TaskSetting& setting) {
    setting_ = &setting;
    if (options_.file == "-") stdin_text_ = read_stdin(kMostTextBytes);
    text_bytes_ = stdin_text_ ? stdin_text_->size() : File(options_.file).bytes();
    // Every token stands for at least one byte, but for BOS and a leading space.
    most_windows_ = static_cast<std::int64_t>(text_bytes_ + 2) / context();
    if (setting.windows_limit > 0) most_windows_ = std::min(most_windows_, setting.windows_limit);
    piece_rows_ = rows_per_piece(*setting.spec, setting.runner, rows(), compares());
    if (options_.buckets > rows()) {
        throw Error(Exit::kUsage, "--task",
                    "perplexity: buckets=" + std::to_string(options_.buckets) +
                        " are more than the " + std::to_string(rows()) + " rows of a window",
                    "use fewer, or a larger --ctx-size");
    }
}

std::string Perplexity::bucket_name(std::int64_t bucket) const {
    // The first row whose bucket this is.
    const std::int64_t row = (bucket * rows() + options_.buckets - 1) / options_.buckets;
    return "ppl_from_" + std::to_string(first_scored_row(context(), scored()) + row + 1);
}

std::vector<MetricInfo> Perplexity::metrics() const {
    std::vector<MetricInfo> out = {{"ppl"}, {"nll"}, {"bits_per_byte"}};
    if (compares()) {
        for (const char* name : {"reference_ppl", "ppl_ratio", "ppl_change", "kld_mean",
                                 "kld_median", "kld_p99", "kld_p999", "kld_max"})
            out.push_back({name});
        out.push_back({"same_top", true});
        out.push_back({"mean_delta_p", true});
        out.push_back({"rms_delta_p"});
    }
    for (std::int64_t b = 0; b < options_.buckets; ++b) out.push_back({bucket_name(b)});
    return out;
}

void Perplexity::add_to_plan(Plan& plan) const {
    const std::int64_t scored = most_windows_ * rows();
    WindowScorer::add_to_plan(plan, *setting_->spec, setting_->runner.device, rows(), piece_rows_,
                              compares());
    plan.at(Tier::kRam, Purpose::kLogits) +=
        ScoreSums::charged_bytes(scored, compares()) +
        keys().size() * sizeof(double) * static_cast<std::uint64_t>(most_windows_) +
        keys().size() * kNumberBytes * static_cast<std::uint64_t>(rows());
    plan.at(Tier::kRam, Purpose::kIo) += text_bytes_ + (text_bytes_ + 2) * sizeof(Token);
}

void Perplexity::check_reference_tokenizer(std::string_view text) const {
    constexpr std::size_t kSampleBytes = 1 << 16;
    std::size_t cut = std::min(text.size(), kSampleBytes);
    while (cut < text.size() && cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80)
        --cut;
    const std::string_view sample = text.substr(0, cut);
    const ModelFile& file = *setting_->reference;
    const std::unique_ptr<Tokenizer> other = Tokenizer::open(file);
    if (setting_->tokenizer->encode(sample, {}) == other->encode(sample, {})) return;
    throw Error(Exit::kUsage, escaped(file.path(), 1024),
                "splits the text into other tokens than the model",
                "a reference must share the model's vocabulary");
}

void Perplexity::load() {
    const std::string text =
        stdin_text_ ? *std::move(stdin_text_) : read_text_file(options_.file, kMostTextBytes);
    const Charge charge(Tier::kRam, Purpose::kIo, text.size());
    if (compares()) check_reference_tokenizer(text);
    facts_ = {stdin_text_ ? "-" : basename_of(options_.file), sha256_of(text), text.size(), 0};
    std::optional<Token> bos;
    std::vector<Token> tokens = window_tokens(*setting_->tokenizer, text, bos);
    facts_.tokens = static_cast<std::int64_t>(tokens.size());
    windows_.emplace(std::move(tokens), context(), setting_->windows_limit, bos,
                     escaped(stdin_text_ ? "stdin" : options_.file, 1024), scored());
    count_bytes();
    sums_.emplace(windows_->count() * rows(), compares());
    buckets_.resize(static_cast<std::size_t>(options_.buckets));
    for (const char* key : keys()) {
        columns_.push_back({key, {}});
        columns_.back().values.reserve(static_cast<std::size_t>(windows_->count()));
    }
    columns_charge_ =
        Charge(Tier::kRam, Purpose::kLogits,
               columns_.size() * sizeof(double) * static_cast<std::uint64_t>(windows_->count()));
}

void Perplexity::count_bytes() {
    for (std::int64_t w = 0; w < windows_->count(); ++w) {
        for (std::int64_t r = windows_->first_row(); r < context() - 1; ++r)
            scored_bytes_ +=
                static_cast<double>(setting_->tokenizer->piece(windows_->target(w, r)).size());
    }
}

Json Perplexity::evaluate(std::int64_t sample, const TaskRun& run) {
    if (!scorer_)
        scorer_.emplace(run.model, compares() ? run.reference : nullptr, *windows_, steps());
    const auto scores = scorer_->score(sample, [&](std::int64_t done, std::int64_t total) {
        if (run.progress) run.progress("layers", done, total);
        return !run.interrupted || !run.interrupted();
    });
    if (!scores) return {};
    const Charge charge(Tier::kRam, Purpose::kLogits,
                        keys().size() * kNumberBytes * scores->size());
    Json nll = Json::array(), reference = Json::array(), kld = Json::array(), same = Json::array();
    for (const RowScore& score : *scores) {
        nll.push(score.nll);
        if (!compares()) continue;
        reference.push(score.reference_nll);
        kld.push(score.kld);
        same.push(score.same_top ? 1 : 0);
    }
    Json out = Json::object();
    out.set("nll", std::move(nll));
    if (compares()) {
        out.set("reference_nll", std::move(reference));
        out.set("kld", std::move(kld));
        out.set("same_top", std::move(same));
    }
    return out;
}

void Perplexity::add(const Json& outcome, std::string_view where) {
    std::vector<const JsonArray*> values;
    for (const char* key : keys()) {
        const Json* found = outcome.find(key);
        const bool fits =
            found != nullptr && found->is_array() && std::ssize(found->as_array(where)) == rows();
        if (!fits) {
            throw Error(Exit::kBadData, std::string(where),
                        "expected " + std::to_string(rows()) + " numbers under '" + key + "'");
        }
        values.push_back(&found->as_array(where));
        for (const Json& value : *values.back()) (void)value.as_double(where);
    }
    std::vector<Moments> means(values.size());
    for (std::size_t r = 0; r < values[0]->size(); ++r) {
        const auto number = [&](std::size_t k) {
            const double value = (*values[k])[r].as_double(where);
            means[k].add(value);
            return value;
        };
        RowScore score;
        score.nll = number(0);
        if (compares()) {
            score.reference_nll = number(1);
            score.kld = number(2);
            score.same_top = number(3) != 0;
        }
        sums_->add(score);
        if (options_.buckets > 0)
            buckets_[static_cast<std::size_t>(bucket_of(static_cast<std::int64_t>(r)))].add(
                score.nll);
    }
    for (std::size_t k = 0; k < means.size(); ++k) columns_[k].values.push_back(means[k].mean());
}

TaskResult Perplexity::facts() const {
    TaskResult out;
    out.options = options_without_files(options_);
    out.text = facts_;
    out.file = facts_.file;
    out.sha256 = facts_.sha256;
    out.samples = windows_->count();
    return out;
}

TaskResult Perplexity::result() {
    TaskResult out = facts();
    out.columns = std::move(columns_);
    const PerplexityFigures p = sums_->perplexity();
    out.perplexity = p;
    const double to_bits =
        static_cast<double>(p.tokens) / std::numbers::ln2 / std::max(scored_bytes_, 1.0);
    std::vector<Estimate> values = {
        p.perplexity, p.nll, {p.nll.value * to_bits, p.nll.standard_error * to_bits}};
    if (compares()) {
        const DivergenceFigures d = sums_->divergence();
        out.divergence = d;
        values.insert(values.end(), {d.reference_perplexity,
                                     d.perplexity_ratio,
                                     d.perplexity_change,
                                     d.kld,
                                     {d.kld_median, 0},
                                     {d.kld_p99, 0},
                                     {d.kld_p999, 0},
                                     {d.kld_max, 0},
                                     d.same_top,
                                     d.mean_delta_p,
                                     d.rms_delta_p});
    }
    for (const Moments& bucket : buckets_) {
        const double perplexity = std::exp(bucket.mean());
        values.push_back({perplexity, perplexity * bucket.estimate().standard_error});
    }
    const std::vector<MetricInfo> infos = metrics();
    for (std::size_t i = 0; i < infos.size(); ++i) out.metrics.push_back({infos[i], values[i]});
    return out;
}

}  // namespace

std::unique_ptr<TaskType> make_perplexity_task();
std::unique_ptr<TaskType> make_perplexity_task() {
    return make_task_type<Perplexity>(
        [](const Perplexity::Options& options) { return std::make_unique<Perplexity>(options); });
}

}  // namespace thimble::eval
