// SPDX-License-Identifier: Apache-2.0
// Multiple choice from JSONL, one item a line:
//   {"context": "The sky is", "choices": ["blue", "square"], "answer": 0}
// The context may be called question, query or ctx, the choices endings, the answer gold or label;
// an answer is a position from 0, a letter from A, or one of the choices itself. Choices may also
// be
// {"text": [...], "label": [...]} with the answer as one of the labels (answerKey), as ARC has
// them.
#include <algorithm>
#include <initializer_list>

#include "core/error.h"
#include "eval/choice.h"
#include "io/lines.h"

namespace thimble::eval {
namespace {

const Json& first_of(const Json& item, std::initializer_list<const char*> keys,
                     const std::string& where) {
    for (const char* key : keys)
        if (const Json* found = item.find(key)) return *found;
    throw Error(Exit::kBadData, where, std::string("key '") + *keys.begin() + "' is missing");
}

std::vector<std::string> strings(const Json& list, const std::string& where) {
    std::vector<std::string> out;
    for (const Json& text : list.as_array(where)) out.push_back(text.as_string(where));
    return out;
}

std::int64_t answer_index(const Json& answer, const ChoiceItem& item,
                          const std::vector<std::string>& labels, const std::string& where) {
    const std::int64_t count = std::ssize(item.choices);
    std::int64_t index = -1;
    if (answer.is_int()) {
        index = answer.as_int(where);
    } else {
        const std::string& text = answer.as_string(where);
        for (const auto& list : {labels, item.choices}) {
            const auto at = std::find(list.begin(), list.end(), text);
            if (index < 0 && at != list.end()) index = at - list.begin();
        }
        if (index < 0 && text.size() == 1 && text[0] >= '0' && text[0] <= '9')
            index = text[0] - '0';
        if (index < 0 && text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z')
            index = text[0] - 'A';
    }
    if (index >= 0 && index < count) return index;
    throw Error(Exit::kBadData, where,
                "answer " + escaped(answer.dump()) + " is none of the " + std::to_string(count) +
                    " choices");
}

ChoiceItem item_of(const Json& json, const std::string& where) {
    ChoiceItem item;
    item.context = first_of(json, {"context", "question", "query", "ctx"}, where).as_string(where);
    const Json& choices = first_of(json, {"choices", "endings"}, where);
    std::vector<std::string> labels;
    if (choices.is_object()) {
        item.choices = strings(first_of(choices, {"text"}, where), where);
        labels = strings(first_of(choices, {"label"}, where), where);
    } else {
        item.choices = strings(choices, where);
    }
    if (item.choices.size() < 2) throw Error(Exit::kBadData, where, "needs two choices or more");
    item.answer = answer_index(first_of(json, {"answer", "gold", "label", "answerKey"}, where),
                               item, labels, where);
    return item;
}

void read_items(const std::string& path, const TakeChoiceItem& take) {
    for_each_json_line(path, [&](const Json& json, const std::string& where) {
        return take(item_of(json, where), where);
    });
}

struct Choice {
    static constexpr const char* kName = "choice";
    static constexpr const char* kHelp =
        "multiple choice from JSONL {context, choices, answer}, by log-likelihood";
    struct Options {
        std::string file, fewshot;
        std::string delimiter = " ";
        void visit(OptionVisitor& v) {
            v.option({.name = "file", .help = "items, JSONL", .value = "FILE", .is_input = true},
                     file);
            v.option({.name = "delimiter", .help = "between context and choice", .value = "TEXT"},
                     delimiter);
            v.option({.name = "fewshot",
                      .help = "items that --num-fewshot takes its examples from",
                      .value = "FILE",
                      .is_input = true},
                     fewshot);
        }
    };
};

}  // namespace

std::unique_ptr<TaskType> make_choice_task();
std::unique_ptr<TaskType> make_choice_task() {
    return make_task_type<Choice>([](const Choice::Options& options) {
        return make_choice_scorer({.kind = Choice::kName,
                                   .file = options.file,
                                   .fewshot = options.fewshot,
                                   .delimiter = options.delimiter,
                                   .options = options_without_files(options)},
                                  read_items);
    });
}

}  // namespace thimble::eval
