// SPDX-License-Identifier: Apache-2.0
// What must hold for any tokenizer that opens, whatever its file says.
#pragma once

#include <cstdlib>
#include <memory>

#include "core/error.h"
#include "text/bpe.h"

namespace thimble::fuzz {

// Every token is in range; plain text never becomes a control token; decoding ends.
inline std::vector<Token> check_encoding(const Tokenizer& tokenizer, std::string_view text) {
    std::vector<Token> plain;
    for (const bool special : {true, false}) {
        EncodeText how;
        how.add_special = special;
        how.parse_special = special;
        plain = tokenizer.encode(text, how);
        for (const Token token : plain) {
            if (token < 0 || token >= tokenizer.size()) std::abort();
        }
        (void)tokenizer.decode(plain, special);
    }
    Metadata metadata("again");
    tokenizer.write_vocabulary(metadata);
    const std::int64_t unknown = metadata.find_int("tokenizer.ggml.unknown_token_id").value_or(-1);
    const MetaArray* kinds = metadata.find_array("tokenizer.ggml.token_type");
    for (const Token token : plain) {
        const auto kind =
            std::get<std::vector<std::int32_t>>(kinds->elements)[static_cast<std::size_t>(token)];
        // What no piece covers becomes the unknown token, of whatever kind.
        if (kind == static_cast<int>(TokenKind::kControl) && token != unknown) std::abort();
    }
    return plain;
}

inline constexpr std::string_view kText =
    "Hello, wor\xc3\xb6ld!  </s><s> 1234\t\n\n \xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\x98\x80 e\xcc\x81 "
    "\xff";

// The files for a Hugging Face directory are JSON of the size foretold.
inline void check_hf_files(const Tokenizer& tokenizer) {
    HfTokenizerFiles files;
    try {
        files = tokenizer.hf_files(1);
    } catch (const Error& e) {  // a piece that is not UTF-8, or too long
        if (e.exit() != Exit::kBadData) std::abort();
    }
    for (const SideFile& file : files.files) {
        std::string text;
        file.write([&](std::string_view piece) { text += piece; });
        if (text.size() != file.bytes) std::abort();
        try {
            if (!parse_json(text, file.name).is_object()) std::abort();
        } catch (const Error&) {
            std::abort();
        }
    }
}

// The same, and the vocabulary as written makes the same tokens.
inline void check_tokenizer(const Tokenizer& tokenizer, std::string_view text, bool rewrites) {
    (void)check_encoding(tokenizer, kText);
    const std::vector<Token> tokens = check_encoding(tokenizer, text);
    check_hf_files(tokenizer);
    if (!rewrites) return;
    Metadata metadata("again");
    tokenizer.write_vocabulary(metadata);
    if (check_encoding(*tokenizer_from_metadata(metadata), text) != tokens) std::abort();
}

}  // namespace thimble::fuzz
