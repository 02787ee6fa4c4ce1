// SPDX-License-Identifier: Apache-2.0
#include "eval/context_task.h"

#include <algorithm>

#include "core/error.h"
#include "decode/session.h"
#include "eval/context_cache.h"
#include "eval/context_figures.h"
#include "eval/facts.h"
#include "io/lines.h"
#include "io/sha256.h"
#include "kv/chain.h"

namespace thimble::eval {
namespace {

class ContextTask final : public Task {
  public:
    ContextTask(ContextTaskOptions options, ContextSource source)
        : options_(std::move(options)), source_(std::move(source)) {}

    void open(const TaskSetting& setting) override;
    [[nodiscard]] std::vector<std::string> inputs() const override {
        if (options_.file.empty()) return {};
        return {options_.file};
    }
    [[nodiscard]] std::string default_name() const override { return options_.kind; }
    [[nodiscard]] std::vector<MetricInfo> metrics() const override { return figures_.metrics(); }
    [[nodiscard]] TaskNeeds needs() const override { return {longest_, 1}; }
    void add_to_plan(Plan& plan) const override;
    [[nodiscard]] double predicted_tokens() const override { return fed_tokens_; }
    void load() override;
    [[nodiscard]] TaskResult facts() const override;
    [[nodiscard]] std::int64_t samples() const override { return std::ssize(items_); }
    [[nodiscard]] Json evaluate(std::int64_t sample, const TaskRun& run) override;
    void stop() noexcept override { cache_.reset(), generator_.reset(); }
    void add(const Json& outcome, std::string_view where) override;
    [[nodiscard]] TaskResult result() override;

  private:
    struct Turn {
        EncodedTurn tokens;
        Gold gold;
        Measure measure;
    };
    struct Item {
        std::vector<Token> text;
        std::vector<Turn> turns;
    };
    [[nodiscard]] bool multi_turn() const { return options_.common.mode == "multi-turn"; }
    [[nodiscard]] bool forks() const { return setting_->runner.device != Device::kCuda; }
    // The cache's tokens, and those of the sequence that answers.
    [[nodiscard]] std::uint64_t copies_bytes() const {
        return 2 * static_cast<std::uint64_t>(longest_) * sizeof(Token);
    }
    [[nodiscard]] std::uint64_t branch_bytes() const;
    void take(const ContextItem& item, const std::string& where);
    void check_length(const Item& item, const std::string& where);
    [[nodiscard]] bool answer(const Turn& turn, const TaskRun& run, std::string& text,
                              StopReason& reason);

