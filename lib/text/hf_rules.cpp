// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <filesystem>

#include "core/error.h"
#include "core/strings.h"
#include "io/file.h"
#include "text/hf.h"
#include "text/hf_export.h"

namespace thimble {
namespace {

Error refuse(const HfFiles& files, std::string_view key, const Json& value) {
    return {
        Exit::kBadData, files.where,
        "'" + std::string(key) + "' is " + escaped(value.dump(), 160) + ", which is not supported",
        "supported: byte-level BPE of GPT-2, SmolLM2 and Llama 3, SentencePiece BPE of Llama 2 "
        "and Gemma"};
}

bool is_null(const Json* value) { return value == nullptr || value->is_null(); }

std::string text_of(const Json& object, std::string_view key) {
    const Json* value = object.find(key);
    return value != nullptr && value->is_string() ? value->as_string(key) : std::string{};
}

bool flag_of(const Json& object, std::string_view key) {
    const Json* value = object.find(key);
    return value != nullptr && value->is_bool() && value->as_bool(key);
}

// {"type": "Sequence", <list>: [...]} as its elements, one element as itself, null as nothing.
std::vector<Json> flatten(const Json* value, std::string_view list) {
    if (is_null(value)) return {};
    if (text_of(*value, "type") != "Sequence") return {*value};
    const Json* elements = value->find(list);
    return elements == nullptr ? std::vector<Json>{} : elements->as_array(list);
}

bool is_split(const Json& step, std::string_view kind, std::string_view pattern,
              std::string_view behavior) {
    const Json* given = step.find("pattern");
    return text_of(step, "type") == "Split" && given != nullptr &&
           text_of(*given, kind) == pattern && text_of(step, "behavior") == behavior &&
           !flag_of(step, "invert");
}

// The pre-tokenizer's name, "" when it is none of ours.
std::string byte_level_pre(const std::vector<Json>& steps) {
    if (steps.empty() || steps.size() > 2) return {};
    const Json& last = steps.back();
    if (text_of(last, "type") != "ByteLevel" || flag_of(last, "add_prefix_space")) return {};
    const Json* use_regex = last.find("use_regex");
    const bool regex = use_regex == nullptr || flag_of(last, "use_regex");
    if (steps.size() == 1) return regex ? "gpt-2" : "";
    const Json& first = steps.front();
    const bool digits = text_of(first, "type") == "Digits" && flag_of(first, "individual_digits");
    if (regex) return digits ? "smollm" : "";
    if (is_split(first, "Regex", kLlama3Pattern, "Isolated")) return "llama-bpe";
    return is_split(first, "Regex", kQwen2Pattern, "Isolated") ? "qwen2" : "";
}

bool is_space_to_mark(const Json& step) {
    const Json* pattern = step.find("pattern");
    return text_of(step, "type") == "Replace" && pattern != nullptr &&
           text_of(*pattern, "String") == " " && text_of(step, "content") == kSpaceMark;
}

void read_scored_form(const HfFiles& files, const std::vector<Json>& normalizers,
                      const std::vector<Json>& steps, HfForm& form) {
    bool marks = false;
    for (const Json& step : normalizers) {
        if (text_of(step, "type") == "Prepend" && text_of(step, "prepend") == kSpaceMark) {
            form.space_prefix = true;
        } else if (is_space_to_mark(step)) {
            marks = true;
        } else {
            throw refuse(files, "normalizer", step);
        }
    }
    for (const Json& step : steps) {
        // With all spaces replaced, a split at spaces finds none.
        if (marks && is_split(step, "String", " ", "MergedWithPrevious")) continue;
        const std::string scheme = text_of(step, "prepend_scheme");
        const bool known = scheme == "always" || scheme == "first" || scheme == "never";
        const Json* split = step.find("split");
        if (text_of(step, "type") != "Metaspace" || text_of(step, "replacement") != kSpaceMark ||
            !known || split == nullptr || flag_of(step, "split")) {
            throw refuse(files, "pre_tokenizer", step);
        }
        marks = true;
        form.space_prefix = form.space_prefix || scheme != "never";
        form.prefix_first_only = scheme == "first";
    }
    if (!marks) throw refuse(files, "normalizer", Json());
}

}  // namespace

HfForm read_form(const HfFiles& files) {
    const Json* model = files.tokenizer.find("model");
    if (is_null(model)) throw refuse(files, "model", Json());
    const std::string type = text_of(*model, "type");
    if (type != "BPE" && !type.empty()) throw refuse(files, "model.type", Json(type));
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
        const Json* value = model->find(key);
        if (is_null(value) || (value->is_string() && value->as_string(key).empty())) continue;
        throw refuse(files, std::string("model.") + key, *value);
    }
    const Json* normalizer = files.tokenizer.find("normalizer");
    const Json* pre_tokenizer = files.tokenizer.find("pre_tokenizer");
    const std::vector<Json> normalizers = flatten(normalizer, "normalizers");
    const std::vector<Json> steps = flatten(pre_tokenizer, "pretokenizers");
    HfForm form;
    form.byte_level = !steps.empty() && text_of(steps.back(), "type") == "ByteLevel";
    if (!form.byte_level) {
        read_scored_form(files, normalizers, steps, form);
        return form;
    }
    if (!normalizers.empty()) throw refuse(files, "normalizer", *normalizer);
    form.pre = byte_level_pre(steps);
    const auto pre = find_pre_tokenizer(form.pre);
    if (!pre) throw refuse(files, "pre_tokenizer", *pre_tokenizer);
    if (flag_of(*model, "ignore_merges") && !pre->ignore_merges) {
        throw refuse(files, "model.ignore_merges", Json(true));
    }
    return form;
}

