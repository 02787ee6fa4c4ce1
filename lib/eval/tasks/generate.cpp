// SPDX-License-Identifier: Apache-2.0
// Exact match of generated answers, from JSONL, one sample a line:
//   {"prompt": "2 + 2 =", "answer": "4"}
//   {"messages": [{"role": "user", "content": "..."}], "answer": ["4", "four"]}
// The model continues the prompt greedily; its text goes through the filters and must equal one of
// the answers, spaces at both ends aside. Messages are written in the model's chat form.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "decode/session.h"
#include "eval/facts.h"
#include "eval/filters.h"
#include "eval/shots.h"
#include "eval/task.h"
#include "io/lines.h"
#include "io/sha256.h"

namespace thimble::eval {
namespace {

struct Sample {
    std::string prompt;
    std::vector<ChatMessage> messages;  // instead of a prompt
    std::vector<std::string> answers;
};
struct Encoded {
    std::vector<Token> prompt;
    std::vector<std::string> answers;
};

const Json* find_one(const Json& json, std::initializer_list<const char*> keys) {
    for (const char* key : keys)
        if (const Json* found = json.find(key)) return found;
    return nullptr;
}

Sample sample_of(const Json& json, const std::string& where) {
    Sample out;
    const auto missing = [&](const std::string& key) {
        return Error(Exit::kBadData, where, "key '" + key + "' is missing");
    };
    if (const Json* messages = json.find("messages")) {
        for (const Json& message : messages->as_array(where)) {
            const Json *role = message.find("role"), *content = message.find("content");
            if (role == nullptr || content == nullptr) throw missing("role' or 'content");
            out.messages.push_back({role->as_string(where), content->as_string(where)});
        }
        if (out.messages.empty()) throw Error(Exit::kBadData, where, "has no message");
    } else if (const Json* prompt = find_one(json, {"prompt", "question"})) {
        out.prompt = prompt->as_string(where);
    } else {
        throw missing("prompt");
    }
    const Json* answer = find_one(json, {"answer", "target"});
    if (answer == nullptr) throw missing("answer");
    if (answer->is_array()) {
        for (const Json& one : answer->as_array(where)) out.answers.push_back(one.as_string(where));
    } else {
        out.answers.push_back(answer->is_int() ? answer->dump() : answer->as_string(where));
    }
    if (out.answers.empty()) throw Error(Exit::kBadData, where, "has no answer");
    return out;
}

class Generate final : public Task {
  public:
    static constexpr const char* kName = "generate";
    static constexpr const char* kHelp =
        "exact match of greedy answers, from JSONL {prompt or messages, answer}";
    struct Options {
        std::string file, fewshot, chat_template;
        std::int64_t max_tokens = 256;
        std::vector<std::string> stop, filter;
        std::string delimiter = " ";
        void visit(OptionVisitor& v) {
            v.option({.name = "file", .help = "samples, JSONL", .value = "FILE", .is_input = true},
                     file);
            v.option({.name = "n-predict",
                      .help = "most tokens of an answer",
                      .least = 1,
                      .most = 1 << 20},
                     max_tokens);
            v.option({.name = "stop",
                      .help = "ends an answer; if none is given: an empty line, after prompts",
                      .value = "TEXT"},
                     stop);
            v.option(
                {.name = "filter",
                 .help = "strip, line, lower, number or regex=...; repeated: one after another",
                 .value = "NAME"},
                filter);
            v.option({.name = "chat-template",
                      .help = "form of messages; the model's own if not given",
                      .value = "NAME"},
                     chat_template);
            v.option({.name = "delimiter",
                      .help = "between prompt and answer of an example",
                      .value = "TEXT"},
                     delimiter);
            v.option({.name = "fewshot",
                      .help = "samples that --num-fewshot takes its examples from",
                      .value = "FILE",
                      .is_input = true},
                     fewshot);
        }
    };
    explicit Generate(Options options)
        : options_(std::move(options)), filters_(options_.filter, "--task: generate: filter") {}

    void open(const TaskSetting& setting) override;
    [[nodiscard]] std::vector<std::string> inputs() const override {
        return options_.fewshot.empty() ? std::vector{options_.file}
                                        : std::vector{options_.file, options_.fewshot};
    }
    [[nodiscard]] std::string default_name() const override { return kName; }
    [[nodiscard]] std::vector<MetricInfo> metrics() const override {
        return {{"exact_match", true}};
    }
    [[nodiscard]] TaskNeeds needs() const override { return {longest_, 1, false}; }
    void add_to_plan(Plan& plan) const override;
    [[nodiscard]] double predicted_tokens() const override {
        return static_cast<double>(longest_) * static_cast<double>(samples_.size());
    }
    void load() override {
        sha256_ = sha256_of_file(options_.file);
        if (!options_.fewshot.empty())
            sha256_ = sha256_of(sha256_ + sha256_of_file(options_.fewshot));
    }
    [[nodiscard]] std::int64_t samples() const override { return std::ssize(samples_); }
    [[nodiscard]] Json evaluate(std::int64_t sample, const TaskRun& run) override;
    void stop() noexcept override { session_.reset(); }
    void add(const Json& outcome, std::string_view where) override;
    [[nodiscard]] TaskResult facts() const override;
    [[nodiscard]] TaskResult result() override;
    [[nodiscard]] bool takes_shots() const override { return true; }

  private:
    [[nodiscard]] std::string read_shots() const;
    void take(const Sample& sample, const std::string& before, const std::string& where);
    [[nodiscard]] bool is_right(const std::string& text, const Encoded& sample) const;
    [[nodiscard]] GenerateOptions generation() const;

