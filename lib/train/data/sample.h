// SPDX-License-Identifier: Apache-2.0
// A record of a data file as tokens, with the ones that are learnt. Forms of a JSON line, told by
// their keys in this order (other keys are ignored):
//   {"messages": [{"role", "content"}, ...]}    through the model's chat template; learnt are the
//       assistant's contents with the text that ends the turn, but for messages with "weight": 0
//   {"conversations": [{"from", "value"}, ...]} the same, with human and gpt for user and assistant
//   {"prompt", "completion"}                    two texts, or two lists of messages, of which the
//       completion's are learnt
//   {"instruction", "input"?, "output", "system"?} the same as messages: instruction and input, one
//       under the other, are the user's, the output the assistant's
//   {"text"}                                    learnt as a whole
// Prompt and completion are encoded as one text where that leaves the prompt's tokens as they are;
// otherwise each alone, which is what the model meets when it goes on from the prompt.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "text/tokenizer.h"
#include "train/data/options.h"

namespace thimble::train {

struct TrainingSample {
    std::vector<Token> tokens;
    std::vector<std::uint8_t> is_target;  // token i is learnt, from the ones before; 0: ignored
    // Tokens that can be learnt: the first one has nothing before it.
    [[nodiscard]] std::int64_t targets() const noexcept;
};

enum class SampleForm : std::uint8_t {
    kMessages,
    kConversations,
    kCompletion,
    kInstruction,
    kText
};
[[nodiscard]] std::string_view name(SampleForm form) noexcept;
// Error(kBadData) naming `where` when the record is of none.
[[nodiscard]] SampleForm sample_form(const Json& record, const std::string& where);

class SampleEncoder {
  public:
    // Keeps the reference to the tokenizer.
    SampleEncoder(const DataOptions& options, const Tokenizer& tokenizer);

    // Error(kBadData) naming `where`: a key of another type, an empty text, roles that the chat
    // template does not have, tools, nothing to learn. Error(kUsage): no template, no EOS token.
    [[nodiscard]] TrainingSample encode(const Json& record, SampleForm form,
                                        const std::string& where) const;
    // A plain text, or the next block of one.
    [[nodiscard]] TrainingSample encode_text(std::string_view text, bool ends_document) const;

    // BOS, if samples begin with it; each part of one that is split does, too.
    [[nodiscard]] Token bos() const noexcept { return tokenizer_.bos(); }

  private:
    struct Turn {
        ChatMessage message;
        bool learnt = false;
    };
    [[nodiscard]] std::vector<Turn> turns_of(const Json& record, SampleForm form,
                                             const std::string& where) const;
    [[nodiscard]] TrainingSample encode_turns(const std::vector<Turn>& turns,
                                              const std::string& where) const;
    [[nodiscard]] TrainingSample encode_completion(const std::string& prompt,
                                                   const std::string& completion) const;
    [[nodiscard]] std::vector<Token> encode_tokens(std::string_view text, bool special) const;
    void end(std::vector<Token>& tokens) const;

    const Tokenizer& tokenizer_;
    std::string chat_template_;
    bool mask_prompt_, add_eos_, parse_special_;
    bool vocabulary_ends_;  // texts with EOS, by its own rule
};

}  // namespace thimble::train
