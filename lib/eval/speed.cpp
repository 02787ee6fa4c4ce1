// SPDX-License-Identifier: Apache-2.0
#include "eval/speed.h"

#include <vector>

#include "cost/timing.h"
#include "kernels/layout/rng.h"
#include "text/tokenizer.h"

namespace thimble::eval {
namespace {

constexpr std::uint64_t kSeed = 1;  // which tokens does not matter for speed; equal ones compare

std::vector<Token> random_tokens(std::int64_t count, std::int64_t vocab) {
    std::vector<Token> tokens(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] =
            static_cast<Token>(philox(kSeed, i, 0).v[0] % static_cast<std::uint64_t>(vocab));
    return tokens;
}

void prefill(Runner& runner, std::span<const Token> tokens) {
    const SeqId sequence = runner.kv().open();
    runner.forward(sequence, tokens, 1, [](std::int64_t, View) {});
    runner.kv().close(sequence);
}

void decode(Runner& runner, std::span<const Token> tokens) {
    const SeqId sequence = runner.kv().open();
    for (std::size_t i = 0; i < tokens.size(); ++i)
        runner.forward(sequence, tokens.subspan(i, 1), 1, [](std::int64_t, View) {});
    runner.kv().close(sequence);
}

}  // namespace

Speed measure_speed(Runner& runner, const SpeedOptions& options) {
    const std::int64_t vocab = runner.spec().vocab;
    Speed speed;
    speed.prompt_tokens = options.prompt_tokens;
    speed.decode_tokens = options.decode_tokens;
    speed.repeats = options.repeats;
    if (options.prompt_tokens > 0) {
        const std::vector<Token> tokens = random_tokens(options.prompt_tokens, vocab);
        prefill(runner, tokens);
        const double seconds =
            cost::median_seconds(options.repeats, [&] { prefill(runner, tokens); });
        speed.prefill_tokens_per_second = static_cast<double>(options.prompt_tokens) / seconds;
    }
    if (options.decode_tokens > 0) {
        const std::vector<Token> tokens = random_tokens(options.decode_tokens, vocab);
        decode(runner, std::span(tokens).first(1));
        const double seconds =
            cost::median_seconds(options.repeats, [&] { decode(runner, tokens); });
        speed.decode_tokens_per_second = static_cast<double>(options.decode_tokens) / seconds;
        speed.bytes_per_token = runner.bytes_per_token(options.decode_tokens / 2);
    }
    return speed;
}

}  // namespace thimble::eval
