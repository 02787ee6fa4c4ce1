// SPDX-License-Identifier: Apache-2.0
#include "decode/session.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "decode/stop.h"
#include "ops/op_clock.h"

namespace thimble {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Cuts a sequence back to its first `tokens`, or to none where it cannot be; returns how many.
std::size_t cut_back(KvEngine& kv, SeqId sequence, std::size_t tokens) {
    auto count = static_cast<std::int64_t>(tokens);
    if (count < kv.rollback_floor(sequence)) count = 0;
    kv.truncate(sequence, count);
    return static_cast<std::size_t>(count);
}

using Phase = OpClock::Phase;

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
    subtasks.visit(v);
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

// Feeds what is held from `first` on and chooses the token that follows.
Token Generator::step(SeqId sequence, std::span<const Token> held, std::size_t first, bool prompt) {
    const std::span<const Token> tokens = held.subspan(first);
    const std::uint64_t draw = held.size() + pruned_;
    if (!top_.empty()) {
        runner_.forward_top(sequence, tokens, top_, top_tokens_);
        return sampler_.sample_top(top_, top_tokens_, draw);
    }
    Token next = -1;
    const auto choose = [&](std::int64_t, View logits) {
        const ops::Timed timed(runner_.exec(), "sample");
        next = sampler_.sample(logits, held, draw);
    };
    if (prompt) {
        runner_.prompt(sequence, tokens, 1, choose);
    } else {
        runner_.forward(sequence, tokens, 1, choose);
    }
    return next;
}

// The same when subtasks have gone from `held`, whose last token may not have been fed before.
Token Generator::reread(SeqId sequence, std::span<const Token> held, const SubtaskEdit& edit,
                        GenerateStats& stats) {
    const auto start = std::chrono::steady_clock::now();
    pruned_ += static_cast<std::uint64_t>(edit.tokens);
    stats.pruned_subtasks += edit.spans;
    stats.pruned_tokens += edit.tokens;
    // Something has to be fed, as logits are needed.
    const std::size_t kept =
        cut_back(runner_.kv(), sequence, std::min(edit.first, held.size() - 1));
    stats.reread_tokens += std::ssize(held.subspan(kept)) - (edit.keeps_last ? 1 : 0);
    enter_phase(runner_.exec(), Phase::kPrompt, std::ssize(held.subspan(kept)));
    const Token next = step(sequence, held, kept, kept == 0);
    enter_phase(runner_.exec(), Phase::kDecode, 0);
    stats.reread_seconds += seconds_since(start);
    return next;
}

GenerateStats Generator::generate(SeqId sequence, std::vector<Token>& held,
                                  std::span<const Token> prompt, std::int64_t most_tokens,
                                  const GenerateHooks& hooks) {
    const std::int64_t capacity = runner_.kv().capacity_tokens();
    Subtasks subtasks(options_.subtasks);
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
    enter_phase(runner_.exec(), Phase::kPrompt, std::ssize(prompt));
    held.insert(held.end(), prompt.begin(), prompt.end());
    Token next = step(sequence, held, held.size() - prompt.size(), true);
    stats.prompt_seconds = stats.first_token_seconds = seconds_since(start);

    enter_phase(runner_.exec(), Phase::kDecode, 0);
    const auto decode_start = std::chrono::steady_clock::now();
    for (;;) {
        ++stats.generated_tokens;
        stats.most_held_tokens = std::max(stats.most_held_tokens, std::ssize(held));
        stats.reason = StopReason::kLength;
        if (tokenizer_.is_end(next) && !options_.ignore_end) {
            stats.reason = StopReason::kEnd;
            break;
        }
        const std::string piece = tokenizer_.piece(next);
        show(characters.push(piece));
        if (stop.matched()) stats.reason = StopReason::kStopString;
        if (stop.matched() || stats.generated_tokens == most_tokens) break;
        if (hooks.interrupted && hooks.interrupted()) stats.reason = StopReason::kInterrupted;
        if (stats.reason != StopReason::kLength) break;
        held.push_back(next);
        const SubtaskEdit edit = subtasks.push(held, piece, tokenizer_.piece(next, true));
        if (std::ssize(held) > capacity) {
            held.pop_back();
            stats.reason = StopReason::kContext;
            break;
        }
        if (!edit.empty()) {
            next = reread(sequence, held, edit, stats);
            continue;
        }
        stats.decode_bytes += runner_.bytes_per_token(std::ssize(held) - 1);
        ++stats.decode_steps;
        enter_phase(runner_.exec(), Phase::kDecode, 1);
        next = step(sequence, held, held.size() - 1, false);
    }
    stats.decode_seconds = seconds_since(decode_start) - stats.reread_seconds;
    enter_phase(runner_.exec(), Phase::kNone, 0);
    stats.pruned_text = subtasks.gone();
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
    enter_phase(runner_.exec(), Phase::kPrompt, std::ssize(rest));
    runner_.prompt(seq_, rest, 0, {});
    enter_phase(runner_.exec(), Phase::kNone, 0);
}

// Cuts the sequence back to what it shares with the prompt; returns how much that is. The prompt's
// last token is always computed, as its logits are needed.
std::int64_t Session::reuse(std::span<const Token> prompt) {
    const auto limit = std::min(tokens_.size(), prompt.size() - 1);
    std::size_t shared = 0;
    while (shared < limit && tokens_[shared] == prompt[shared]) ++shared;
    shared = cut_back(runner_.kv(), seq_, shared);
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
