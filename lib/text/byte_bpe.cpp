// SPDX-License-Identifier: Apache-2.0
#include "core/strings.h"
#include "text/bpe.h"

namespace thimble {

ByteBpe::ByteBpe(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules,
                 const PreTokenizerName& pre)
    : BpeTokenizer(std::move(vocabulary), rules, rules.add_bos.value_or(pre.add_bos),
                   rules.add_eos.value_or(false)),
      pre_(pre) {
    for (int byte = 0; byte < 256; ++byte) {
        std::string spelled;
        append_utf8(spelled, spell_byte(static_cast<std::uint8_t>(byte)));
        const Token token = vocabulary_->find(spelled);
        const bool usable = token >= 0 && vocabulary_->is_text(token);
        byte_tokens_[static_cast<std::size_t>(byte)] = usable ? token : -1;
    }
}

void ByteBpe::encode_plain(std::string_view text, Work& work) const {
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = next_word(pre_.kind, text, at);
        const std::string_view word = text.substr(at, end - at);
        at = end;
        std::vector<Token>& out = *work.out;
        const std::span<const Token> known = work.cache.find(word);
        if (!known.empty()) {
            out.insert(out.end(), known.begin(), known.end());
            continue;
        }
        const std::size_t before = out.size();
        encode_word(word, work);
        work.cache.put(word, std::span(out).subspan(before));
    }
}

void ByteBpe::encode_word(std::string_view word, Work& work) const {
    std::vector<Token>& out = *work.out;
    if (pre_.ignore_merges && word.size() <= Vocabulary::kMaxPieceBytes) {
        work.word.clear();
        append_spelled(work.word, word);
        const Token token = vocabulary_->find(work.word);
        if (token >= 0 && vocabulary_->is_text(token)) {
            out.push_back(token);
            return;
        }
    }
    work.merger.clear();
    for (std::size_t i = 0; i < word.size(); ++i) {
        const Token token = byte_tokens_[static_cast<unsigned char>(word[i])];
        if (token >= 0) work.merger.push(i, 1, token);
    }
    work.merger.run([&](const Symbol& left, const Symbol& right) -> std::optional<MergeResult> {
        const Vocabulary::Merge* merge = vocabulary_->find_merge(left.token, right.token);
        if (merge == nullptr || merge->result < 0) return std::nullopt;
        return MergeResult{merge->rank, merge->result};
    });
    work.merger.for_each([&](const Symbol& symbol) { out.push_back(symbol.token); });
}

std::string ByteBpe::piece(Token token, bool render_special) const {
    if (!vocabulary_->contains(token)) return {};
    const std::string_view text = vocabulary_->piece(token);
    switch (vocabulary_->kind(token)) {
        case TokenKind::kControl:
        case TokenKind::kUnknown:
            return render_special ? std::string(text) : std::string{};
        case TokenKind::kUserDefined:
            return std::string(text);
        default:
            return unspell(text).value_or(std::string(text));
    }
}

}  // namespace thimble