namespace {

// A special token is written as its text or as an object with "content".
std::string special_text(const Json& settings, std::string_view key) {
    const Json* value = settings.find(key);
    if (value == nullptr) return {};
    if (value->is_string()) return value->as_string(key);
    return text_of(*value, "content");
}

void read_ids(const HfFiles& files, const Vocabulary& vocabulary, TokenizerRules& rules) {
    static constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kNames = {
        {{"bos", "bos"},
         {"eos", "eos"},
         {"unk", "unknown"},
         {"sep", "seperator"},
         {"pad", "padding"},
         {"cls", "cls"},
         {"mask", "mask"}}};
    for (const auto& [name, key] : kNames) {
        const std::string token_key = std::string(name) + "_token";
        std::string text = special_text(files.settings, token_key);
        if (text.empty()) text = special_text(files.special_map, token_key);
        if (!text.empty()) {
            const Token token = vocabulary.find(text);
            if (token < 0) {
                throw Error(Exit::kBadData, files.where,
                            "'" + token_key + "' is '" + escaped(text, 40) +
                                "', which is not in the vocabulary");
            }
            rules.ids.emplace_back(key, token);
            continue;
        }
        const std::string id_key = token_key + "_id";
        const Json* id = files.config.find(id_key);
        if (is_null(id)) continue;
        const Json& first =
            id->is_array() && !id->as_array(id_key).empty() ? id->as_array(id_key).front() : *id;
        const std::int64_t value = first.as_int("config.json: " + id_key);
        if (value < 0 || value >= static_cast<std::int64_t>(vocabulary.size())) {
            throw Error(Exit::kBadData, files.where,
                        "config.json's '" + id_key + "' is " + std::to_string(value) +
                            ", outside the vocabulary of " + std::to_string(vocabulary.size()));
        }
        rules.ids.emplace_back(key, static_cast<Token>(value));
    }
}

// Whether the post-processor puts BOS first and EOS last.
void read_template(const HfFiles& files, const Vocabulary& vocabulary, TokenizerRules& rules) {
    const auto special_id = [&](const Json& item) -> Token {
        const Json* special = item.find("SpecialToken");
        return special == nullptr ? -1 : vocabulary.find(text_of(*special, "id"));
    };
    for (const Json& step : flatten(files.tokenizer.find("post_processor"), "processors")) {
        if (text_of(step, "type") != "TemplateProcessing") continue;
        const Json* single = step.find("single");
        if (is_null(single) || single->as_array("post_processor.single").empty()) continue;
        const JsonArray& items = single->as_array("post_processor.single");
        const Token first = special_id(items.front()), last = special_id(items.back());
        rules.add_bos = first >= 0 && first == rules.id("bos");
        rules.add_eos = last >= 0 && last == rules.id("eos");
    }
    const auto overrides = [&](std::string_view key, std::optional<bool>& value) {
        const Json* given = files.settings.find(key);
        if (given != nullptr && given->is_bool()) value = given->as_bool(key);
    };
    overrides("add_bos_token", rules.add_bos);
    overrides("add_eos_token", rules.add_eos);
}

std::string read_chat_template(const HfFiles& files) {
    if (!files.chat_template.empty()) return files.chat_template;
    const Json* value = files.settings.find("chat_template");
    if (is_null(value)) return {};
    if (value->is_string()) return value->as_string("chat_template");
    for (const Json& named : value->as_array("tokenizer_config.json: chat_template")) {
        if (text_of(named, "name") == "default") return text_of(named, "template");
    }
    return {};
}

}  // namespace

