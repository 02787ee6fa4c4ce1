// SPDX-License-Identifier: Apache-2.0
// tokenizer.* keys <-> tokenizers.
#include <array>

#include "core/error.h"
#include "core/strings.h"
#include "text/bpe.h"

namespace thimble {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.";

// tokenizer.ggml.<name>_token_id
constexpr std::array<std::string_view, 14> kIds = {
    "bos",  "eos", "eot",     "eom",     "unknown", "seperator", "padding",
    "mask", "cls", "fim_pre", "fim_suf", "fim_mid", "fim_pad",   "fim_rep"};

std::string key_of(std::string_view name) { return std::string(kPrefix).append(name); }

Error bad_key(const Metadata& metadata, std::string_view name, const std::string& what,
              std::string hint = {}) {
    return {Exit::kBadData, escaped(metadata.file(), 1024), "key '" + key_of(name) + "' " + what,
            std::move(hint)};
}

// The array's elements, null when the key is absent.
template <class T>
const std::vector<T>* find_elements(const Metadata& metadata, std::string_view name,
                                    std::string_view expected) {
    const MetaArray* array = metadata.find_array(key_of(name));
    if (array == nullptr) return nullptr;
    if (const auto* elements = std::get_if<std::vector<T>>(&array->elements)) return elements;
    throw bad_key(metadata, name, "must be an array of " + std::string(expected));
}

struct Source {
    const std::vector<std::string>* pieces = nullptr;
    const std::vector<float>* scores = nullptr;
    const std::vector<std::int32_t>* kinds = nullptr;
    const std::vector<std::string>* merges = nullptr;
    bool byte_level = false;
};

Source read_source(const Metadata& metadata) {
    Source source;
    const std::string_view model = metadata.get_string(key_of("model"));
    source.byte_level = model == "gpt2";
    if (!source.byte_level && model != "llama") {
        throw bad_key(metadata, "model", "is '" + escaped(model) + "', which is not supported",
                      "supported: gpt2, llama");
    }
    source.pieces = find_elements<std::string>(metadata, "tokens", "strings");
    if (source.pieces == nullptr) throw bad_key(metadata, "tokens", "is missing");
    source.scores = find_elements<float>(metadata, "scores", "32-bit floats");
    source.kinds = find_elements<std::int32_t>(metadata, "token_type", "32-bit integers");
    source.merges = find_elements<std::string>(metadata, "merges", "strings");
    if (source.byte_level && source.merges == nullptr) {
        throw bad_key(metadata, "merges", "is missing");
    }
    if (!source.byte_level && source.scores == nullptr) {
        throw bad_key(metadata, "scores", "is missing");
    }
    if (source.byte_level) source.scores = nullptr;   // written by some converters, of no meaning
    if (!source.byte_level) source.merges = nullptr;  // likewise
    const std::size_t count = source.pieces->size();
    const auto check = [&](std::string_view name, const auto* elements) {
        if (elements == nullptr || elements->size() == count) return;
        throw bad_key(metadata, name,
                      "has " + std::to_string(elements->size()) + " elements, expected " +
                          std::to_string(count) + " (one per token)");
    };
    check("scores", source.scores);
    check("token_type", source.kinds);
    return source;
}

TokenKind kind_at(const Metadata& metadata, const Source& source, std::size_t i) {
    if (source.kinds == nullptr) return TokenKind::kNormal;
    const std::int32_t value = (*source.kinds)[i];
    if (value < 1 || value > 6) {
        throw bad_key(metadata, "token_type",
                      "is " + std::to_string(value) + " for token " + std::to_string(i) +
                          ", expected 1 to 6");
    }
    return static_cast<TokenKind>(value);
}

Vocabulary::Sizes sizes_of(const Metadata& metadata, const Source& source) {
    Vocabulary::Sizes sizes;
    sizes.pieces = source.pieces->size();
    sizes.scores = source.scores != nullptr;
    sizes.merges = source.merges == nullptr ? 0 : source.merges->size();
    for (std::size_t i = 0; i < source.pieces->size(); ++i) {
        const std::string& text = (*source.pieces)[i];
        const TokenKind kind = kind_at(metadata, source, i);
        const bool added = kind == TokenKind::kControl || kind == TokenKind::kUserDefined;
        sizes.added += added ? 1 : 0;
        sizes.text_bytes += text.size();
        if (kind == TokenKind::kUserDefined && !source.byte_level && is_space_run(text)) {
            sizes.text_bytes += text.size() * (kSpaceMark.size() - 1);
        }
    }
    return sizes;
}

void read_merges(const Metadata& metadata, const std::vector<std::string>& merges,
                 Vocabulary& vocabulary) {
    for (std::size_t i = 0; i < merges.size(); ++i) {
        const std::string_view merge = merges[i];
        const std::size_t space = merge.find(' ', 1);
        if (space == std::string_view::npos || space + 1 >= merge.size()) {
            throw bad_key(metadata, "merges",
                          "has '" + escaped(merge, 40) + "' at " + std::to_string(i) +
                              ", expected two pieces with a space between");
        }
        vocabulary.add_merge(merge.substr(0, space), merge.substr(space + 1));
    }
}

TokenizerRules read_rules(const Metadata& metadata, std::size_t pieces, bool byte_level) {
    TokenizerRules rules;
    const auto pre = metadata.find_string(key_of("pre"));
    // A guess would cut text in other places than the model was trained on.
    if (byte_level && !pre) throw bad_key(metadata, "pre", "is missing", "convert the model again");
    rules.pre = pre.value_or("default");
    for (const std::string_view name : kIds) {
        const std::string key = key_of(std::string(name) + "_token_id");
        // Some converters write 2^32 - 1 for "none".
        const auto value = metadata.find_int(key);
        if (!value || *value == 0xffffffff || *value == -1) continue;
        const auto most = static_cast<std::int64_t>(pieces) - 1;
        rules.ids.emplace_back(name, static_cast<Token>(metadata.get_int(key, 0, most)));
    }
    rules.add_bos = metadata.find_bool(key_of("add_bos_token"));
    rules.add_eos = metadata.find_bool(key_of("add_eos_token"));
    rules.add_sep = metadata.find_bool(key_of("add_sep_token"));
    rules.add_space_prefix = metadata.find_bool(key_of("add_space_prefix"));
    rules.chat_template = metadata.find_string("tokenizer.chat_template").value_or("");
    return rules;
}

}  // namespace

