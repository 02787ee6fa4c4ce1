// SPDX-License-Identifier: Apache-2.0
// Tiny vocabularies in metadata form, so that tokenizer tests need no model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/model_file.h"
#include "text/bpe.h"

namespace thimble::test {

struct TinyPiece {
    std::string text;
    TokenKind kind = TokenKind::kNormal;
    float score = 0;
};

inline void set_array(Metadata& metadata, const std::string& key, MetaElements elements) {
    metadata.set(key, std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
}

inline Metadata tiny_metadata(const std::string& model, const std::string& pre,
                              const std::vector<TinyPiece>& pieces) {
    Metadata metadata("tiny.gguf");
    std::vector<std::string> texts;
    std::vector<std::int32_t> kinds;
    std::vector<float> scores;
    for (const TinyPiece& piece : pieces) {
        texts.push_back(piece.text);
        kinds.push_back(static_cast<std::int32_t>(piece.kind));
        scores.push_back(piece.score);
    }
    metadata.set("tokenizer.ggml.model", model);
    metadata.set("tokenizer.ggml.pre", pre);
    set_array(metadata, "tokenizer.ggml.tokens", std::move(texts));
    set_array(metadata, "tokenizer.ggml.token_type", std::move(kinds));
    if (model == "llama") set_array(metadata, "tokenizer.ggml.scores", std::move(scores));
    return metadata;
}

// All 256 bytes, then one piece per merge, then control tokens <s> </s> and the user-defined <tag>.
inline Metadata tiny_byte_level(const std::string& pre, const std::vector<std::string>& merges) {
    std::vector<TinyPiece> pieces;
    for (int byte = 0; byte < 256; ++byte) {
        std::string spelled;
        const char c = static_cast<char>(static_cast<unsigned char>(byte));
        append_spelled(spelled, std::string_view(&c, 1));
        pieces.push_back({spelled});
    }
    for (const std::string& merge : merges) {
        const std::size_t space = merge.find(' ', 1);
        pieces.push_back({merge.substr(0, space) + merge.substr(space + 1)});
    }
    pieces.push_back({"<s>", TokenKind::kControl});
    pieces.push_back({"</s>", TokenKind::kControl});
    pieces.push_back({"<tag>", TokenKind::kUserDefined});
    const auto bos = static_cast<std::uint32_t>(pieces.size() - 3);
    Metadata metadata = tiny_metadata("gpt2", pre, pieces);
    set_array(metadata, "tokenizer.ggml.merges", merges);
    metadata.set("tokenizer.ggml.bos_token_id", bos);
    metadata.set("tokenizer.ggml.eos_token_id", bos + 1);
    return metadata;
}

// <unk> <s> </s>, 256 byte tokens, runs of two and three spaces, then `pieces` with falling scores.
inline Metadata tiny_scored(const std::vector<std::string>& pieces, bool with_bytes = true) {
    std::vector<TinyPiece> all = {{"<unk>", TokenKind::kUnknown},
                                  {"<s>", TokenKind::kControl},
                                  {"</s>", TokenKind::kControl}};
    for (int byte = 0; with_bytes && byte < 256; ++byte) {
        static constexpr char kHex[] = "0123456789ABCDEF";
        all.push_back(
            {std::string("<0x") + kHex[byte / 16] + kHex[byte % 16] + ">", TokenKind::kByte});
    }
    all.push_back({"  ", TokenKind::kUserDefined, -1000});
    all.push_back({"   ", TokenKind::kUserDefined, -1000});
    float score = 0;
    for (const std::string& piece : pieces) all.push_back({piece, TokenKind::kNormal, score--});
    Metadata metadata = tiny_metadata("llama", "default", all);
    metadata.set("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
    metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    return metadata;
}

// The pieces of an encoding, for readable checks.
inline std::vector<std::string> cut(const Tokenizer& tokenizer, std::string_view text,
                                    bool parse_special = false) {
    std::vector<std::string> out;
    EncodeText how;
    how.add_special = false;
    how.parse_special = parse_special;
    for (const Token token : tokenizer.encode(text, how)) {
        out.push_back(tokenizer.piece(token, true));
    }
    return out;
}

}  // namespace thimble::test
