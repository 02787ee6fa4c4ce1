// SPDX-License-Identifier: Apache-2.0
#include "eval/context_task.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kTokensOverGold = 16;
constexpr const char* kPlain = "none";

const std::string& shown(const ContextTurn& turn) {
    return turn.shown.empty() ? turn.gold.answers.front() : turn.shown;
}

// The text, then for each turn what stands from its predecessor's question to its answer.
std::vector<std::vector<Token>> pieces_of(const Tokenizer& tokenizer, std::string_view form,
                                          const std::string& text,
                                          std::span<const ContextTurn> turns) {
    if (!is_plain_context(tokenizer, form)) {
        std::vector<ChatMessage> messages;
        for (const ContextTurn& turn : turns) {
            if (messages.empty()) {
                messages.push_back({"user", text + "\n\n" + turn.question});
                continue;
            }
            messages.push_back({"assistant", shown(*(&turn - 1))});
            messages.push_back({"user", turn.question});
        }
        return encode_chat_pieces(tokenizer, form, messages, text.size());
    }
    std::vector<std::vector<Token>> out = {tokenizer.encode(text, {})};
    std::string before;
    for (const ContextTurn& turn : turns) {
        out.push_back(encode_rest(tokenizer, before + "\n\n" + turn.question + "\nAnswer:"));
        before = " " + shown(turn);
    }
    return out;
}

}  // namespace

bool is_plain_context(const Tokenizer& tokenizer, std::string_view form) {
    return form == kPlain || (form.empty() && tokenizer.chat_template().empty());
}

std::int64_t context_text_tokens(const Tokenizer& tokenizer, std::string_view form,
                                 const std::string& text) {
    const ContextTurn none{.question = "?", .gold = {{"?"}}};
    return std::ssize(pieces_of(tokenizer, form, text, {&none, 1}).front());
}

EncodedContext encode_context(const Tokenizer& tokenizer, std::string_view form,
                              const ContextItem& item, bool multi_turn) {
    EncodedContext out;
    const auto pieces = [&](const std::string& text, std::span<const ContextTurn> turns) {
        return pieces_of(tokenizer, form, text, turns);
    };
    const std::span<const ContextTurn> turns = item.turns;
    auto all = pieces(item.text, multi_turn ? turns : turns.first(1));
    out.text = std::move(all[0]);
    for (std::size_t i = 0; i < turns.size(); ++i) {
        EncodedTurn& turn = out.turns.emplace_back();
        const bool later = i > 0 && !multi_turn;
        // The pieces after the text do not depend on it.
        turn.question = later ? pieces("x", turns.subspan(i, 1))[1] : std::move(all[i + 1]);
        turn.most_tokens = turns[i].most_tokens;
        if (turn.most_tokens == 0)
            turn.most_tokens =
                std::ssize(encode_rest(tokenizer, shown(turns[i]))) + kTokensOverGold;
    }
    return out;
}

}  // namespace thimble::eval
