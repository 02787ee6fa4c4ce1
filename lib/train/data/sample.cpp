// SPDX-License-Identifier: Apache-2.0
#include "train/data/sample.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"

namespace thimble::train {
namespace {

Error bad(const std::string& where, std::string what, std::string hint = {}) {
    return {Exit::kBadData, where, std::move(what), std::move(hint)};
}

const std::string& text_of(const Json& record, const char* key, const std::string& where) {
    const Json* value = record.find(key);
    if (value == nullptr || !value->is_string())
        throw bad(where, std::string("'") + key + "' must be a text");
    return value->as_string(where);
}

const Json& list_of(const Json& record, const char* key, const std::string& where) {
    const Json& list = *record.find(key);
    if (!list.is_array() || list.as_array(where).empty())
        throw bad(where, std::string("'") + key + "' must be a list of messages");
    return list;
}

bool is_given(const Json& record, const char* key) {
    const Json* value = record.find(key);
    return value != nullptr && !value->is_null() &&
           !(value->is_array() && value->as_array("").empty());
}

void refuse_tools(const Json& record, const std::string& where) {
    for (const char* key : {"tools", "tool_calls", "function_call", "functions"}) {
        if (is_given(record, key)) {
            throw bad(where, std::string("has '") + key + "', which no known chat template writes",
                      "render such records and give them as text");
        }
    }
}

// OpenAI's mark of turns that are not learnt.
bool has_weight(const Json& message, const std::string& where) {
    const Json* weight = message.find("weight");
    if (weight == nullptr || weight->is_null()) return true;
    const double value = weight->is_number() ? weight->as_double(where) : -1;
    if (value != 0 && value != 1) throw bad(where, "'weight' must be 0 or 1");
    return value == 1;
}

bool is_answer(const ChatMessage& message) {
    return message.role == "assistant" || message.role == "model";
}

// ShareGPT's names.
std::string role_of(const std::string& from) {
    static constexpr std::array<std::array<const char*, 2>, 3> kRoles = {
        {{"human", "user"}, {"gpt", "assistant"}, {"chatgpt", "assistant"}}};
    for (const auto& [name, role] : kRoles)
        if (from == name) return role;
    return from;
}

}  // namespace

std::int64_t TrainingSample::targets() const noexcept {
    return is_target.empty() ? 0 : std::count(is_target.begin() + 1, is_target.end(), 1);
}

std::string_view name(SampleForm form) noexcept {
    static constexpr std::array<std::string_view, 5> kNames = {
        "messages", "conversations", "prompt and completion", "instruction and output", "text"};
    return kNames[static_cast<std::size_t>(form)];
}

SampleForm sample_form(const Json& record, const std::string& where) {
    if (!record.is_object()) throw bad(where, "a record is an object");
    const auto has = [&](const char* key) { return record.find(key) != nullptr; };
    if (has("messages")) return SampleForm::kMessages;
    if (has("conversations")) return SampleForm::kConversations;
    if (has("prompt") && has("completion")) return SampleForm::kCompletion;
    if (has("instruction") && has("output")) return SampleForm::kInstruction;
    if (has("text")) return SampleForm::kText;
    throw bad(where, "has none of the known forms",
              "a record has 'messages', 'conversations', 'prompt' and 'completion', 'instruction' "
              "and 'output', or 'text'");
}

SampleEncoder::SampleEncoder(const DataOptions& options, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      chat_template_(options.chat_template),
      mask_prompt_(options.mask_prompt),
      add_eos_(options.add_eos),
      parse_special_(options.parse_special) {
    const std::vector<Token> empty = tokenizer.encode("", {});
    const std::size_t begins = !empty.empty() && empty.front() == tokenizer.bos() ? 1 : 0;
    vocabulary_ends_ = empty.size() > begins && empty.back() == tokenizer.eos();
}

TrainingSample SampleEncoder::encode(const Json& record, SampleForm form,
                                     const std::string& where) const {
    refuse_tools(record, where);
    TrainingSample sample;
    if (form == SampleForm::kText) {
        const std::string& text = text_of(record, "text", where);
        if (text.empty()) throw bad(where, "'text' is empty", "remove the line");
        sample = encode_text(text, true);
    } else if (form == SampleForm::kCompletion && record.find("prompt")->is_string()) {
        const std::string& completion = text_of(record, "completion", where);
        if (completion.empty()) throw bad(where, "'completion' is empty", "remove the line");
        sample = encode_completion(text_of(record, "prompt", where), completion);
    } else {
        sample = encode_turns(turns_of(record, form, where), where);
    }
    if (sample.targets() == 0) {
        throw bad(where, "has nothing to learn",
                  mask_prompt_ && form != SampleForm::kText
                      ? "it needs an answer, or --no-mask-prompt"
                      : "it needs two tokens or more; remove the line");
    }
    return sample;
}

std::vector<SampleEncoder::Turn> SampleEncoder::turns_of(const Json& record, SampleForm form,
                                                         const std::string& where) const {
    std::vector<Turn> turns;
    const auto add = [&](std::string role, const std::string& content, bool learnt) {
        turns.push_back({{std::move(role), content}, learnt});
        turns.back().learnt = !mask_prompt_ || (learnt && is_answer(turns.back().message));
    };
    const auto add_list = [&](const char* key, const char* role, const char* content, bool learnt) {
        for (const Json& message : list_of(record, key, where).as_array(where)) {
            if (!message.is_object()) throw bad(where, "a message is an object");
            refuse_tools(message, where);
            const std::string& who = text_of(message, role, where);
            add(form == SampleForm::kConversations ? role_of(who) : who,
                text_of(message, content, where), learnt && has_weight(message, where));
        }
    };
    switch (form) {
        case SampleForm::kMessages:
            add_list("messages", "role", "content", true);
            break;
        case SampleForm::kConversations:
            add_list("conversations", "from", "value", true);
            break;
        case SampleForm::kCompletion:
            add_list("prompt", "role", "content", false);
            if (!record.find("completion")->is_array())
                throw bad(where, "'prompt' is a list of messages and 'completion' is none");
            add_list("completion", "role", "content", true);
            break;
        default: {
            std::string user = text_of(record, "instruction", where);
            if (is_given(record, "input")) {
                const std::string& input = text_of(record, "input", where);
                user += (user.empty() || input.empty() ? "" : "\n") + input;
            }
            if (is_given(record, "system") && !text_of(record, "system", where).empty())
                add("system", text_of(record, "system", where), false);
            add("user", user, false);
            add("assistant", text_of(record, "output", where), true);
        }
    }
    return turns;
}

TrainingSample SampleEncoder::encode_turns(const std::vector<Turn>& turns,
                                           const std::string& where) const {
    std::vector<ChatMessage> messages;
    for (const Turn& turn : turns) messages.push_back(turn.message);
    (void)render_chat(tokenizer_, chat_template_, {}, false);  // a fault here is not the record's
    TrainingSample sample;
    try {
        ChatTokens chat = encode_chat_turns(tokenizer_, chat_template_, messages);
        sample.tokens = std::move(chat.tokens);
        sample.is_target.assign(sample.tokens.size(), mask_prompt_ ? 0 : 1);
        for (std::size_t i = 0; mask_prompt_ && i < turns.size(); ++i) {
            const ChatTurn& place = chat.turns[i];
            for (std::size_t t = place.begin; turns[i].learnt && t < place.end; ++t)
                sample.is_target[t] = 1;
        }
    } catch (const Error& error) {
        if (error.exit() != Exit::kUsage && error.exit() != Exit::kBadData) throw;
        throw bad(where, error.problem(), error.hint());
    }
    return sample;
}

std::vector<Token> SampleEncoder::encode_tokens(std::string_view text, bool special) const {
    EncodeText how;
    how.add_special = special;
    how.parse_special = parse_special_;
    std::vector<Token> tokens = tokenizer_.encode(text, how);
    if (!special) return tokens;
    // A text that was rendered with BOS does not get another one.
    const Token bos = tokenizer_.bos();
    if (tokens.size() > 1 && bos >= 0 && tokens[0] == bos && tokens[1] == bos)
        tokens.erase(tokens.begin());
    if (vocabulary_ends_ && !tokens.empty()) tokens.pop_back();  // end() says whether this one does
    return tokens;
}

void SampleEncoder::end(std::vector<Token>& tokens) const {
    if (!add_eos_) return;
    const Token eos = tokenizer_.eos();
    if (eos < 0) {
        throw Error(Exit::kUsage, "--add-eos", "the model's vocabulary has no EOS token",
                    "give --no-add-eos");
    }
    if (tokens.empty() || tokens.back() != eos) tokens.push_back(eos);
}

TrainingSample SampleEncoder::encode_text(std::string_view text, bool ends_document) const {
    TrainingSample sample;
    sample.tokens = encode_tokens(text, true);
    if (ends_document) end(sample.tokens);
    sample.is_target.assign(sample.tokens.size(), 1);
    return sample;
}

TrainingSample SampleEncoder::encode_completion(const std::string& prompt,
                                                const std::string& completion) const {
    TrainingSample sample;
    const std::vector<Token> first = encode_tokens(prompt, true);
    sample.tokens = encode_tokens(prompt + completion, true);
    const bool joins = sample.tokens.size() > first.size() &&
                       std::equal(first.begin(), first.end(), sample.tokens.begin());
    if (!joins) {
        const std::vector<Token> rest = encode_tokens(completion, false);
        sample.tokens = first;
        sample.tokens.insert(sample.tokens.end(), rest.begin(), rest.end());
    }
    end(sample.tokens);
    sample.is_target.assign(sample.tokens.size(), 1);
    if (mask_prompt_)
        std::fill_n(sample.is_target.begin(), std::min(first.size(), sample.tokens.size()), 0);
    return sample;
}

}  // namespace thimble::train
