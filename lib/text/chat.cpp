// SPDX-License-Identifier: Apache-2.0
// Chat templates by form. What a template in a file says is only ever searched for the marks of a
// known form; no text of it is executed, and only a default system message is taken from it.
#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "core/strings.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace thimble {
namespace {

class Chat {
  public:
    void add(std::string_view text) { text_ += text; }
    void add_content(std::string_view content) {
        literal_.push_back({text_.size(), text_.size() + content.size()});
        text_ += content;
    }
    // A message's content and what ends its turn.
    void add_turn(std::string_view content, std::string_view end) {
        turns_.push_back({text_.size(), text_.size() + content.size() + end.size()});
        add_content(content);
        add(end);
    }
    void add_no_turn() { turns_.emplace_back(); }  // the message stands within another's
    [[nodiscard]] const std::string& text() const noexcept { return text_; }
    [[nodiscard]] const std::vector<TextRange>& literal() const noexcept { return literal_; }
    [[nodiscard]] const std::vector<TextRange>& turns() const noexcept { return turns_; }

  private:
    std::string text_;
    std::vector<TextRange> literal_, turns_;
};

Error bad_message(const std::string& what) { return {Exit::kUsage, "chat message", what}; }

constexpr bool is_trimmed(const Char& c) {
    return c.kind == CharClass::kSpace || (c.code >= 0x1c && c.code <= 0x1f);
}

// Without the spaces at both ends, as the template language's trim filter does.
std::string_view trim(std::string_view text) {
    for (Char c = char_at(text, 0); c.bytes > 0 && is_trimmed(c); c = char_at(text, 0)) {
        text.remove_prefix(c.bytes);
    }
    while (!text.empty()) {
        std::size_t last = text.size() - 1;
        while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
        if (!is_trimmed(char_at(text, last))) break;
        text = text.substr(0, last);
    }
    return text;
}

// The default system message of a chatml template: the one it writes out in full between a system
// mark and the end mark, as a literal of the template language.
std::optional<std::string> default_system(std::string_view source) {
    static constexpr std::string_view kOpen = "<|im_start|>system", kClose = "<|im_end|>";
    for (std::size_t at = source.find(kOpen); at != std::string_view::npos;
         at = source.find(kOpen, at + 1)) {
        std::string_view rest = source.substr(at + kOpen.size());
        if (rest.starts_with("\\n")) {
            rest.remove_prefix(2);
        } else if (rest.starts_with('\n')) {
            rest.remove_prefix(1);
        } else {
            continue;
        }
        const std::string_view message = rest.substr(0, rest.find(kClose));
        if (message.size() == rest.size() ||
            message.find_first_of("'\"{}\\") != std::string_view::npos) {
            continue;
        }
        return std::string(message);
    }
    return std::nullopt;
}

void render_chatml(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool prompt,
                   Chat& chat) {
    if (!messages.empty() && messages[0].role != "system") {
        if (const auto system = default_system(tokenizer.chat_template())) {
            chat.add("<|im_start|>system\n");
            chat.add_content(*system);
            chat.add("<|im_end|>\n");
        }
    }
    for (const ChatMessage& message : messages) {
        chat.add("<|im_start|>");
        chat.add_content(message.role);
        chat.add("\n");
        chat.add_turn(message.content, "<|im_end|>");
        chat.add("\n");
    }
    if (prompt) chat.add("<|im_start|>assistant\n");
}

void render_gemma(const Tokenizer&, std::span<const ChatMessage> messages, bool prompt,
                  Chat& chat) {
    std::string_view system;
    const bool has_system = !messages.empty() && messages[0].role == "system";
    if (has_system) {
        system = messages[0].content;
        messages = messages.subspan(1);
        chat.add_no_turn();
    }
    for (std::size_t i = 0; i < messages.size(); ++i) {
        const bool user = messages[i].role == "user";
        const bool model = messages[i].role == "assistant" || messages[i].role == "model";
        if (user != (i % 2 == 0) || (!user && !model)) {
            throw bad_message("turn " + std::to_string(i + 1) + " has the role '" +
                              escaped(messages[i].role) +
                              "'; the gemma form alternates user and assistant");
        }
        chat.add(user ? "<start_of_turn>user\n" : "<start_of_turn>model\n");
        if (i == 0 && has_system) {
            chat.add_content(system);
            chat.add("\n\n");
        }
        chat.add_turn(trim(messages[i].content), "<end_of_turn>");
        chat.add("\n");
    }
    if (prompt) chat.add("<start_of_turn>model\n");
}

void render_llama3(const Tokenizer&, std::span<const ChatMessage> messages, bool prompt,
                   Chat& chat) {
    for (const ChatMessage& message : messages) {
        chat.add("<|start_header_id|>");
        chat.add_content(message.role);
        chat.add("<|end_header_id|>\n\n");
        chat.add_turn(trim(message.content), "<|eot_id|>");
    }
    if (prompt) chat.add("<|start_header_id|>assistant<|end_header_id|>\n\n");
}

void render_zephyr(const Tokenizer& tokenizer, std::span<const ChatMessage> messages, bool prompt,
                   Chat& chat) {
    for (const ChatMessage& message : messages) {
        if (message.role != "system" && message.role != "user" && message.role != "assistant") {
            throw bad_message("the role '" + escaped(message.role) +
                              "' is not system, user or assistant");
        }
        chat.add("<|" + message.role + "|>\n");
        chat.add_turn(message.content, tokenizer.piece(tokenizer.eos(), true));
        chat.add("\n");
    }
    if (prompt) chat.add("<|assistant|>\n");
}

struct Form {
    std::string_view name;
    std::string_view mark, also;  // a template of this form holds both
    bool bos;                     // the text starts with the BOS token
    void (*render)(const Tokenizer&, std::span<const ChatMessage>, bool prompt, Chat&);
};
constexpr std::array<Form, 4> kForms = {{
    {"chatml", "<|im_start|>", "<|im_end|>", false, render_chatml},
    {"gemma", "<start_of_turn>", "<end_of_turn>", true, render_gemma},
    {"llama3", "<|start_header_id|>", "<|eot_id|>", true, render_llama3},
    {"zephyr", "<|user|>", "eos_token", false, render_zephyr},
}};

const Form& choose_form(const Tokenizer& tokenizer, std::string_view name) {
    static constexpr const char* kFlag = "--chat-template";
    if (!name.empty()) {
        for (const Form& form : kForms) {
            if (form.name == name) return form;
        }
        throw Error(Exit::kUsage, kFlag, "unknown chat form '" + escaped(name) + "'",
                    did_you_mean(name, chat_forms()));
    }
    std::string known;
    for (const Form& form : kForms) known += (known.empty() ? "" : ", ") + std::string(form.name);
    const std::string& source = tokenizer.chat_template();
    if (source.empty()) {
        throw Error(Exit::kUsage, kFlag, "the model has no chat template", "name one: " + known);
    }
    for (const Form& form : kForms) {
        const bool matches = source.find(form.mark) != std::string::npos &&
                             source.find(form.also) != std::string::npos;
        // Some llama3 templates write a knowledge date and today's date, which is not this form.
        if (matches && source.find("Cutting Knowledge Date") == std::string::npos) return form;
    }
    throw Error(Exit::kUsage, kFlag, "the model's chat template is of no known form",
                "name one: " + known);
}

Chat render(const Tokenizer& tokenizer, const Form& form, std::span<const ChatMessage> messages,
            bool add_generation_prompt) {
    Chat chat;
    if (form.bos && tokenizer.bos() >= 0) chat.add(tokenizer.piece(tokenizer.bos(), true));
    form.render(tokenizer, messages, add_generation_prompt, chat);
    return chat;
}

// The tokens of a part of the text, encoded alone.
void encode_part(const Tokenizer& tokenizer, const Chat& chat, const TextRange& part,
                 std::vector<Token>& out) {
    std::vector<TextRange> literal;
    const auto& all = chat.literal();
    auto range =
        std::upper_bound(all.begin(), all.end(), part.begin,
                         [](std::size_t begin, const TextRange& r) { return begin < r.end; });
    for (; range != all.end() && range->begin < part.end; ++range) {
        literal.push_back({std::max(range->begin, part.begin) - part.begin,
                           std::min(range->end, part.end) - part.begin});
    }
    EncodeText how;
    how.add_special = false;
    how.parse_special = true;
    how.literal = literal;
    const auto tokens = tokenizer.encode(
        std::string_view(chat.text()).substr(part.begin, part.end - part.begin), how);
    out.insert(out.end(), tokens.begin(), tokens.end());
}

std::vector<Token> encode(const Tokenizer& tokenizer, const Chat& chat) {
    std::vector<Token> tokens;
    encode_part(tokenizer, chat, {0, chat.text().size()}, tokens);
    return tokens;
}

bool puts_space_before(const Tokenizer& tokenizer) {
    EncodeText how;
    how.add_special = false;
    const std::vector<Token> tokens = tokenizer.encode("x", how);
    return !tokens.empty() && tokenizer.piece(tokens[0], true).starts_with(' ');
}

// Of a text that others precede: the space that the vocabulary put before it.
void drop_first_space(const Tokenizer& tokenizer, std::vector<Token>& tokens) {
    if (!tokens.empty() && tokenizer.piece(tokens[0], true) == " " && puts_space_before(tokenizer))
        tokens.erase(tokens.begin());
}

// Of the assistant's messages; empty ranges for the others.
std::vector<TextRange> answers(const Chat& chat, std::span<const ChatMessage> messages) {
    std::vector<TextRange> turns = chat.turns();
    for (std::size_t i = 0; i < turns.size(); ++i)
        if (messages[i].role != "assistant" && messages[i].role != "model") turns[i] = {};
    return turns;
}

ChatTokens encode_parts(const Tokenizer& tokenizer, const Chat& chat,
                        std::span<const TextRange> turns) {
    ChatTokens out;
    std::size_t at = 0;
    for (const TextRange& turn : turns) {
        ChatTurn& place = out.turns.emplace_back();
        if (turn.end == turn.begin) continue;
        encode_part(tokenizer, chat, {at, turn.begin}, out.tokens);
        place.begin = out.tokens.size();
        encode_part(tokenizer, chat, turn, out.tokens);
        place.end = out.tokens.size();
        at = turn.end;
    }
    encode_part(tokenizer, chat, {at, chat.text().size()}, out.tokens);
    return out;
}

// Parts would begin with a space of their own: the turns' tokens are found by their bytes.
ChatTokens encode_whole(const Tokenizer& tokenizer, const Chat& chat,
                        std::span<const TextRange> turns) {
    ChatTokens out;
    out.tokens = encode(tokenizer, chat);
    std::vector<std::size_t> ends;  // of each token, in bytes
    const std::string_view text = chat.text();
    std::size_t end = 0;
    for (const Token token : out.tokens) {
        const std::string piece = tokenizer.piece(token, true);
        const std::string_view rest = text.substr(end);
        const bool extra = !rest.starts_with(piece) && piece.starts_with(' ');  // not in the text
        if (!rest.starts_with(std::string_view(piece).substr(extra ? 1 : 0)))
            throw Error(Exit::kBadData, "chat message", "has characters outside the vocabulary");
        end += piece.size() - (extra ? 1 : 0);
        ends.push_back(end);
    }
    for (const TextRange& turn : turns) {
        ChatTurn& place = out.turns.emplace_back();
        if (turn.end == turn.begin) continue;
        // The token before the turn ends at its first byte, or reaches into it.
        const auto before = std::lower_bound(ends.begin(), ends.end(), turn.begin);
        const auto last = std::lower_bound(before, ends.end(), turn.end);
        const std::ptrdiff_t whole = last != ends.end() && *last == turn.end ? 1 : 0;
        place.begin = static_cast<std::size_t>(before - ends.begin()) + 1;
        place.end = std::max(place.begin, static_cast<std::size_t>(last - ends.begin() + whole));
    }
    return out;
}

}  // namespace

