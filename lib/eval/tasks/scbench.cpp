// SPDX-License-Identifier: Apache-2.0
// The files of SCBench, "SCBench: A KV Cache-Centric Analysis of Long-Context Methods" (2024),
// JSONL with one text and its questions a line:
//   {"id": 0, "context": "...", "multi_turns": [{"input": "...", "answer": "..."}, ...]}
// An answer is a string, a number or a list; questions with a choice have "options" of four; those
// of mixed kinds have a "task". Functions to be told apart are those of all lines of one "repo".
// differs: the sentences around texts and questions are ours; functions are compared by their words
// in common, not by BLEU; texts that exceed the model's context are refused, not cut.
#include <algorithm>
#include <array>
#include <map>

#include "core/error.h"
#include "core/strings.h"
#include "eval/context_task.h"
#include "eval/filters.h"
#include "io/lines.h"

namespace thimble::eval {
namespace {

// How a kind of question is put and scored.
struct Kind {
    std::string_view name;
    Measure measure;
    std::int64_t most_tokens;
    std::string_view before_text = {}, before_question = {}, after_question = {};
};
constexpr std::array<Kind, 11> kKinds = {{
    {"kv", Measure::kContains, 150, "The JSON object below has keys and values.\n\n"},
    {"prefix_suffix", Measure::kContains, 150},
    {"vt", Measure::kShareFound, 30},
    {"qa_eng", Measure::kContainsUpper, 40, "Read the book, then answer briefly.\n\n",
     "Question: "},
    {"choice_eng", Measure::kChoice, 40, "Read the book, then choose the right answer.\n\n",
     "Question: ", "\nAnswer with its letter."},
    {"qa_chn", Measure::kCharacterF1, 40, "请阅读这本书，然后简短作答。\n\n", "问题："},
    {"many_shot", Measure::kContainsUpper, 10},
    {"mf", Measure::kFirstNumber, 5, {}, {}, "\nAnswer with the number only."},
    {"summary", Measure::kRougeLsum, 200},
    {"repoqa", Measure::kBestMatch, 1024,
     "Below is the code of a repository. Functions of it will be described: repeat each exactly, "
     "in "
     "a code block.\n\n"},
    {"passkey", Measure::kFirstDigits, 15, "Important facts are hidden in the text below.\n\n"},
}};
const Kind& kind_named(std::string_view name) {
    return *std::find_if(kKinds.begin(), kKinds.end(),
                         [&](const Kind& kind) { return kind.name == name; });
}

// Kinds of several: the caps of their questions are other ones.
struct Mixed {
    std::string_view name;
    std::array<std::pair<std::string_view, std::int64_t>, 2> parts;
};
constexpr std::array<Mixed, 2> kMixed = {{
    {"summary_with_needles", {{{"summary", 800}, {"passkey", 15}}}},
    {"repoqa_and_kv", {{{"repoqa", 1024}, {"kv", 80}}}},
}};

std::vector<std::string> kind_names() {
    std::vector<std::string> out;
    for (const Kind& kind : kKinds) out.emplace_back(kind.name);
    for (const Mixed& mixed : kMixed) out.emplace_back(mixed.name);
    return out;
}

const Json& required(const Json& json, const char* key, const std::string& where) {
    if (const Json* found = json.find(key)) return *found;
    throw Error(Exit::kBadData, where, std::string("key '") + key + "' is missing");
}

std::string text_of(const Json& answer, const std::string& where) {
    return answer.is_number() ? answer.dump() : answer.as_string(where);
}

std::vector<std::string> answers_of(const Json& turn, const std::string& where) {
    const Json& answer = required(turn, "answer", where);
    std::vector<std::string> out;
    if (answer.is_array()) {
        for (const Json& one : answer.as_array(where)) out.push_back(text_of(one, where));
    } else {
        out.push_back(text_of(answer, where));
    }
    if (out.empty() || out.front().empty()) throw Error(Exit::kBadData, where, "has no answer");
    return out;
}

// The four options as lines; the answer becomes its letter.
std::string put_options(const Json& turn, Gold& gold, const std::string& where) {
    const JsonArray& options = required(turn, "options", where).as_array(where);
    if (options.size() != 4) throw Error(Exit::kBadData, where, "expected four options");
    std::string lines, letter;
    for (std::size_t i = 0; i < options.size(); ++i) {
        const std::string& text = options[i].as_string(where);
        const std::string name(1, static_cast<char>('A' + i));
        lines += "\n" + name + ". " + text;
        for (const std::string& answer : gold.answers)
            if (letter.empty() && (answer == text || answer == name)) letter = name;
    }
    if (letter.empty()) throw Error(Exit::kBadData, where, "the answer is none of the options");
    gold.answers = {letter};
    return lines;
}

class Reader {
  public:
    Reader(std::string file, std::string_view kind) : file_(std::move(file)) {
        for (const Mixed& mixed : kMixed)
            if (mixed.name == kind) mixed_ = &mixed;
        if (mixed_ == nullptr) kind_ = &kind_named(kind);
    }

