// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include "text/hf.h"

namespace thimble {

std::unique_ptr<Tokenizer> Tokenizer::open(const ModelFile& file) {
    if (file.container() == Container::kGguf) return tokenizer_from_metadata(file.metadata());
    return tokenizer_from_hf(read_hf_files(file));
}

std::uint64_t Tokenizer::predict_bytes(const ModelFile& file) {
    if (file.container() == Container::kGguf) return predict_vocabulary_bytes(file.metadata());
    return predict_hf_bytes(read_hf_files(file));
}

std::string Tokenizer::decode(std::span<const Token> tokens, bool render_special) const {
    std::string out;
    for (const Token token : tokens) out += piece(token, render_special);
    if (drops_first_space() && out.starts_with(' ')) out.erase(0, 1);
    return out;
}

namespace {

// Bytes of `text` that may be the beginning of a character whose end has not come yet.
std::size_t unfinished(std::string_view text) {
    const std::size_t most = std::min<std::size_t>(3, text.size());
    for (std::size_t back = 1; back <= most; ++back) {
        const auto c = static_cast<unsigned char>(text[text.size() - back]);
        if ((c & 0xc0) == 0x80) continue;
        const std::size_t length = c >= 0xf0 && c <= 0xf4   ? 4
                                   : c >= 0xe0 && c <= 0xef ? 3
                                   : c >= 0xc2 && c <= 0xdf ? 2
                                                            : 1;
        return length > back ? back : 0;
    }
    return 0;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
    pending_ += bytes;
    const std::size_t whole = pending_.size() - unfinished(pending_);
    std::string out = pending_.substr(0, whole);
    pending_.erase(0, whole);
    return out;
}

std::string Utf8Stream::finish() { return std::exchange(pending_, {}); }

}  // namespace thimble