    ContextTaskOptions options_;
    ContextSource source_;
    const TaskSetting* setting_ = nullptr;
    std::vector<Item> items_;
    Sha256 hash_;
    std::string sha256_;
    ContextFigures figures_;
    Charge charge_{Tier::kRam, Purpose::kIo, 0};
    std::int64_t longest_ = 0, longest_branch_ = 0;  // tokens
    double fed_tokens_ = 0;
    std::uint64_t scratch_bytes_ = 0;  // of scoring
    std::optional<ContextCache> cache_;
    std::optional<Generator> generator_;
};

void ContextTask::open(const TaskSetting& setting) {
    setting_ = &setting;
    const auto count = [&](const std::string& text) {
        return context_text_tokens(*setting.tokenizer, options_.common.chat_template, text);
    };
    source_(count, [&](const ContextItem& item, const std::string& where) {
        take(item, where);
        return setting.samples_limit == 0 || samples() < setting.samples_limit;
    });
    if (items_.empty())
        throw Error(Exit::kBadData, escaped(options_.file, 1024), "holds no sample");
    figures_.settle();
    std::uint64_t bytes = 0;
    for (const Item& item : items_) {
        bytes += sizeof(Item) + item.text.capacity() * sizeof(Token);
        for (const Turn& turn : item.turns) {
            bytes += sizeof(Turn) + turn.tokens.question.capacity() * sizeof(Token);
            for (const auto* list : {&turn.gold.answers, &turn.gold.candidates})
                for (const std::string& text : *list) bytes += sizeof(std::string) + text.size();
        }
    }
    charge_.resize(bytes + figures_.held_bytes());
    sha256_ = hash_.finish();
}

void ContextTask::take(const ContextItem& item, const std::string& where) {
    if (item.turns.empty()) throw Error(Exit::kBadData, where, "has no question");
    // The questions come after the text's cache is made, so the text alone is repeated.
    ContextItem shown = item;
    shown.text = setting_->repeat.apply(item.text);
    EncodedContext encoded =
        encode_context(*setting_->tokenizer, options_.common.chat_template, shown, multi_turn());
    hash_.update(item.text);
    Item out;
    out.text = std::move(encoded.text);
    for (std::size_t i = 0; i < item.turns.size(); ++i) {
        const ContextTurn& turn = item.turns[i];
        scratch_bytes_ = std::max(scratch_bytes_, answer_scratch_bytes(turn.measure));
        hash_.update("\x1f" + turn.question);
        for (const std::string& answer : turn.gold.answers) hash_.update("\x1e" + answer);
        out.turns.push_back({std::move(encoded.turns[i]), turn.gold, turn.measure});
    }
    hash_.update("\x1d");
    check_length(out, where);
    figures_.expect(item);
    items_.push_back(std::move(out));
}

void ContextTask::check_length(const Item& item, const std::string& where) {
    std::int64_t held = std::ssize(item.text);
    fed_tokens_ += static_cast<double>(held);
    KvOptions kv = setting_->runner.kv;
    kv.context_tokens = setting_->spec->context_tokens;
    const std::int64_t most = KvEngine::capacity_tokens(setting_->spec->attention, kv);
    for (const Turn& turn : item.turns) {
        const std::int64_t question = std::ssize(turn.tokens.question);
        // The last token chosen is not fed back.
        const std::int64_t end = held + question + turn.tokens.most_tokens - 1;
        if (end > most) {
            throw Error(Exit::kBadData, where,
                        "a text of " + std::to_string(item.text.size()) +
                            " tokens with its questions and an answer takes " +
                            std::to_string(end) + ", and the model's context is " +
                            std::to_string(most));
        }
        longest_ = std::max(longest_, end);
        longest_branch_ = std::max(longest_branch_, end - held);
        fed_tokens_ += static_cast<double>(end - held + (multi_turn() ? question : 0));
        if (multi_turn()) held += question;
    }
}

void ContextTask::add_to_plan(Plan& plan) const {
    plan.at(Tier::kRam, Purpose::kIo) +=
        charge_.bytes() + copies_bytes() + (options_.file.empty() ? 0 : line_reader_bytes());
    plan.at(Tier::kRam, Purpose::kOther) += scratch_bytes_;
    if (forks()) plan.at(Tier::kRam, Purpose::kKv) += branch_bytes();
    SamplerOptions greedy;
    greedy.temperature = 0;
    plan.at(Tier::kRam, Purpose::kLogits) += Sampler::bytes(greedy, setting_->spec->vocab);
}

// What a branch holds besides the tiles that it shares: its own tokens' and the two that they begin
// in; a layer whose keys are dropped or turn over in a window perhaps shares nothing.
std::uint64_t ContextTask::branch_bytes() const {
    KvOptions kv = setting_->runner.kv;
    kv.context_tokens = longest_;
    const KvChain chain = KvChain::parse(kv.policy, "--kv-policy");
    const ModelInfo model = setting_->spec->info();
    std::vector<AttentionSpec> sharing, turning;
    for (std::size_t i = 0; i < model.layers.size(); ++i) {
        const bool governed = KvChain::governs(model.layers[i]);
        const bool turns =
            !governed || chain.edits() || chain.band(model, static_cast<int>(i)).bounded();
        (turns ? turning : sharing).push_back(setting_->spec->attention[i]);
    }
    const std::int64_t own = std::min(longest_branch_ + 2 * ops::kAttentionTile, longest_);
    const auto bytes = [&](const std::vector<AttentionSpec>& layers, std::int64_t tokens) {
        return layers.empty()
                   ? 0
                   : KvEngine::predict_bytes(layers, kv, tokens, setting_->runner.device);
    };
    return bytes(sharing, own) + bytes(turning, longest_);
}

void ContextTask::load() {
    if (!options_.file.empty()) sha256_ = sha256_of_file(options_.file);
}

// Generates the answer on a branch of the cache, which in multi-turn mode keeps the question.
bool ContextTask::answer(const Turn& turn, const TaskRun& run, std::string& text,
                         StopReason& reason) {
    const auto go_on = [&] { return !run.interrupted || !run.interrupted(); };
    if (!cache_->branch(go_on)) return false;
    GenerateHooks hooks;
    hooks.text = [&](std::string_view piece) { text += piece; };
    hooks.interrupted = run.interrupted;
    std::vector<Token> held = cache_->tokens();
    const EncodedTurn& asked = turn.tokens;
    reason =
        generator_->generate(cache_->sequence(), held, asked.question, asked.most_tokens, hooks)
            .reason;
    if (reason == StopReason::kInterrupted) return false;
    return !multi_turn() || cache_->extend(asked.question, go_on);
}

Json ContextTask::evaluate(std::int64_t sample, const TaskRun& run) {
    if (!cache_) {
        cache_.emplace(run.model, setting_->runner.step_tokens, forks());
        GenerateOptions generation;
        generation.sampling.temperature = 0;
        if (is_plain_context(*setting_->tokenizer, options_.common.chat_template))
            generation.stop = {"\n\n"};
        generator_.emplace(run.model, *setting_->tokenizer, generation, 0);
    }
    const Item& item = items_[static_cast<std::size_t>(sample)];
    const Charge charge(Tier::kRam, Purpose::kIo, copies_bytes());
    const auto go_on = [&] { return !run.interrupted || !run.interrupted(); };
    if (!cache_->begin(item.text, go_on)) return {};
    Json turns = Json::array();
    for (const Turn& turn : item.turns) {
        std::string text;
        StopReason reason{};
        if (!answer(turn, run, text, reason)) return {};
        Json one = Json::object();
        one.set("target", turn.gold.answers.front());
        one.set("text", text);
        one.set("ended_by", name(reason));
        one.set("score", score_answer(turn.measure, text, turn.gold));
        turns.push(std::move(one));
        if (run.progress)
            run.progress("questions", std::ssize(turns.as_array("")), std::ssize(item.turns));
    }
    Json out = Json::object();
    out.set("turns", std::move(turns));
    return out;
}

void ContextTask::add(const Json& outcome, std::string_view where) {
    const std::size_t done = figures_.samples();
    const Json* turns = outcome.find("turns");
    const bool fits = done < items_.size() && turns != nullptr && turns->is_array() &&
                      turns->as_array(where).size() == items_[done].turns.size();
    if (!fits) throw Error(Exit::kBadData, std::string(where), "is no set of answers");
    const Item& item = items_[done];
    std::vector<double> scores;
    for (std::size_t t = 0; t < item.turns.size(); ++t) {
        const Json* text = turns->as_array(where)[t].find("text");
        if (text == nullptr) throw Error(Exit::kBadData, std::string(where), "has no text");
        scores.push_back(
            score_answer(item.turns[t].measure, text->as_string(where), item.turns[t].gold));
    }
    figures_.add(scores);
}

TaskResult ContextTask::facts() const {
    TaskResult out;
    out.options = options_.options;
    out.file = options_.file.empty() ? "" : basename_of(options_.file);
    out.sha256 = sha256_;
    out.samples = samples();
    out.generates = true;
    return out;
}

TaskResult ContextTask::result() {
    TaskResult out = facts();
    figures_.results(out);
    return out;
}

}  // namespace

void ContextOptions::visit(OptionVisitor& v) {
    v.option({.name = "mode",
              .help = "a text's questions each alone, or in turn with the right answers between",
              .choices = {"multi-request", "multi-turn"}},
             mode);
    v.option({.name = "chat-template",
              .help = "form of the turns; none: plain text; the model's own if not given",
              .value = "NAME"},
             chat_template);
}

std::unique_ptr<Task> make_context_task(ContextTaskOptions options, ContextSource source) {
    return std::make_unique<ContextTask>(std::move(options), std::move(source));
}

}  // namespace thimble::eval
