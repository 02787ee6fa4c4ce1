// SPDX-License-Identifier: Apache-2.0
#include "text/hf_export.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"
#include "text/bpe.h"

namespace thimble {
namespace {

// TokenizerRules' name of an id -> what transformers calls the token.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kSpecial = {
    {{"bos", "bos_token"},
     {"eos", "eos_token"},
     {"unknown", "unk_token"},
     {"seperator", "sep_token"},
     {"padding", "pad_token"},
     {"cls", "cls_token"},
     {"mask", "mask_token"}}};

Json object(std::initializer_list<std::pair<const char*, Json>> members) {
    Json out = Json::object();
    for (const auto& [key, value] : members) out.set(key, value);
    return out;
}

Json sequence(const char* list, JsonArray steps) {
    return object({{"type", "Sequence"}, {list, std::move(steps)}});
}

Json replace(std::string_view from, std::string_view to) {
    return object({{"type", "Replace"}, {"pattern", object({{"String", from}})}, {"content", to}});
}

Json byte_level(bool use_regex) {
    return object({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", true},
                   {"use_regex", use_regex}});
}

Json cut_at(std::string_view pattern) {
    return sequence("pretokenizers", {object({{"type", "Split"},
                                              {"pattern", object({{"Regex", pattern}})},
                                              {"behavior", "Isolated"},
                                              {"invert", false}}),
                                      byte_level(false)});
}

Json pre_tokenizer(PreTokenizer kind) {
    switch (kind) {
        case PreTokenizer::kGpt2:
            return byte_level(true);
        case PreTokenizer::kSmollm:
            return sequence(
                "pretokenizers",
                {object({{"type", "Digits"}, {"individual_digits", true}}), byte_level(true)});
        case PreTokenizer::kLlama3:
            return cut_at(kLlama3Pattern);
        case PreTokenizer::kQwen2:
            return cut_at(kQwen2Pattern);
    }
    return {};
}

bool is_added(TokenKind kind) {
    return kind == TokenKind::kControl || kind == TokenKind::kUserDefined;
}

std::string quoted(std::string_view text) { return Json(text).dump(); }

// Members of an object or array, one after the other.
class Lines {
  public:
    Lines(const TextSink& sink, const char* separator) : sink_(sink), separator_(separator) {}
    void add(const std::string& text) {
        if (!first_) sink_(separator_);
        first_ = false;
        sink_(text);
    }

  private:
    const TextSink& sink_;
    const char* separator_;
    bool first_ = true;
};

}  // namespace

HfSteps ByteBpe::hf_steps() const {
    HfSteps steps;
    steps.pre_tokenizer = thimble::pre_tokenizer(pre_.kind);
    steps.decoder = byte_level(true);
    steps.ignore_merges = pre_.ignore_merges;
    return steps;
}

HfSteps ScoreBpe::hf_steps() const {
    HfSteps steps;
    JsonArray decoders = {replace(kSpaceMark, " "), object({{"type", "ByteFallback"}}),
                          object({{"type", "Fuse"}})};
    if (space_prefix_) {
        decoders.push_back(
            object({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}));
    }
    steps.decoder = sequence("decoders", std::move(decoders));
    steps.byte_fallback = std::any_of(byte_tokens_.begin(), byte_tokens_.end(),
                                      [](Token token) { return token >= 0; });
    if (space_prefix_ && prefix_first_only_) {
        steps.pre_tokenizer = object({{"type", "Metaspace"},
                                      {"replacement", kSpaceMark},
                                      {"prepend_scheme", "first"},
                                      {"split", false}});
    } else if (space_prefix_) {
        steps.normalizer = sequence(
            "normalizers",
            {object({{"type", "Prepend"}, {"prepend", kSpaceMark}}), replace(" ", kSpaceMark)});
    } else {
        steps.normalizer = replace(" ", kSpaceMark);
    }
    return steps;
}

std::vector<BpeTokenizer::MergePair> BpeTokenizer::merge_list() const {
    std::vector<MergePair> out;
    out.reserve(vocabulary_->merges());
    for (const Vocabulary::Merge& merge : vocabulary_->merges_by_rank())
        out.push_back({merge.rank, merge.result, merge.left, merge.right});
    return out;
}

Json BpeTokenizer::special_tokens() const {
    Json out = Json::object();
    for (const auto& [name, key] : kSpecial) {
        const Token token = rules_.id(name);
        if (token >= 0) out.set(std::string(key), vocabulary_->piece(token));
    }
    return out;
}

Json BpeTokenizer::post_processor() const {
    if (!add_bos_ && !add_eos_) return {};
    Json special = Json::object();
    const auto item = [&](Token token, int type) {
        const std::string text(vocabulary_->piece(token));
        special.set(text, object({{"id", text},
                                  {"ids", JsonArray{Json(static_cast<int>(token))}},
                                  {"tokens", JsonArray{Json(text)}}}));
        return object({{"SpecialToken", object({{"id", text}, {"type_id", type}})}});
    };
    const auto stretch = [&](const char* id, int type) {
        JsonArray items;
        if (add_bos_) items.push_back(item(bos_, type));
        items.push_back(object({{"Sequence", object({{"id", id}, {"type_id", type}})}}));
        if (add_eos_) items.push_back(item(eos_, type));
        return items;
    };
    JsonArray single = stretch("A", 0), pair = single;
    for (Json& second : stretch("B", 1)) pair.push_back(std::move(second));
    return object({{"type", "TemplateProcessing"},
                   {"single", std::move(single)},
                   {"pair", std::move(pair)},
                   {"special_tokens", std::move(special)}});
}