bool is_space_run(std::string_view text) noexcept {
    return !text.empty() && text.find_first_not_of(' ') == std::string_view::npos;
}

std::uint64_t predict_vocabulary_bytes(const Metadata& metadata) {
    return Vocabulary::predict_bytes(sizes_of(metadata, read_source(metadata)));
}

std::unique_ptr<Tokenizer> make_tokenizer(std::unique_ptr<Vocabulary> vocabulary,
                                          TokenizerRules rules, bool byte_level) {
    if (!byte_level) return std::make_unique<ScoreBpe>(std::move(vocabulary), std::move(rules));
    const auto pre = find_pre_tokenizer(rules.pre);
    if (!pre) {
        throw Error(Exit::kBadData, vocabulary->where(),
                    "key 'tokenizer.ggml.pre' is '" + escaped(rules.pre) +
                        "', a pre-tokenizer that is not known",
                    did_you_mean(rules.pre, pre_tokenizer_names()));
    }
    return std::make_unique<ByteBpe>(std::move(vocabulary), std::move(rules), *pre);
}

std::unique_ptr<Tokenizer> tokenizer_from_metadata(const Metadata& metadata) {
    const Source source = read_source(metadata);
    TokenizerRules rules = read_rules(metadata, source.pieces->size(), source.byte_level);
    auto vocabulary =
        std::make_unique<Vocabulary>(escaped(metadata.file(), 1024), sizes_of(metadata, source));
    for (std::size_t i = 0; i < source.pieces->size(); ++i) {
        const TokenKind kind = kind_at(metadata, source, i);
        const float score = source.scores == nullptr ? 0.0f : (*source.scores)[i];
        const std::string& text = (*source.pieces)[i];
        if (kind == TokenKind::kUserDefined && !source.byte_level && is_space_run(text)) {
            std::string marked;
            for (std::size_t n = 0; n < text.size(); ++n) marked += kSpaceMark;
            vocabulary->add_piece(marked, kind, score);
        } else {
            vocabulary->add_piece(text, kind, score);
        }
    }
    if (source.merges != nullptr) read_merges(metadata, *source.merges, *vocabulary);
    vocabulary->finish();
    return make_tokenizer(std::move(vocabulary), std::move(rules), source.byte_level);
}

void BpeTokenizer::write_vocabulary(Metadata& metadata) const {
    const Vocabulary& vocabulary = *vocabulary_;
    const auto count = static_cast<Token>(vocabulary.size());
    const bool byte_level = model_name() == "gpt2";
    std::vector<std::string> pieces;
    std::vector<std::int32_t> kinds;
    std::vector<float> scores;
    for (Token token = 0; token < count; ++token) {
        std::string text(vocabulary.piece(token));
        const TokenKind kind = vocabulary.kind(token);
        // User-defined runs of spaces are written as spaces.
        const bool marks = !byte_level && kind == TokenKind::kUserDefined;
        if (const std::string bytes = piece(token, true); marks && is_space_run(bytes)) {
            text = bytes;
        }
        pieces.push_back(std::move(text));
        kinds.push_back(static_cast<std::int32_t>(kind));
        if (vocabulary.has_scores()) scores.push_back(vocabulary.score(token));
    }
    const auto set_array = [&](std::string_view name, MetaElements elements) {
        metadata.set(key_of(name),
                     std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
    };
    metadata.set(key_of("model"), std::string(model_name()));
    metadata.set(key_of("pre"), rules_.pre);
    set_array("tokens", std::move(pieces));
    if (!byte_level) set_array("scores", std::move(scores));
    set_array("token_type", std::move(kinds));
    if (byte_level) {
        std::vector<std::string> merges;
        for (const Vocabulary::Merge& merge : vocabulary.merges_by_rank()) {
            merges.push_back(std::string(vocabulary.piece(merge.left)) + ' ' +
                             std::string(vocabulary.piece(merge.right)));
        }
        set_array("merges", std::move(merges));
    }
    for (const auto& [name, token] : rules_.ids) {
        metadata.set(key_of(name + "_token_id"), static_cast<std::uint32_t>(token));
    }
    const auto set_bool = [&](std::string_view name, const std::optional<bool>& value) {
        if (value) metadata.set(key_of(name), *value);
    };
    set_bool("add_bos_token", rules_.add_bos);
    set_bool("add_sep_token", rules_.add_sep);
    set_bool("add_eos_token", rules_.add_eos);
    set_bool("add_space_prefix", rules_.add_space_prefix);
    if (!rules_.chat_template.empty()) {
        metadata.set("tokenizer.chat_template", rules_.chat_template);
    }
}

}  // namespace thimble