    void read(const TakeContextItem& take) {
        const bool matches = mixed_ != nullptr ? mixed_->parts[0].first == "repoqa"
                                               : kind_->measure == Measure::kBestMatch;
        if (matches) collect_candidates();
        for_each_json_line(file_, [&](const Json& json, const std::string& where) {
            return take(item_of(json, where), where);
        });
    }

  private:
    struct Part {
        const Kind& kind;
        std::int64_t most_tokens;
        std::string name;  // of a mixed kind
    };
    Part part_of(const Json& turn, const std::string& where) const {
        if (mixed_ == nullptr) return {*kind_, kind_->most_tokens, {}};
        std::string name = required(turn, "task", where).as_string(where);
        if (name.starts_with("scbench_")) name.erase(0, std::string("scbench_").size());
        for (const auto& [part, cap] : mixed_->parts)
            if (part == name) return {kind_named(part), cap, name};
        throw Error(Exit::kBadData, where,
                    "task '" + escaped(name) + "' is none of " + std::string(mixed_->name));
    }

    static std::string repository(const Json& json, const std::string& where) {
        const Json* repo = json.find("repo");
        return repo != nullptr ? repo->as_string(where) : "";
    }

    void collect_candidates() {
        for_each_json_line(file_, [&](const Json& json, const std::string& where) {
            for (const Json& turn : required(json, "multi_turns", where).as_array(where)) {
                if (part_of(turn, where).kind.measure != Measure::kBestMatch) continue;
                std::vector<std::string>& known = candidates_[repository(json, where)];
                const std::string answer = answers_of(turn, where).front();
                if (std::find(known.begin(), known.end(), answer) == known.end())
                    known.push_back(answer);
            }
            return true;
        });
    }

    ContextTurn turn_of(const Json& json, const std::string& repo, const std::string& where) const {
        const Part part = part_of(json, where);
        ContextTurn turn{.gold = {answers_of(json, where)},
                         .measure = part.kind.measure,
                         .most_tokens = part.most_tokens,
                         .part = part.name};
        turn.question = std::string(part.kind.before_question) +
                        strip(required(json, "input", where).as_string(where));
        if (part.kind.measure == Measure::kChoice)
            turn.question += put_options(json, turn.gold, where);
        turn.question += part.kind.after_question;
        if (part.kind.measure == Measure::kShareFound) {
            for (const std::string& answer : turn.gold.answers)
                turn.shown += (turn.shown.empty() ? "" : ", ") + answer;
        }
        if (part.kind.measure == Measure::kBestMatch) turn.gold.candidates = candidates_.at(repo);
        return turn;
    }

    ContextItem item_of(const Json& json, const std::string& where) const {
        const Json* context = json.find("context");
        if (context == nullptr) context = &required(json, "input", where);
        ContextItem item;
        const std::string before(mixed_ == nullptr ? kind_->before_text : std::string_view{});
        item.text = before + strip(context->as_string(where));
        if (item.text.empty()) throw Error(Exit::kBadData, where, "has no text");
        const std::string repo = repository(json, where);
        for (const Json& turn : required(json, "multi_turns", where).as_array(where))
            item.turns.push_back(turn_of(turn, repo, where));
        return item;
    }

    std::string file_;
    const Kind* kind_ = nullptr;
    const Mixed* mixed_ = nullptr;
    std::map<std::string, std::vector<std::string>> candidates_;  // by repository
};

struct ScBench {
    static constexpr const char* kName = "scbench";
    static constexpr const char* kHelp =
        "SCBench's JSONL {context, multi_turns}, with its caps and scores";
    struct Options {
        std::string file;
        std::string kind = "kv";
        ContextOptions context;
        void visit(OptionVisitor& v) {
            v.option({.name = "file",
                      .help = "texts and questions, JSONL",
                      .value = "FILE",
                      .is_input = true},
                     file);
            v.option({.name = "kind",
                      .help = "of its questions",
                      .value = "KIND",
                      .choices = kind_names()},
                     kind);
            context.visit(v);
        }
    };
};

}  // namespace

std::unique_ptr<TaskType> make_scbench_task();
std::unique_ptr<TaskType> make_scbench_task() {
    return make_task_type<ScBench>([](const ScBench::Options& options) {
        return make_context_task({.kind = "scbench_" + options.kind,
                                  .common = options.context,
                                  .file = options.file,
                                  .options = options_without_files(options)},
                                 [options](const CountTokens&, const TakeContextItem& take) {
                                     Reader(options.file, options.kind).read(take);
                                 });
    });
}

}  // namespace thimble::eval
