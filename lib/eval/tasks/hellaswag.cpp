// SPDX-License-Identifier: Apache-2.0
// HellaSwag, "HellaSwag: Can a Machine Really Finish Your Sentence?" (2019), with its texts
// prepared as lm-evaluation-harness prepares them. Two files are read: the dataset's own JSONL
// (hellaswag_val.jsonl: activity_label, ctx_a, ctx_b, endings, label), and the six lines per item
// that llama.cpp's perplexity tool takes, which are prepared already: context, label, four endings.
#include <string>

#include "core/error.h"
#include "eval/choice.h"
#include "io/lines.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kEndings = 4;

std::string trimmed(const std::string& text) {
    const char* spaces = " \t\n\r\f\v";
    const std::size_t begin = text.find_first_not_of(spaces);
    if (begin == std::string::npos) return {};
    return text.substr(begin, text.find_last_not_of(spaces) + 1 - begin);
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
}

// Brackets are left over from the WikiHow part of the data.
std::string prepared(const std::string& text) {
    std::string out = trimmed(text);
    replace_all(out, " [title]", ". ");
    for (std::size_t begin = 0; (begin = out.find('[', begin)) != std::string::npos;) {
        const std::size_t end = out.find_first_of("]\n", begin);
        if (end != std::string::npos && out[end] == ']') {
            out.erase(begin, end + 1 - begin);
        } else {
            ++begin;
        }
    }
    replace_all(out, "  ", " ");
    return out;
}

// First letter large, all others small; letters outside of ASCII stay.
std::string capitalized(std::string text) {
    for (std::size_t i = 0; i < text.size(); ++i) {
        char& c = text[i];
        if (i == 0 && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
        if (i > 0 && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    }
    return text;
}

const Json& at(const Json& json, const char* key, const std::string& where) {
    if (const Json* found = json.find(key)) return *found;
    throw Error(Exit::kBadData, where, std::string("key '") + key + "' is missing");
}

std::int64_t label_of(const std::string& text, const std::string& where) {
    if (text.size() == 1 && text[0] >= '0' && text[0] < '0' + kEndings) return text[0] - '0';
    throw Error(Exit::kBadData, where, "expected a label from 0 to 3, not '" + escaped(text) + "'");
}

ChoiceItem item_of(const Json& json, const std::string& where) {
    const auto text = [&](const char* key) { return at(json, key, where).as_string(where); };
    ChoiceItem item;
    item.context =
        prepared(text("activity_label") + ": " + text("ctx_a") + " " + capitalized(text("ctx_b")));
    for (const Json& ending : at(json, "endings", where).as_array(where))
        item.choices.push_back(prepared(ending.as_string(where)));
    if (std::ssize(item.choices) != kEndings)
        throw Error(Exit::kBadData, where, "expected four endings");
    const Json& label = at(json, "label", where);
    item.answer = label_of(label.is_int() ? label.dump() : label.as_string(where), where);
    return item;
}

void read_six_lines(const std::string& path, const TakeChoiceItem& take) {
    LineReader lines(path);
    for (ChoiceItem item; lines.next(item.context); item = {}) {
        const std::string where = lines.where();
        std::string line;
        if (!lines.next(line)) throw Error(Exit::kBadData, where, "the item has no label");
        item.answer = label_of(line, lines.where());
        for (std::int64_t i = 0; i < kEndings; ++i) {
            if (!lines.next(line))
                throw Error(Exit::kBadData, where, "the item has fewer than four endings");
            item.choices.push_back(line);
        }
        if (!take(std::move(item), where)) return;
    }
}

void read_items(const std::string& path, const TakeChoiceItem& take) {
    std::string first;
    if (LineReader lines(path); !lines.next(first)) return;
    if (!first.starts_with('{')) return read_six_lines(path, take);
    for_each_json_line(path, [&](const Json& json, const std::string& where) {
        return take(item_of(json, where), where);
    });
}

struct HellaSwag {
    static constexpr const char* kName = "hellaswag";
    static constexpr const char* kHelp =
        "HellaSwag: its JSONL, or the six lines per item of llama.cpp's perplexity tool";
    struct Options {
        std::string file, fewshot;
        void visit(OptionVisitor& v) {
            v.option({.name = "file",
                      .help = "hellaswag_val.jsonl or .txt",
                      .value = "FILE",
                      .is_input = true},
                     file);
            v.option({.name = "fewshot",
                      .help = "items that --num-fewshot takes its examples from",
                      .value = "FILE",
                      .is_input = true},
                     fewshot);
        }
    };
};

}  // namespace

std::unique_ptr<TaskType> make_hellaswag_task();
std::unique_ptr<TaskType> make_hellaswag_task() {
    return make_task_type<HellaSwag>([](const HellaSwag::Options& options) {
        return make_choice_scorer(
            {.kind = HellaSwag::kName, .file = options.file, .fewshot = options.fewshot},
            read_items);
    });
}

}  // namespace thimble::eval
