// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tiny_model.h"

#include <memory>

#include "model/source.h"
#include "text/tokenizer.h"

namespace thimble::test {
namespace {

struct Pieces {
    std::vector<std::string> texts;
    std::vector<std::int32_t> kinds;
    void add(std::string text, TokenKind kind) {
        texts.push_back(std::move(text));
        kinds.push_back(static_cast<std::int32_t>(kind));
    }
};

Pieces make_pieces(std::size_t count) {
    Pieces pieces;
    pieces.add("<unk>", TokenKind::kUnknown);
    for (const char* control : {"<s>", "</s>", "<|im_start|>", "<|im_end|>"})
        pieces.add(control, TokenKind::kControl);
    pieces.add("\xe2\x96\x81", TokenKind::kNormal);  // a space
    pieces.add("\n", TokenKind::kNormal);
    // From the end, where the letters are: the smallest models have not room for all.
    for (char c = '~'; c > ' ' && pieces.texts.size() < count; --c)
        pieces.add(std::string(1, c), TokenKind::kNormal);
    while (pieces.texts.size() < count)
        pieces.add("<unused" + std::to_string(pieces.texts.size()) + ">", TokenKind::kUnused);
    return pieces;
}

}  // namespace

ModelCopy tiny_model(const std::string& golden_name, const std::string& format) {
    const auto source = ModelSource::open(golden_directory(golden_name));
    ModelCopy copy = ModelCopy::as_gguf(*source, format);
    Pieces pieces = make_pieces(static_cast<std::size_t>(source->spec().vocab));
    std::vector<float> scores(pieces.texts.size(), 0.0f);
    const auto set_array = [&](const std::string& name, MetaElements elements) {
        copy.metadata.set("tokenizer.ggml." + name,
                          std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
    };
    copy.metadata.set("tokenizer.ggml.model", std::string("llama"));
    set_array("tokens", std::move(pieces.texts));
    set_array("token_type", std::move(pieces.kinds));
    set_array("scores", std::move(scores));
    copy.metadata.set("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
    copy.metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
    copy.metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
    copy.metadata.set("tokenizer.chat_template", std::string("<|im_start|> <|im_end|>"));
    return copy;
}

void write_tiny_model(const std::string& path, const std::string& golden_name,
                      const std::string& format) {
    tiny_model(golden_name, format).write_gguf(path);
}

}  // namespace thimble::test
