// SPDX-License-Identifier: Apache-2.0
#include "decode/workers.h"

#include <algorithm>
#include <deque>

#include "core/error.h"
#include "ops/op_clock.h"

namespace thimble {
namespace {

constexpr std::int64_t kHeaderTokens = 8;  // of what a block is headed with, at most
constexpr const char* kQuestion =
    "\n\nQuick check: am I doing work that another worker has done? (yes/no): ";

std::string header(std::size_t worker) { return "\n\nWorker " + std::to_string(worker + 1) + ": "; }

// A blank line after the end of a sentence.
bool ends_paragraph(const std::string& text) {
    const std::size_t end = text.find_last_not_of('\n');
    if (end == std::string::npos || text.size() - end < 3) return false;
    return text[end] == '.' || text[end] == '!' || text[end] == '?' || text[end] == ':';
}

}  // namespace

void WorkerOptions::visit(OptionVisitor& v) {
    v.group("Workers");
    v.option({.name = "workers",
              .help = "workers that answer the prompt together and see each other's words",
              .value = "N",
              .least = 0,
              .most = 64},
             workers);
    v.option({.name = "worker-layout",
              .help = "what they see of each other: whole blocks, finished paragraphs, or both",
              .choices = {"contiguous", "interleaved", "combined"}},
             layout);
    v.option({.name = "worker-check",
              .help = "ask each worker about redundant work after so many tokens; 0: never",
              .value = "N",
              .least = 0},
             check_every);
}

struct Workers::Worker {
    SeqId block;
    Sampler sampler;
    std::deque<Token> forced;   // to be fed before it goes on by itself
    Token next = -1;            // chosen and not yet fed
    std::vector<Token> tokens;  // of its own
    Utf8Stream characters;
    std::string paragraph;  // since the last one ended
    WorkerResult result;
    bool active = true;
};

void WorkerOptions::check(const ModelSpec& model) const {
    if (workers == 0 || model.recurrent.empty()) return;
    throw Error(Exit::kUsage, "--workers",
                "a recurrent layer's state has read one text: workers cannot see one another",
                "leave it out");
}

Workers::Workers(Runner& runner, const Tokenizer& tokenizer, const GenerateOptions& options,
                 const WorkerOptions& workers, std::uint64_t seed)
    : runner_(runner),
      tokenizer_(tokenizer),
      options_(options),
      workers_options_(workers),
      common_(runner.kv().open()),
      history_(runner.kv().open()) {
    for (std::int64_t i = 0; i < workers.workers; ++i) {
        workers_.push_back({.block = runner.kv().open(),
                            .sampler = Sampler(options.sampling, runner.spec().vocab,
                                               seed + static_cast<std::uint64_t>(i)),
                            .forced = {},
                            .tokens = {},
                            .characters = {},
                            .paragraph = {},
                            .result = {}});
    }
}

Workers::~Workers() {
    for (const Worker& worker : workers_) runner_.kv().close(worker.block);
    runner_.kv().close(history_);
    runner_.kv().close(common_);
}

std::int64_t Workers::block_tokens(const GenerateOptions& options, const WorkerOptions& workers) {
    const std::int64_t asked =
        workers.check_every > 0 ? options.max_tokens / workers.check_every * 3 * kHeaderTokens : 0;
    // A header is fed again after each paragraph: taken to be eight tokens long on average.
    return options.max_tokens + asked + kHeaderTokens * (1 + options.max_tokens / 8);
}

// The prompt, what is finished, the others' words in their order, its own last.
std::vector<SeqId> Workers::view_of(std::size_t worker) const {
    std::vector<SeqId> view{common_};
    if (workers_options_.layout != "contiguous") view.push_back(history_);
    for (std::size_t other = 0; other < workers_.size(); ++other) {
        if (other != worker && workers_options_.layout != "interleaved")
            view.push_back(workers_[other].block);
    }
    view.push_back(workers_[worker].block);
    return view;
}

void Workers::queue(Worker& worker, const std::string& text) const {
    EncodeText how;
    how.add_special = false;
    for (const Token token : tokenizer_.encode(text, how)) worker.forced.push_back(token);
}

Token Workers::choose(std::size_t worker, View logits) {
    Worker& w = workers_[worker];
    return w.sampler.sample(logits, w.tokens, w.tokens.size());
}

// A token that the worker chose.
void Workers::take(std::size_t worker, Token token) {
    Worker& w = workers_[worker];
    ++w.result.tokens;
    if (tokenizer_.is_end(token) && !options_.ignore_end) {
        w.result.ended = true;
        w.active = false;
        return;
    }
    const std::string text = w.characters.push(tokenizer_.piece(token));
    w.result.text += text;
    w.paragraph += text;
    w.next = token;
    w.tokens.push_back(token);
    if (w.result.tokens == options_.max_tokens) w.active = false;
    const std::int64_t every = workers_options_.check_every;
    if (every > 0 && w.result.tokens % every == 0) queue(w, kQuestion);
}

std::vector<WorkerResult> Workers::generate(std::span<const Token> prompt,
                                            const std::function<bool()>& interrupted) {
    using Phase = OpClock::Phase;
    enter_phase(runner_.exec(), Phase::kPrompt, std::ssize(prompt));
    runner_.forward(common_, prompt, 0, {});
    runner_.kv().end_prompt(runner_.exec(), common_);
    for (std::size_t i = 0; i < workers_.size(); ++i) queue(workers_[i], header(i));
    for (;;) {
        if (interrupted && interrupted()) break;
        std::vector<std::vector<SeqId>> views;
        std::vector<Token> tokens;
        std::vector<std::size_t> rows;
        for (std::size_t i = 0; i < workers_.size(); ++i) {
            Worker& w = workers_[i];
            if (!w.active) continue;
            if (w.next >= 0) {
                tokens.push_back(w.next);
                w.next = -1;
            } else {
                tokens.push_back(w.forced.front());
                w.forced.pop_front();
            }
            views.push_back(view_of(i));
            rows.push_back(i);
        }
        if (rows.empty()) break;
        enter_phase(runner_.exec(), Phase::kDecode, std::ssize(rows));
        runner_.forward_shared(views, tokens, [&](std::int64_t first, View logits) {
            for (std::int64_t r = 0; r < logits.rows; ++r) {
                const std::size_t i = rows[static_cast<std::size_t>(first + r)];
                if (workers_[i].forced.empty()) take(i, choose(i, logits.slice_rows(r, 1)));
            }
        });
        for (const std::size_t i : rows) {
            Worker& w = workers_[i];
            const bool moves = workers_options_.layout != "contiguous" && w.active &&
                               w.forced.empty() && w.next >= 0 && ends_paragraph(w.paragraph);
            if (!moves) continue;
            // Its last token is not in the cache yet: it begins what follows.
            runner_.kv().move_tokens(runner_.exec(), w.block, history_);
            w.paragraph.clear();
            w.forced.push_back(w.next);
            w.next = -1;
            queue(w, header(i));
        }
    }
    enter_phase(runner_.exec(), Phase::kNone, 0);
    std::vector<WorkerResult> results;
    for (Worker& w : workers_) {
        w.result.text += w.characters.finish();
        results.push_back(w.result);
    }
    return results;
}

}  // namespace thimble