std::vector<std::vector<Token>> encode_chat_pieces(const Tokenizer& tokenizer,
                                                   std::string_view form,
                                                   std::span<const ChatMessage> messages,
                                                   std::size_t cut) {
    const Chat chat = render(tokenizer, choose_form(tokenizer, form), messages, true);
    const std::vector<TextRange> turns = answers(chat, messages);
    const TextRange first = chat.turns().at(0);
    std::vector<std::size_t> borders = {0, std::min(first.begin + cut, first.end)};
    for (const TextRange& turn : turns)
        if (turn.end > turn.begin) borders.push_back(turn.begin);
    borders.push_back(chat.text().size());
    std::vector<std::vector<Token>> out;
    for (std::size_t i = 0; i + 1 < borders.size(); ++i) {
        std::vector<Token>& piece = out.emplace_back();
        encode_part(tokenizer, chat, {borders[i], borders[i + 1]}, piece);
        if (i > 0) drop_first_space(tokenizer, piece);
    }
    return out;
}

std::vector<Token> encode_rest(const Tokenizer& tokenizer, std::string_view text,
                               bool parse_special) {
    EncodeText how;
    how.add_special = false;
    how.parse_special = parse_special;
    std::vector<Token> out = tokenizer.encode(text, how);
    drop_first_space(tokenizer, out);
    return out;
}

std::vector<std::string> chat_forms() {
    std::vector<std::string> names;
    for (const Form& form : kForms) names.emplace_back(form.name);
    return names;
}

std::string render_chat(const Tokenizer& tokenizer, std::string_view form,
                        std::span<const ChatMessage> messages, bool add_generation_prompt) {
    return render(tokenizer, choose_form(tokenizer, form), messages, add_generation_prompt).text();
}

std::vector<Token> encode_chat(const Tokenizer& tokenizer, std::string_view form,
                               std::span<const ChatMessage> messages, bool add_generation_prompt) {
    return encode(tokenizer,
                  render(tokenizer, choose_form(tokenizer, form), messages, add_generation_prompt));
}

ChatTokens encode_chat_turns(const Tokenizer& tokenizer, std::string_view form,
                             std::span<const ChatMessage> messages) {
    const Chat chat = render(tokenizer, choose_form(tokenizer, form), messages, false);
    const std::vector<TextRange> turns = answers(chat, messages);
    return puts_space_before(tokenizer) ? encode_whole(tokenizer, chat, turns)
                                        : encode_parts(tokenizer, chat, turns);
}

}  // namespace thimble
