// SPDX-License-Identifier: Apache-2.0
// Several workers of one model answer one prompt at the same time and see each other's words as
// they are written, through one live cache: "Hogwild! Inference: Parallel LLM Generation via
// Concurrent Attention" (2025). All workers are rows of one step.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "decode/session.h"

namespace thimble {

struct WorkerOptions {
    std::int64_t workers = 0;  // 0: an ordinary answer
    // contiguous: each worker's words stay in a block of their own, which all see. interleaved: a
    // finished paragraph goes to a history that all share, the one in progress only its writer
    // sees. combined: that history, and every paragraph in progress.
    std::string layout = "combined";
    std::int64_t check_every = 0;  // tokens after which a worker is asked about redundant work
    void visit(OptionVisitor& v);
    // Error(kUsage) for a model whose layers cannot read several sequences at once.
    void check(const ModelSpec& model) const;
};

struct WorkerResult {
    std::string text;
    std::int64_t tokens = 0;
    bool ended = false;  // by itself, not by the limit
};

class Workers {
  public:
    Workers(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
            const WorkerOptions& workers, std::uint64_t seed);
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    // Each generates at most options.max_tokens tokens. `interrupted` is asked once per step.
    std::vector<WorkerResult> generate(std::span<const Token> prompt,
                                       const std::function<bool()>& interrupted);
    // Tokens of a worker's block at most, for plans.
    [[nodiscard]] static std::int64_t block_tokens(const GenerateOptions& options,
                                                   const WorkerOptions& workers);

  private:
    struct Worker;
    [[nodiscard]] std::vector<SeqId> view_of(std::size_t worker) const;
    void queue(Worker& worker, const std::string& text) const;
    void take(std::size_t worker, Token token);
    [[nodiscard]] Token choose(std::size_t worker, View logits);

    Runner& runner_;
    const Tokenizer& tokenizer_;
    GenerateOptions options_;
    WorkerOptions workers_options_;
    SeqId common_, history_;
    std::vector<Worker> workers_;
};

}  // namespace thimble
