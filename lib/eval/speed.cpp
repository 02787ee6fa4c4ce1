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

void ignore(std::int64_t, View) {}

// A sequence that holds `depth` tokens before each run.
class Sequence {
  public:
    Sequence(Runner& runner, std::int64_t depth)
        : runner_(runner), past_(random_tokens(depth, runner.spec().vocab)), id_(fill()) {}
    ~Sequence() { runner_.kv().close(id_); }
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;

    void rewind() {
        const auto depth = static_cast<std::int64_t>(past_.size());
        if (depth == 0 || runner_.kv().rollback_floor(id_) <= depth)
            return runner_.kv().truncate(id_, depth);
        runner_.kv().close(id_);
        id_ = fill();
    }
    void prefill(std::span<const Token> tokens) { runner_.forward(id_, tokens, 1, ignore); }
    void decode(std::span<const Token> tokens) {
        for (std::size_t i = 0; i < tokens.size(); ++i) prefill(tokens.subspan(i, 1));
    }

  private:
    SeqId fill() {
        const SeqId id = runner_.kv().open();
        if (!past_.empty()) runner_.forward(id, past_, 1, ignore);
        return id;
    }
    Runner& runner_;
    std::vector<Token> past_;
    SeqId id_;
};

// Median seconds of fn(), after one run that does not count.
template <class Fn>
double time_runs(Sequence& sequence, std::int64_t repeats, Fn&& fn) {
    std::vector<double> seconds;
    for (std::int64_t r = 0; r <= repeats; ++r) {
        sequence.rewind();
        const double one = cost::seconds_of(fn);
        if (r > 0) seconds.push_back(one);
    }
    return cost::median(std::move(seconds));
}

}  // namespace

Speed measure_speed(Runner& runner, const SpeedOptions& options) {
    const std::int64_t vocab = runner.spec().vocab;
    Speed speed;
    speed.prompt_tokens = options.prompt_tokens;
    speed.decode_tokens = options.decode_tokens;
    speed.repeats = options.repeats;
    speed.depth_tokens = options.depth_tokens;
    Sequence sequence(runner, options.depth_tokens);
    if (options.prompt_tokens > 0) {
        const std::vector<Token> tokens = random_tokens(options.prompt_tokens, vocab);
        const double seconds =
            time_runs(sequence, options.repeats, [&] { sequence.prefill(tokens); });
        speed.prefill_tokens_per_second = static_cast<double>(options.prompt_tokens) / seconds;
    }
    if (options.decode_tokens > 0) {
        const std::vector<Token> tokens = random_tokens(options.decode_tokens, vocab);
        const double seconds =
            time_runs(sequence, options.repeats, [&] { sequence.decode(tokens); });
        speed.decode_tokens_per_second = static_cast<double>(options.decode_tokens) / seconds;
        speed.bytes_per_token =
            runner.bytes_per_token(options.depth_tokens + options.decode_tokens / 2);
    }
    return speed;
}

}  // namespace thimble::eval
