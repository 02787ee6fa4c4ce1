// SPDX-License-Identifier: Apache-2.0
#include "decode/session.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "decode/stop.h"

namespace thimble {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double rate(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

}  // namespace

void GenerateOptions::visit(OptionVisitor& v) {
    v.group("Generation");
    v.option({.name = "n-predict",
              .letter = 'n',
              .help = "most tokens to generate; -1: until the end or a full context",
              .value = "N",
              .least = -1,
              .also = "predict"},
             max_tokens);
    v.option({.name = "stop", .help = "ends the text before this string", .value = "TEXT"}, stop);
    v.option({.name = "ignore-eos", .help = "go on after an end-of-text token"}, ignore_end);
    sampling.visit(v);
}

std::string_view name(StopReason reason) noexcept {
    switch (reason) {
        case StopReason::kEnd:
            return "end";
        case StopReason::kLength:
            return "length";
        case StopReason::kStopString:
            return "stop string";
        case StopReason::kContext:
            return "context full";
        case StopReason::kInterrupted:
            return "interrupted";
    }
    return "";
}

double GenerateStats::prompt_tokens_per_second() const noexcept {
    return rate(static_cast<double>(prompt_tokens - cached_tokens), prompt_seconds);
}
double GenerateStats::decode_tokens_per_second() const noexcept {
    return rate(static_cast<double>(decode_steps), decode_seconds);
}
double GenerateStats::decode_bytes_per_second() const noexcept {
    return rate(static_cast<double>(decode_bytes), decode_seconds);
}

Generator::Generator(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
                     std::uint64_t seed)
    : runner_(runner),
      tokenizer_(tokenizer),
      options_(options),
      sampler_(options.sampling, runner.spec().vocab, seed) {
    const std::int64_t looks_at = std::min(sampler_.looks_at(), runner.spec().vocab);
    if (looks_at > runner.most_top()) return;
    top_.resize(static_cast<std::size_t>(looks_at));
    top_tokens_.resize(top_.size());
}

// Feeds tokens and chooses the one that follows.
Token Generator::step(SeqId sequence, std::vector<Token>& held, std::span<const Token> tokens,
                      bool prompt) {
    held.insert(held.end(), tokens.begin(), tokens.end());
    if (!top_.empty()) {
        runner_.forward_top(sequence, tokens, top_, top_tokens_);
        return sampler_.sample_top(top_, top_tokens_, held.size());
    }
    Token next = -1;
    const auto choose = [&](std::int64_t, View logits) {
        next = sampler_.sample(logits, held, held.size());
    };
    if (prompt) {
        runner_.prompt(sequence, tokens, 1, choose);
    } else {
        runner_.forward(sequence, tokens, 1, choose);
    }
    return next;
}

GenerateStats Generator::generate(SeqId sequence, std::vector<Token>& held,
                                  std::span<const Token> prompt, std::int64_t most_tokens,
                                  const GenerateHooks& hooks) {
    const std::int64_t capacity = runner_.kv().capacity_tokens();
    GenerateStats stats;
    stats.cached_tokens = std::ssize(held);
    stats.prompt_tokens = stats.cached_tokens + std::ssize(prompt);
    if (most_tokens == 0) return stats;

    Utf8Stream characters;
    StopMatcher stop(options_.stop);
    const auto show = [&](std::string_view text) {
        const std::string out = stop.push(text);
        if (!out.empty() && hooks.text) hooks.text(out);
    };
    const auto start = std::chrono::steady_clock::now();
    Token next = step(sequence, held, prompt, true);
    stats.prompt_seconds = stats.first_token_seconds = seconds_since(start);

    const auto decode_start = std::chrono::steady_clock::now();
    for (;;) {
        ++stats.generated_tokens;
        const std::int64_t count = std::ssize(held);
        stats.reason = StopReason::kLength;
        if (tokenizer_.is_end(next) && !options_.ignore_end) {
            stats.reason = StopReason::kEnd;
            break;
        }
        show(characters.push(tokenizer_.piece(next)));
        if (stop.matched()) stats.reason = StopReason::kStopString;
        if (stop.matched() || stats.generated_tokens == most_tokens) break;
        if (hooks.interrupted && hooks.interrupted()) stats.reason = StopReason::kInterrupted;
        if (count == capacity) stats.reason = StopReason::kContext;
        if (stats.reason != StopReason::kLength) break;
        stats.decode_bytes += runner_.bytes_per_token(count);
        ++stats.decode_steps;
        next = step(sequence, held, {&next, 1}, false);
    }
    stats.decode_seconds = seconds_since(decode_start);
    show(characters.finish());
    const std::string rest = stop.finish();
    if (!rest.empty() && hooks.text) hooks.text(rest);
    return stats;
}

Session::Session(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
                 std::uint64_t seed)
    : runner_(runner),
      generator_(runner, tokenizer, options, seed),
      max_tokens_(options.max_tokens),
      seq_(runner.kv().open()) {}

Session::~Session() { runner_.kv().close(seq_); }

void Session::adopt(SeqId seq, std::vector<Token> tokens) {
    runner_.kv().close(seq_);
    seq_ = seq;
    tokens_ = std::move(tokens);
}

void Session::read(std::span<const Token> prompt) {
    check_prompt(std::ssize(prompt), runner_.kv().capacity_tokens());
    const auto rest = prompt.subspan(static_cast<std::size_t>(reuse(prompt)));
    tokens_.insert(tokens_.end(), rest.begin(), rest.end());
    runner_.prompt(seq_, rest, 0, {});
}

// Cuts the sequence back to what it shares with the prompt; returns how much that is. The prompt's
// last token is always computed, as its logits are needed.
std::int64_t Session::reuse(std::span<const Token> prompt) {
    const auto limit = std::min(tokens_.size(), prompt.size() - 1);
    std::size_t shared = 0;
    while (shared < limit && tokens_[shared] == prompt[shared]) ++shared;
    KvEngine& kv = runner_.kv();
    if (static_cast<std::int64_t>(shared) < kv.rollback_floor(seq_)) shared = 0;
    kv.truncate(seq_, static_cast<std::int64_t>(shared));
    tokens_.resize(shared);
    return static_cast<std::int64_t>(shared);
}

void Session::check_prompt(std::int64_t prompt_tokens, std::int64_t capacity_tokens) {
    if (prompt_tokens == 0) {
        throw Error(Exit::kUsage, "--prompt", "the prompt has no tokens",
                    "this model needs at least one token to start from");
    }
    if (prompt_tokens > capacity_tokens) {
        throw Error(Exit::kUsage, "--ctx-size",
                    "the prompt of " + std::to_string(prompt_tokens) +
                        " tokens does not fit a context of " + std::to_string(capacity_tokens),
                    "raise --ctx-size or shorten the prompt");
    }
}

GenerateStats Session::generate(std::span<const Token> prompt, const GenerateHooks& hooks) {
    check_prompt(std::ssize(prompt), runner_.kv().capacity_tokens());
    const auto cached = static_cast<std::size_t>(reuse(prompt));
    return generator_.generate(seq_, tokens_, prompt.subspan(cached), max_tokens_, hooks);
}

}  // namespace thimble
