// SPDX-License-Identifier: Apache-2.0
// Vocabularies and files for the tests of training data.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/json.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/text/support.h"
#include "train/data/data_set.h"

namespace thimble::test {

using namespace train;

// Every byte a token (id = byte), "ab" and "\n\n" merged, and the marks of the chat forms. BOS is
// put before texts only if asked.
inline std::unique_ptr<Tokenizer> data_tokenizer(const std::string& chat_template,
                                                 bool add_bos = false, bool eos = true) {
    std::vector<TinyPiece> pieces;
    const auto spelled = [](std::string_view bytes) {
        std::string out;
        append_spelled(out, bytes);
        return out;
    };
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(static_cast<unsigned char>(byte));
        pieces.push_back({spelled(std::string_view(&c, 1))});
    }
    for (const char* mark :
         {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>",
          "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"})
        pieces.push_back({mark, TokenKind::kControl});
    pieces.push_back({"ab"});
    pieces.push_back({spelled("\n\n")});
    // "\n\n" before a letter is two words for GPT-2, one for Llama 3.
    const bool llama3 = chat_template.find("<|eot_id|>") != std::string::npos;
    Metadata metadata = tiny_metadata("gpt2", llama3 ? "llama-bpe" : "gpt-2", pieces);
    const std::string newline = spelled("\n");
    set_array(metadata, "tokenizer.ggml.merges",
              std::vector<std::string>{"a b", newline + " " + newline});
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{256});
    if (eos) metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{257});
    metadata.set("tokenizer.ggml.add_bos_token", add_bos);
    metadata.set("tokenizer.chat_template", chat_template);
    return tokenizer_from_metadata(metadata);
}

inline constexpr const char* kChatml = "<|im_start|> <|im_end|>";
inline constexpr const char* kGemma = "<start_of_turn> <end_of_turn>";
inline constexpr const char* kLlama3 = "<|start_header_id|> <|eot_id|>";

// The text of the tokens that are learnt.
inline std::string learnt(const Tokenizer& tokenizer, const train::TrainingSample& sample) {
    std::string out;
    for (std::size_t i = 1; i < sample.tokens.size(); ++i)
        if (sample.is_target[i] != 0) out += tokenizer.piece(sample.tokens[i], true);
    return out;
}

// The error of what `run` does, as "exit: text".
template <class Run>
std::string error_of(const Run& run) {
    try {
        run();
    } catch (const Error& error) {
        return std::to_string(static_cast<int>(error.exit())) + ": " + error.what();
    }
    return "no error";
}

}  // namespace thimble::test