TokenizerRules read_hf_rules(const HfFiles& files, const HfForm& form,
                             const Vocabulary& vocabulary) {
    TokenizerRules rules;
    rules.pre = form.pre;
    read_ids(files, vocabulary, rules);
    read_template(files, vocabulary, rules);
    // Other readers' defaults differ by model; the file that we write says it.
    if (!rules.add_bos) rules.add_bos = false;
    if (!form.byte_level) {
        rules.add_space_prefix = form.space_prefix;
        rules.prefix_first_only = form.prefix_first_only;
    } else if (const Json* prefix = files.settings.find("add_prefix_space");
               prefix != nullptr && prefix->is_bool()) {
        rules.add_space_prefix = prefix->as_bool("add_prefix_space");
    }
    rules.chat_template = read_chat_template(files);
    return rules;
}

// Other forms of a vocabulary do not say how text is cut before it is merged.
static void require_tokenizer(const std::filesystem::path& directory) {
    namespace fs = std::filesystem;
    if (fs::exists(directory / "tokenizer.json")) return;
    const char* other = fs::exists(directory / "tokenizer.model") ? "tokenizer.model"
                        : fs::exists(directory / "vocab.json")    ? "vocab.json"
                                                                  : nullptr;
    const std::string hint =
        other == nullptr
            ? "copy it from the model that this one was made from"
            : "copy it from the original model, or let transformers make it of " +
                  std::string(other) + ": AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)";
    throw Error(Exit::kNoInput, escaped(directory.string(), 1024),
                "there is no tokenizer.json, the only form of a vocabulary that is read" +
                    (other == nullptr ? std::string() : "; " + std::string(other) + " is not"),
                hint);
}

HfFiles read_hf_files(const ModelFile& file) {
    namespace fs = std::filesystem;
    const fs::path given = file.path();
    const fs::path directory = fs::is_directory(given) ? given : given.parent_path();
    const auto read = [&](const char* name) {
        const fs::path path = directory / name;
        return fs::exists(path) ? read_json_file(path.string()) : Json();
    };
    HfFiles files;
    require_tokenizer(directory);
    const fs::path tokenizer = directory / "tokenizer.json";
    files.where = escaped(tokenizer.string(), 1024);
    files.bytes = File(tokenizer.string()).bytes();
    files.parsing = Charge(Tier::kRam, Purpose::kVocabulary, parsing_bytes(files.bytes));
    files.tokenizer = read_json_file(tokenizer.string());
    files.settings = read("tokenizer_config.json");
    files.special_map = read("special_tokens_map.json");
    files.config = file.config();
    const fs::path chat = directory / "chat_template.jinja";
    if (fs::exists(chat)) files.chat_template = read_text_file(chat.string(), 1 << 20);
    return files;
}

}  // namespace thimble
