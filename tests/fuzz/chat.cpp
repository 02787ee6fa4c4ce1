// SPDX-License-Identifier: Apache-2.0
// Any bytes as a chat template and a message, divided by a zero byte: an Error, or a rendering
// whose message holds no control token of its own.
#include <algorithm>

#include "tokenizer_checks.h"

using namespace thimble;

namespace {

// Every byte, and the control tokens that the known forms write.
Metadata vocabulary(std::string_view chat_template) {
    std::vector<std::string> pieces;
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(static_cast<unsigned char>(byte));
        append_spelled(pieces.emplace_back(), std::string_view(&c, 1));
    }
    std::vector<std::int32_t> kinds(pieces.size(), static_cast<int>(TokenKind::kNormal));
    for (const char* text : {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>",
                             "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>",
                             "<|eot_id|>", "<|user|>", "<|assistant|>", "<|system|>"}) {
        pieces.emplace_back(text);
        kinds.push_back(static_cast<int>(TokenKind::kControl));
    }
    Metadata metadata("fuzz");
    const auto set = [&](const char* key, MetaElements elements) {
        metadata.set(key, std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
    };
    metadata.set("tokenizer.ggml.model", std::string("gpt2"));
    metadata.set("tokenizer.ggml.pre", std::string("gpt-2"));
    set("tokenizer.ggml.tokens", std::move(pieces));
    set("tokenizer.ggml.token_type", std::move(kinds));
    set("tokenizer.ggml.merges", std::vector<std::string>{});
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{256});
    metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{257});
    metadata.set("tokenizer.chat_template", std::string(chat_template));
    return metadata;
}

std::ptrdiff_t controls(const std::vector<Token>& tokens) {
    return std::count_if(tokens.begin(), tokens.end(), [](Token t) { return t >= 256; });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const std::size_t zero = std::min(input.find('\0'), size);
    const std::string message(input.substr(std::min(zero + 1, size)));
    const std::unique_ptr<Tokenizer> tokenizer =
        tokenizer_from_metadata(vocabulary(input.substr(0, zero)));
    std::vector<std::string> forms = chat_forms();
    forms.emplace_back();  // recognised from the template
    for (const std::string& form : forms) {
        for (const char* role : {"user", "system"}) {
            try {
                const ChatMessage given[] = {{role, message}}, blank[] = {{role, "x"}};
                const auto tokens = encode_chat(*tokenizer, form, given, true);
                if (controls(tokens) != controls(encode_chat(*tokenizer, form, blank, true))) {
                    std::abort();
                }
                if (tokenizer->decode(tokens, true) != render_chat(*tokenizer, form, given, true)) {
                    std::abort();
                }
            } catch (const Error& e) {
                if (e.exit() != Exit::kUsage) std::abort();
            }
        }
    }
    return 0;
}
