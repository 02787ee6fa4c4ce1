// SPDX-License-Identifier: Apache-2.0
// One conversation with a model: the tokens in its KV sequence, and the loop that feeds a prompt
// and generates the answer.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "decode/sampler.h"
#include "decode/subtasks.h"
#include "model/runner.h"
#include "text/tokenizer.h"

namespace thimble {

struct GenerateOptions {
    std::int64_t max_tokens = 256;
    bool ignore_end = false;  // go on after an end-of-text token
    std::vector<std::string> stop;
    SamplerOptions sampling;
    SubtaskOptions subtasks;
    void visit(OptionVisitor& v);
};

enum class StopReason : std::uint8_t { kEnd, kLength, kStopString, kContext, kInterrupted };
[[nodiscard]] std::string_view name(StopReason reason) noexcept;  // "end", "length", ...

struct GenerateStats {
    std::int64_t prompt_tokens = 0;     // of the prompt, those found in the cache included
    std::int64_t cached_tokens = 0;     // found in the cache
    std::int64_t generated_tokens = 0;  // the end token included
    std::int64_t decode_steps = 0;      // steps of one token after the prompt
    double prompt_seconds = 0;          // until the logits of the last prompt token
    double first_token_seconds = 0;     // until the first token is chosen
    double decode_seconds = 0;          // of the decode steps, sampling included
    std::uint64_t decode_bytes = 0;     // state bytes that the decode steps moved
    std::int64_t most_held_tokens = 0;  // in the cache at once
    std::int64_t pruned_subtasks = 0, pruned_tokens = 0;
    std::int64_t reread_tokens = 0;      // computed again as subtasks before them had gone
    double reread_seconds = 0;           // of the steps that did so
    std::vector<TextRange> pruned_text;  // of the answer: what belongs to tokens that have gone
    StopReason reason = StopReason::kLength;

    [[nodiscard]] double prompt_tokens_per_second() const noexcept;
    [[nodiscard]] double decode_tokens_per_second() const noexcept;
    [[nodiscard]] double decode_bytes_per_second() const noexcept;
};

struct GenerateHooks {
    std::function<void(std::string_view)> text;  // whole UTF-8 characters, no stop strings
    std::function<bool()> interrupted;           // asked once per token
};

// Generates from sequences of a runner that others open and close.
class Generator {
  public:
    Generator(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
              std::uint64_t seed);
    // Feeds `prompt`, one token at least, to the sequence and goes on from there for `most_tokens`
    // at most (below 0: without end), whatever the options say. `held`: the sequence's tokens,
    // which grow with it, and shrink when subtasks go. Then the sequence is what it would be had it
    // only ever read those left; where it cannot be cut back so far, it is read anew. Penalties
    // look at the tokens left, random numbers are drawn as if none had gone. What ends with the
    // answer's last token, which is not fed, stays, and so does what is in the buffer then.
    GenerateStats generate(SeqId sequence, std::vector<Token>& held, std::span<const Token> prompt,
                           std::int64_t most_tokens, const GenerateHooks& hooks);

  private:
    Token step(SeqId sequence, std::span<const Token> held, std::size_t first, bool prompt);
    Token reread(SeqId sequence, std::span<const Token> held, const SubtaskEdit& edit,
                 GenerateStats& stats);

    Runner& runner_;
    const Tokenizer& tokenizer_;
    GenerateOptions options_;
    Sampler sampler_;
    std::uint64_t pruned_ = 0;  // tokens that are not held and count for random numbers
    // Where the head's device has the largest logits ready that the sampler looks at: these.
    std::vector<float> top_;
    std::vector<Token> top_tokens_;
};

class Session {
  public:
    Session(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
            std::uint64_t seed);
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    // Error(kUsage) when the prompt is empty or does not fit the context.
    static void check_prompt(std::int64_t prompt_tokens, std::int64_t capacity_tokens);

    // Answers `prompt`, which is the whole conversation so far: what the cache already holds of it
    // is not computed again.
    GenerateStats generate(std::span<const Token> prompt, const GenerateHooks& hooks);

    // Goes on from a sequence that holds these tokens, in place of its own, which is closed.
    void adopt(SeqId seq, std::vector<Token> tokens);
    // Reads the prompt without an answer: what the cache then holds can be saved.
    void read(std::span<const Token> prompt);
    [[nodiscard]] SeqId sequence() const noexcept { return seq_; }

    // Tokens in the cache, generated ones included.
    [[nodiscard]] const std::vector<Token>& tokens() const noexcept { return tokens_; }

  private:
    std::int64_t reuse(std::span<const Token> prompt);

    Runner& runner_;
    Generator generator_;
    std::int64_t max_tokens_;
    SeqId seq_;
    std::vector<Token> tokens_;
};

}  // namespace thimble
