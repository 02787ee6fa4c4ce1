// SPDX-License-Identifier: Apache-2.0
// Attention sinks plus a recent window: "Efficient Streaming Language Models with Attention Sinks"
// (2023). The first `sink` keys and the last `budget - sink` are kept; positions are places in the
// cache, so text may grow past the trained context.
// differs: the rule holds for each query row by itself (a banded mask), in prefill too, instead of
// evicting between chunks, so results do not depend on the chunk size. Layers with a sliding window
// of their own keep that window.
#include <memory>
#include <string>

#include "kv/policy.h"

namespace thimble {
namespace {

struct StreamingOptions {
    std::int64_t sink = 4;
    std::int64_t budget = 1024;
    std::string positions = "compact";

    void visit(OptionVisitor& v) {
        v.option({.name = "sink", .help = "first tokens that are always kept", .least = 0}, sink);
        v.option({.name = "budget",
                  .help = "tokens kept in all, the first ones included",
                  .value = "N",
                  .least = 1},
                 budget);
        v.option({.name = "positions",
                  .help = "compact: a key's place in the cache; original: its place in the text",
                  .choices = {"compact", "original"}},
                 positions);
    }
};

class StreamingPolicy final : public KvPolicy {
  public:
    explicit StreamingPolicy(const StreamingOptions& options) : options_(options) {}

    [[nodiscard]] KvNeeds needs() const override {
        return {.positions = options_.positions == "compact" ? PositionMode::kCompact
                                                             : PositionMode::kOriginal};
    }
    [[nodiscard]] std::int64_t budget_tokens(const ModelInfo& model, int layer) const override {
        const std::int64_t own = model.layers[static_cast<std::size_t>(layer)].window;
        return own > 0 ? own : options_.budget;
    }
    [[nodiscard]] KvBand band(const ModelInfo& model, int layer) const override {
        if (model.layers[static_cast<std::size_t>(layer)].window > 0) return {};
        return {.sinks = options_.sink, .window = options_.budget - options_.sink};
    }

  private:
    StreamingOptions options_;
};

class StreamingPolicyType final : public KvPolicyType {
  public:
    [[nodiscard]] std::string_view name() const override { return "streaming"; }
    [[nodiscard]] std::string_view help() const override {
        return "keeps the first tokens and the most recent ones";
    }
    void visit_options(OptionVisitor& v) const override { StreamingOptions{}.visit(v); }
    [[nodiscard]] std::unique_ptr<KvPolicy> make(std::string_view text,
                                                 std::string_view where) const override {
        StreamingOptions options;
        parse_inline_options(
            text, [&](OptionVisitor& v) { options.visit(v); }, where);
        if (options.sink >= options.budget) {
            throw Error(
                Exit::kUsage, std::string(where),
                "streaming: sink=" + std::to_string(options.sink) +
                    " leaves no room for recent tokens in budget=" + std::to_string(options.budget),
                "the budget includes the sinks: raise it");
        }
        return std::make_unique<StreamingPolicy>(options);
    }
};

}  // namespace

std::unique_ptr<KvPolicyType> make_streaming_policy();
std::unique_ptr<KvPolicyType> make_streaming_policy() {
    return std::make_unique<StreamingPolicyType>();
}

}  // namespace thimble