void BpeTokenizer::write_added_tokens(const TextSink& sink) const {
    Lines lines(sink, ",\n    ");
    for (Token token = 0; token < static_cast<Token>(vocabulary_->size()); ++token) {
        const TokenKind kind = vocabulary_->kind(token);
        if (!is_added(kind)) continue;
        lines.add(object({{"id", static_cast<int>(token)},
                          {"content", vocabulary_->piece(token)},
                          {"single_word", false},
                          {"lstrip", false},
                          {"rstrip", false},
                          {"normalized", false},
                          {"special", kind == TokenKind::kControl}})
                      .dump());
    }
}

void BpeTokenizer::write_tokenizer_json(const std::vector<MergePair>& merges,
                                        const TextSink& sink) const {
    const HfSteps steps = hf_steps();
    const Token unknown = rules_.id("unknown");
    const bool has_unknown = model_name() != "gpt2" && unknown >= 0;
    sink("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n");
    sink("  \"added_tokens\": [\n    ");
    write_added_tokens(sink);
    sink("\n  ],\n  \"normalizer\": " + steps.normalizer.dump());
    sink(",\n  \"pre_tokenizer\": " + steps.pre_tokenizer.dump());
    sink(",\n  \"post_processor\": " + post_processor().dump());
    sink(",\n  \"decoder\": " + steps.decoder.dump());
    sink(",\n  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": ");
    sink(has_unknown ? quoted(vocabulary_->piece(unknown)) : "null");
    sink(",\n    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null");
    sink(",\n    \"fuse_unk\": " + Json(has_unknown).dump());
    sink(",\n    \"byte_fallback\": " + Json(steps.byte_fallback).dump());
    sink(",\n    \"ignore_merges\": " + Json(steps.ignore_merges).dump());
    sink(",\n    \"vocab\": {\n      ");
    Lines pieces(sink, ",\n      ");
    for (Token token = 0; token < static_cast<Token>(vocabulary_->size()); ++token) {
        const std::string_view text = vocabulary_->piece(token);
        // Readers of this format fill the ids that no piece has by such names.
        const bool filler = vocabulary_->kind(token) == TokenKind::kUnused &&
                            text == "[PAD" + std::to_string(token) + "]";
        if (!filler) pieces.add(quoted(text) + ": " + std::to_string(token));
    }
    sink("\n    },\n    \"merges\": [\n      ");
    Lines pairs(sink, ",\n      ");
    for (const MergePair& merge : merges) {
        pairs.add("[" + quoted(vocabulary_->piece(merge.left)) + ", " +
                  quoted(vocabulary_->piece(merge.right)) + "]");
    }
    sink("\n    ]\n  }\n}\n");
}

HfTokenizerFiles BpeTokenizer::hf_files(std::int64_t context_tokens) const {
    for (Token token = 0; token < static_cast<Token>(vocabulary_->size()); ++token) {
        if (is_utf8(vocabulary_->piece(token))) continue;
        throw Error(Exit::kBadData, vocabulary_->where(),
                    "token " + std::to_string(token) + " is not UTF-8: JSON cannot hold it");
    }
    HfTokenizerFiles out;
    const auto merges = std::make_shared<const std::vector<MergePair>>(merge_list());
    out.held = std::make_shared<const Charge>(Tier::kRam, Purpose::kVocabulary,
                                              merges->capacity() * sizeof(MergePair));
    out.files.push_back(side_file("tokenizer.json", [this, merges](const TextSink& sink) {
        write_tokenizer_json(*merges, sink);
    }));
    const Json special = special_tokens();
    Json settings = object({{"tokenizer_class", "PreTrainedTokenizerFast"},
                            {"add_bos_token", add_bos_},
                            {"clean_up_tokenization_spaces", false},
                            {"model_max_length", context_tokens}});
    if (rules_.add_eos) settings.set("add_eos_token", add_eos_);
    if (model_name() == "gpt2" && rules_.add_space_prefix)
        settings.set("add_prefix_space", *rules_.add_space_prefix);
    for (const auto& [key, text] : special.as_members("special tokens")) settings.set(key, text);
    if (!rules_.chat_template.empty()) settings.set("chat_template", rules_.chat_template);
    out.files.push_back(side_file("tokenizer_config.json", settings.dump(2) + "\n"));
    out.files.push_back(side_file("special_tokens_map.json", special.dump(2) + "\n"));
    for (const char* name : {"bos", "eos", "padding"}) {
        const Token token = rules_.id(name);
        const std::string key = name == std::string_view("padding") ? "pad" : name;
        if (token >= 0) out.token_ids.emplace_back(key + "_token_id", static_cast<int>(token));
    }
    for (const Token token : ends_) {
        if (std::find(out.end_ids.begin(), out.end_ids.end(), token) == out.end_ids.end())
            out.end_ids.push_back(token);
    }
    return out;
}

}  // namespace thimble
