// SPDX-License-Identifier: Apache-2.0
// Attention sinks plus a recent window: "Efficient Streaming Language Models with Attention Sinks"
// (2023). The first `sink` keys and the last `budget - sink` are kept; positions are places in the
// cache, so text may grow past the trained context.
// differs: the rule holds for each query row by itself (a banded mask), in prefill too, instead of
// evicting between chunks, so results do not depend on the chunk size. Layers with a sliding window
// of their own keep that window.
#include "kv/policy.h"

namespace thimble {
namespace {

class StreamingPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "streaming";
    static constexpr std::string_view kHelp = "keeps the first tokens and the most recent ones";
    struct Options {
        std::int64_t sink = 4;
        std::int64_t budget = 1024;
        std::string positions = "compact";

        void visit(OptionVisitor& v) {
            v.option({.name = "sink", .help = "first tokens that are always kept", .least = 0},
                     sink);
            v.option({.name = "budget",
                      .help = "tokens kept in all, the first ones included",
                      .value = "N",
                      .least = 1},
                     budget);
            v.option(
                {.name = "positions",
                 .help = "compact: a key's place in the cache; original: its place in the text",
                 .choices = {"compact", "original"}},
                positions);
        }
    };

    StreamingPolicy(const Options& options, std::string_view where) : options_(options) {
        if (options.sink < options.budget) return;
        throw Error(
            Exit::kUsage, std::string(where),
            "streaming: sink=" + std::to_string(options.sink) +
                " leaves no room for recent tokens in budget=" + std::to_string(options.budget),
            "the budget includes the sinks: raise it");
    }

    [[nodiscard]] KvNeeds needs() const override {
        return {.positions = options_.positions == "compact" ? PositionMode::kCompact
                                                             : PositionMode::kOriginal};
    }
    [[nodiscard]] unsigned duties() const override { return kBand; }
    [[nodiscard]] KvBand band(const ModelInfo&, int) const override {
        return {.sinks = options_.sink, .window = options_.budget - options_.sink};
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<KvPolicyType> make_streaming_policy();
std::unique_ptr<KvPolicyType> make_streaming_policy() {
    return std::make_unique<LeafOf<KvPolicy, StreamingPolicy>>();
}

}  // namespace thimble