    Options options_;
    Filters filters_;
    const TaskSetting* setting_ = nullptr;
    std::vector<Encoded> samples_;
    Charge charge_{Tier::kRam, Purpose::kIo, 0};
    std::int64_t longest_ = 0;
    bool any_prompt_ = false;
    std::string sha256_;
    std::vector<double> right_;
    std::optional<Session> session_;
};

std::string Generate::read_shots() const {
    ShotText shots({kName, options_.fewshot, setting_->shots});
    if (shots.wanted()) {
        for_each_json_line(options_.fewshot, [&](const Json& json, const std::string& where) {
            const Sample sample = sample_of(json, where);
            if (!sample.messages.empty())
                throw Error(Exit::kBadData, where, "examples are prompts, not messages");
            return shots.add(sample.prompt + options_.delimiter + sample.answers.front());
        });
    }
    return shots.finish();
}

void Generate::open(const TaskSetting& setting) {
    setting_ = &setting;
    const std::string before = read_shots();
    for_each_json_line(options_.file, [&](const Json& json, const std::string& where) {
        take(sample_of(json, where), before, where);
        return setting.samples_limit == 0 || samples() < setting.samples_limit;
    });
    if (samples_.empty())
        throw Error(Exit::kBadData, escaped(options_.file, 1024), "holds no sample");
    std::uint64_t bytes = samples_.size() * (sizeof(Encoded) + sizeof(double));
    for (const Encoded& sample : samples_) {
        bytes += sample.prompt.capacity() * sizeof(Token);
        for (const std::string& answer : sample.answers)
            bytes += sizeof(std::string) + answer.size();
    }
    charge_.resize(bytes);
    right_.reserve(samples_.size());
}

void Generate::take(const Sample& sample, const std::string& before, const std::string& where) {
    Encoded out;
    if (sample.messages.empty()) {
        any_prompt_ = true;
        out.prompt =
            setting_->tokenizer->encode(setting_->repeat.apply(before + sample.prompt), {});
    } else if (before.empty()) {
        std::vector<ChatMessage> messages = sample.messages;
        messages.back().content = setting_->repeat.apply(messages.back().content);
        out.prompt = encode_chat(*setting_->tokenizer, options_.chat_template, messages, true);
    } else {
        throw Error(Exit::kBadData, where, "messages take no examples", "drop --num-fewshot");
    }
    const std::int64_t context = setting_->spec->context_tokens, count = std::ssize(out.prompt);
    if (count == 0) throw Error(Exit::kBadData, where, "the prompt has no tokens");
    if (count >= context) {
        throw Error(Exit::kBadData, where,
                    "a prompt of " + std::to_string(count) +
                        " tokens leaves no room in the model's context of " +
                        std::to_string(context));
    }
    // The last token chosen is not fed back.
    longest_ = std::max(longest_, std::min(context, count + options_.max_tokens - 1));
    for (const std::string& answer : sample.answers) out.answers.push_back(strip(answer));
    samples_.push_back(std::move(out));
}

GenerateOptions Generate::generation() const {
    GenerateOptions out;
    out.max_tokens = options_.max_tokens;
    out.stop = options_.stop;
    if (out.stop.empty() && any_prompt_) out.stop = {"\n\n"};
    out.sampling.temperature = 0;
    return out;
}

void Generate::add_to_plan(Plan& plan) const {
    plan.at(Tier::kRam, Purpose::kIo) += charge_.bytes() + line_reader_bytes();
    plan.at(Tier::kRam, Purpose::kLogits) +=
        Sampler::bytes(generation().sampling, setting_->spec->vocab);
}

bool Generate::is_right(const std::string& text, const Encoded& sample) const {
    const std::string answer = strip(filters_.apply(text));
    return std::find(sample.answers.begin(), sample.answers.end(), answer) != sample.answers.end();
}

Json Generate::evaluate(std::int64_t sample, const TaskRun& run) {
    if (!session_) session_.emplace(run.model, *setting_->tokenizer, generation(), 0);
    const Encoded& one = samples_[static_cast<std::size_t>(sample)];
    std::string text;
    GenerateHooks hooks;
    hooks.text = [&](std::string_view piece) { text += piece; };
    hooks.interrupted = run.interrupted;
    const GenerateStats stats = session_->generate(one.prompt, hooks);
    if (stats.reason == StopReason::kInterrupted) return {};
    Json out = Json::object();
    out.set("target", one.answers.front());
    out.set("text", text);
    out.set("filtered", strip(filters_.apply(text)));
    out.set("ended_by", name(stats.reason));
    out.set("exact_match", is_right(text, one) ? 1 : 0);
    return out;
}

void Generate::add(const Json& outcome, std::string_view where) {
    const Json* text = outcome.find("text");
    if (text == nullptr || right_.size() >= samples_.size())
        throw Error(Exit::kBadData, std::string(where), "is no generated answer");
    right_.push_back(is_right(text->as_string(where), samples_[right_.size()]) ? 1 : 0);
}

TaskResult Generate::facts() const {
    TaskResult out;
    out.options = options_without_files(options_);
    out.filter = filters_.name();
    out.generates = true;
    out.file = basename_of(options_.file);
    out.sha256 = sha256_;
    out.samples = samples();
    out.shots = setting_->shots;
    return out;
}

TaskResult Generate::result() {
    TaskResult out = facts();
    out.metrics.push_back({metrics().front(), estimate_of(right_)});
    out.columns.push_back({"exact_match", std::move(right_)});
    return out;
}

}  // namespace

std::unique_ptr<TaskType> make_generate_task();
std::unique_ptr<TaskType> make_generate_task() {
    return make_task_type<Generate>(
        [](const Generate::Options& options) { return std::make_unique<Generate>(options); });
}

}  // namespace thimble::eval
