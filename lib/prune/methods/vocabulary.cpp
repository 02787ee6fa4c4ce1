// SPDX-License-Identifier: Apache-2.0
// Keeps the tokens that a text uses most, or that the model itself writes when it goes on from it,
// and drops the rest from embedding, head and tokenizer: "VocabTrim: Vocabulary Pruning for
// Efficient Speculative Decoding in LLMs" (2025), which found the model's own words the better
// measure.
// differs: the paper trims a drafter's head alone and maps its tokens back; here the whole model
// gets a vocabulary of its own, in which control tokens, bytes, and the parts that kept tokens are
// merged from stay, so that any text can be written. Rows keep their codes.
#include <algorithm>

#include "core/error.h"
#include "prune/pruner.h"
#include "prune/vocabulary.h"

namespace thimble::prune {
namespace {

class VocabularyPruner final : public Pruner {
  public:
    static constexpr const char* kName = "vocabulary";
    static constexpr const char* kHelp = "drop tokens that a text, or the model, hardly uses";
    struct Options {
        std::int64_t keep = 0, prompt = 32, write = 128;
        std::string count = "text";
        void visit(OptionVisitor& v) {
            v.option({.name = "keep",
                      .help = "tokens to keep, besides those that no vocabulary can do without",
                      .least = 0,
                      .most = 1 << 26},
                     keep);
            v.option({.name = "count",
                      .help = "text: the tokens of the text; written: those that the model writes "
                              "when it goes on from each window's first",
                      .choices = {"text", "written"}},
                     count);
            v.option({.name = "prompt",
                      .help = "of written: tokens of a window to go on from",
                      .least = 1,
                      .most = 1 << 20},
                     prompt);
            v.option({.name = "write",
                      .help = "of written: tokens to write for each window",
                      .least = 1,
                      .most = 1 << 20},
                     write);
        }
    };
    VocabularyPruner(const Options& options, std::string_view where) : options_(options) {
        if (options.keep == 0) {
            throw Error(Exit::kUsage, std::string(where), "says not how many tokens to keep",
                        "write vocabulary:keep=N");
        }
    }

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        needs.tokens = true;
        if (options_.count == "written") needs.writes = options_.prompt + options_.write;
        return needs;
    }
    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        const std::vector<double> counts =
            options_.count == "text" ? calibration.token_counts()
                                     : calibration.written_counts(options_.prompt, options_.write);
        Kept kept = largest(counts, std::min(options_.keep, config.vocab));
        // A token that never occurs is none that is used most.
        std::erase_if(kept,
                      [&](std::int64_t t) { return counts[static_cast<std::size_t>(t)] == 0; });
        const Metadata& metadata = calibration.vocabulary();
        const Kept always = indispensable_tokens(metadata);
        kept.insert(kept.end(), always.begin(), always.end());
        std::sort(kept.begin(), kept.end());
        kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
        Cut cut = whole(config);
        cut.tokens = with_parts(metadata, kept);
        if (std::ssize(*cut.tokens) == config.vocab) cut.tokens.reset();
        return cut;
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<PrunerType> make_vocabulary_pruner() {
    return make_pruner_type<VocabularyPruner>();
}

}  // namespace thimble::prune
