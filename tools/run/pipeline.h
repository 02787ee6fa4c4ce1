// SPDX-License-Identifier: Apache-2.0
// One invocation of run: what it will hold, then the generation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/tool.h"
#include "decode/session.h"
#include "kv/cache_file.h"
#include "model/runner.h"
#include "options.h"
#include "size_control.h"
#include "text/tokenizer.h"

namespace thimble::run {

// Resident memory of the process before any work.
inline constexpr std::uint64_t kBaselineBytes = std::uint64_t{10} << 20;

class Pipeline {
  public:
    RunOptions options;

    [[nodiscard]] Plan plan(const cli::CommonOptions& common);
    void run(cli::Context& context);

  private:
    void open();  // the model's headers, the vocabulary, the prompt
    [[nodiscard]] std::string read_prompt() const;
    void follow_saved(std::vector<Token> text);
    [[nodiscard]] KvFileHead kv_head(const ModelSource& source, std::vector<Token> tokens) const;
    [[nodiscard]] RunnerOptions runner_options(Device device, Isa isa) const;
    // Tokens in the cache at the end, at most.
    [[nodiscard]] std::int64_t most_tokens() const;
    [[nodiscard]] std::int64_t answer_tokens() const;  // that are fed back, at most
    [[nodiscard]] Plan memory(const RunnerOptions& runner, std::int64_t tokens) const;
    void generate(cli::Context& context, Runner& runner);
    void stream_layers(Plan& plan, std::uint64_t limit_bytes, RunnerOptions runner,
                       const cli::CommonOptions& common);
    void predict_time(Plan& plan, const cli::CommonOptions& common) const;
    [[nodiscard]] std::string remedy(std::uint64_t limit_bytes, RunnerOptions runner) const;

    std::unique_ptr<ModelSource> source_;
    std::vector<AdapterUse> adapters_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::vector<Token> prompt_, saved_;
    std::int64_t capacity_ = 0;
    std::uint64_t weight_bytes_ = UINT64_MAX;  // the budget's share for weights
    std::uint64_t vram_bytes_ = UINT64_MAX;    // the budget's share of the device
    SizeLimits sizes_;
    bool conversation_ = false;  // messages come from stdin, line by line
};

// One answer: text to stdout as it comes, figures to stderr. Returns the text. `end_line`: what
// follows on stdout begins on a new line.
std::string answer(cli::Context& context, Session& session, std::span<const Token> prompt,
                   bool end_line, GenerateStats& stats);
[[nodiscard]] Json stats_json(const GenerateStats& stats);

// run --workers: every worker's text to stdout, one after the other.
void answer_together(cli::Context& context, Runner& runner, const Tokenizer& tokenizer,
                     std::span<const Token> prompt, const RunOptions& options);

// A conversation on stdin: one message per line, /clear forgets it, /memory SIZE changes the size
// of a model in blocks, /exit or the end of stdin ends.
void converse(cli::Context& context, Session& session, const Tokenizer& tokenizer,
              const RunOptions& options, SizeControl& size);

// run --probe
[[nodiscard]] Plan plan_probe(const RunOptions& options);
void run_probe(const RunOptions& options, cli::Context& context);

}  // namespace thimble::run
