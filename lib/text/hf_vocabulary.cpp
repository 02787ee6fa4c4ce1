// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <limits>
#include <unordered_map>

#include "core/error.h"
#include "text/hf.h"

namespace thimble {
namespace {

struct HfPiece {
    std::string_view text;  // empty: no piece has this id
    TokenKind kind = TokenKind::kNormal;
    float score = 0;
};

struct HfVocabulary {
    HfForm form;
    std::vector<HfPiece> pieces;
    std::vector<std::pair<std::string_view, std::string_view>> merges;
    std::vector<std::string> fillers;  // texts of the ids that no piece has
};

Error bad(const HfFiles& files, const std::string& what) {
    return {Exit::kBadData, files.where, what};
}

// Added tokens that are control tokens though the file does not say so.
bool looks_special(std::string_view text) {
    const auto framed = [&](std::string_view open, std::string_view close) {
        return text.starts_with(open) && text.ends_with(close);
    };
    return text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]" ||
           framed("<|", "|>") || framed("<\xef\xbd\x9c", "\xef\xbd\x9c>") || framed("<unused", ">");
}

std::size_t read_id(const HfFiles& files, const Json& value, std::size_t limit,
                    std::string_view text) {
    const std::int64_t id = value.as_int(files.where);
    if (id < 0 || static_cast<std::uint64_t>(id) >= limit) {
        throw bad(files, "token '" + escaped(text, 40) + "' has the id " + std::to_string(id) +
                             ", expected 0 to " + std::to_string(limit - 1));
    }
    return static_cast<std::size_t>(id);
}

const Json& member(const HfFiles& files, const Json& object, std::string_view key) {
    const Json* value = object.find(key);
    if (value == nullptr) throw bad(files, "key '" + std::string(key) + "' is missing");
    return *value;
}

// Ids may leave gaps only up to the model's own vocabulary size.
std::size_t id_limit(const HfFiles& files, std::size_t known) {
    const Json* size = files.config.find("vocab_size");
    if (size == nullptr && files.config.find("text_config") != nullptr) {
        size = files.config.find("text_config")->find("vocab_size");
    }
    if (size == nullptr) return known;
    const std::int64_t value = size->as_int("config.json: vocab_size");
    if (value < 1 || value > (std::int64_t{1} << 24)) {
        throw bad(files, "config.json's 'vocab_size' is " + std::to_string(value));
    }
    return static_cast<std::size_t>(value);
}

void place(const HfFiles& files, HfVocabulary& out, std::size_t id, std::string_view text) {
    HfPiece& piece = out.pieces[id];
    if (!piece.text.empty() && piece.text != text) {
        throw bad(files, "the id " + std::to_string(id) + " is given to '" +
                             escaped(piece.text, 40) + "' and to '" + escaped(text, 40) + "'");
    }
    piece.text = text;
}

void read_pieces(const HfFiles& files, HfVocabulary& out) {
    const Json& model = member(files, files.tokenizer, "model");
    const JsonMembers& vocabulary = member(files, model, "vocab").as_members("model.vocab");
    static const JsonArray kNone;
    const Json* list = files.tokenizer.find("added_tokens");
    const JsonArray& added =
        list == nullptr || list->is_null() ? kNone : list->as_array("added_tokens");
    const std::size_t limit = id_limit(files, vocabulary.size() + added.size());
    out.pieces.resize(limit);
    for (const auto& [text, id] : vocabulary) {
        place(files, out, read_id(files, id, limit, text), text);
    }
    for (const Json& token : added) {
        const std::string& text = member(files, token, "content").as_string("content");
        const std::size_t id = read_id(files, member(files, token, "id"), limit, text);
        for (const char* option : {"lstrip", "rstrip", "single_word"}) {
            const Json* value = token.find(option);
            if (value == nullptr || !value->as_bool(option)) continue;
            throw bad(files, "added token '" + escaped(text, 40) + "' has '" + option +
                                 "', which is not supported");
        }
        place(files, out, id, text);
        const Json* special = token.find("special");
        const bool control = special != nullptr && special->as_bool("special");
        out.pieces[id].kind =
            control || looks_special(text) ? TokenKind::kControl : TokenKind::kUserDefined;
    }
    // Without a size from config.json the ids end with the last piece.
    if (files.config.find("vocab_size") == nullptr) {
        while (!out.pieces.empty() && out.pieces.back().text.empty()) out.pieces.pop_back();
    }
}

void mark_bytes_and_unknown(const HfFiles& files, HfVocabulary& out) {
    const Json& model = member(files, files.tokenizer, "model");
    const Json* fallback = model.find("byte_fallback");
    const bool bytes = fallback != nullptr && fallback->is_bool() && fallback->as_bool("model");
    const Json* unknown = model.find("unk_token");
    for (HfPiece& piece : out.pieces) {
        if (piece.kind != TokenKind::kNormal || piece.text.empty()) continue;
        if (bytes && parse_byte_piece(piece.text) >= 0) piece.kind = TokenKind::kByte;
        if (unknown != nullptr && unknown->is_string() &&
            unknown->as_string("unk_token") == piece.text) {
            piece.kind = TokenKind::kUnknown;
        }
    }
}

void read_merges(const HfFiles& files, HfVocabulary& out) {
    const Json& model = member(files, files.tokenizer, "model");
    for (const Json& merge : member(files, model, "merges").as_array("model.merges")) {
        if (merge.is_array()) {
            const JsonArray& pair = merge.as_array("model.merges");
            if (pair.size() != 2) throw bad(files, "'model.merges' has " + merge.dump());
            out.merges.emplace_back(pair[0].as_string("model.merges"),
                                    pair[1].as_string("model.merges"));
            continue;
        }
        const std::string_view text = merge.as_string("model.merges");
        const std::size_t space = text.find(' ');
        if (space == std::string_view::npos || text.find(' ', space + 1) != text.npos) {
            throw bad(files, "'model.merges' has '" + escaped(text, 40) +
                                 "', expected two pieces with a space between");
        }
        out.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
}

// Falling scores in the order in which the merges first make each piece, then the pieces that no
// merge makes: what a SentencePiece vocabulary says by its scores.
void score_pieces(HfVocabulary& out) {
    std::unordered_map<std::string, std::size_t> first;
    for (std::size_t rank = 0; rank < out.merges.size(); ++rank) {
        const auto& [left, right] = out.merges[rank];
        first.try_emplace(std::string(left).append(right), rank);
    }
    std::vector<std::pair<std::size_t, HfPiece*>> order;
    for (HfPiece& piece : out.pieces) {
        piece.score = piece.kind == TokenKind::kByte ? 0.0f : -1000.0f;
        if (piece.kind != TokenKind::kNormal || piece.text.empty()) continue;
        const auto at = first.find(std::string(piece.text));
        order.emplace_back(at == first.end() ? std::numeric_limits<std::size_t>::max() : at->second,
                           &piece);
    }
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (std::size_t i = 0; i < order.size(); ++i) order[i].second->score = -static_cast<float>(i);
}

HfVocabulary read_vocabulary(const HfFiles& files) {
    HfVocabulary out;
    out.form = read_form(files);
    read_pieces(files, out);
    read_merges(files, out);
    if (!out.form.byte_level) {
        mark_bytes_and_unknown(files, out);
        score_pieces(out);
    }
    out.fillers.resize(out.pieces.size());
    for (std::size_t id = 0; id < out.pieces.size(); ++id) {
        if (!out.pieces[id].text.empty()) continue;
        out.fillers[id] = "[PAD" + std::to_string(id) + "]";
        out.pieces[id] = {out.fillers[id], TokenKind::kUnused, out.form.byte_level ? 0 : -10000.0f};
    }
    return out;
}

Vocabulary::Sizes sizes_of(const HfVocabulary& source) {
    Vocabulary::Sizes sizes;
    sizes.pieces = source.pieces.size();
    sizes.merges = source.merges.size();
    sizes.scores = !source.form.byte_level;
    for (const HfPiece& piece : source.pieces) {
        sizes.text_bytes += piece.text.size();
        const bool added =
            piece.kind == TokenKind::kControl || piece.kind == TokenKind::kUserDefined;
        sizes.added += added ? 1 : 0;
    }
    return sizes;
}

}  // namespace

std::uint64_t parsing_bytes(std::uint64_t tokenizer_json_bytes) noexcept {
    // Measured: values, strings and the tables above take 6.3 times the file's bytes for Gemma 3
    // and 6.8 times for SmolLM2.
    return 8 * tokenizer_json_bytes;
}

std::uint64_t predict_hf_bytes(const HfFiles& files) {
    return parsing_bytes(files.bytes) + Vocabulary::predict_bytes(sizes_of(read_vocabulary(files)));
}

std::unique_ptr<Tokenizer> tokenizer_from_hf(const HfFiles& files) {
    const HfVocabulary source = read_vocabulary(files);
    auto vocabulary = std::make_unique<Vocabulary>(files.where, sizes_of(source));
    for (const HfPiece& piece : source.pieces) {
        vocabulary->add_piece(piece.text, piece.kind, piece.score);
    }
    for (const auto& [left, right] : source.merges) vocabulary->add_merge(left, right);
    vocabulary->finish();
    TokenizerRules rules = read_hf_rules(files, source.form, *vocabulary);
    return make_tokenizer(std::move(vocabulary), std::move(rules), source.form.byte_level);
}

}  // namespace thimble
