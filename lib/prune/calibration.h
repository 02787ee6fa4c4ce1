// SPDX-License-Identifier: Apache-2.0
// What methods learn of a model by running it over a text: how strongly each column of a matrix is
// used, and how little a layer changes what passes through it.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "calib/collector.h"
#include "core/plan.h"
#include "core/progress.h"
#include "model/runner.h"
#include "prune/cut.h"

namespace thimble::prune {

// What a method looks at, for plans and for what has to be at hand.
struct Needs {
    bool squares = false;     // of the inputs of matrices
    bool gram = false;        // likewise, x x^T
    std::int64_t span = 0;    // influence of so many layers in a row; 0: of none
    bool edits = false;       // changes weights of every matrix of a layer
    bool refits = false;      // only of those that lose columns
    bool tokens = false;      // how often tokens occur
    bool thresholds = false;  // of activations
    std::int64_t writes = 0;  // tokens of a sequence that the model goes on with; 0: it does not
    [[nodiscard]] bool by_layer() const noexcept { return edits || refits; }
    // Whether the model runs, and whether there has to be a text.
    [[nodiscard]] bool runs() const noexcept {
        return squares || gram || span > 0 || writes > 0 || thresholds;
    }
    [[nodiscard]] bool text() const noexcept { return runs() || tokens; }
};

using Texts = CalibrationTexts;
class Calibration {
  public:
    // `runner` is null where the method needs no text. All outlive it.
    Calibration(const ModelSource& source, Runner* runner, Team& team, const Texts& texts,
                Progress progress);
    [[nodiscard]] const ModelSource& source() const noexcept { return source_; }
    // The model's metadata with its vocabulary, whatever container it has.
    [[nodiscard]] const Metadata& vocabulary();

    // Mean squares of the columns of a matrix's input; empty where no token reached it.
    [[nodiscard]] std::vector<double> squares(const SourceTensor& tensor);
    // Of each column of a matrix, the mean square of what it alone adds to the output: that of its
    // input times the squared norm of its weights. Error(kBadData) where no token reached it.
    [[nodiscard]] std::vector<double> column_energy(const SourceTensor& tensor);
    // How often each token occurs in the texts, [vocab].
    [[nodiscard]] std::vector<double> token_counts() const;
    // And in what the model writes, `count` tokens after the first `prompt` of each text, drawn
    // from its own distribution.
    [[nodiscard]] std::vector<double> written_counts(std::int64_t prompt, std::int64_t count);
    // For each place i where `span` of these layers follow one another: 1 - mean over tokens of the
    // cosine of what layer i reads and what the last of them leaves. Only these layers run. First
    // tokens of texts do not count: they attend to nothing else, and their states are large.
    // "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2024), eq. 1,
    // for a span of one.
    [[nodiscard]] std::vector<double> influence(const Kept& layers, std::int64_t span);

    // What it holds beside the runner.
    static void add_to_plan(Plan& plan, const ModelSource& source, const Needs& needs,
                            std::int64_t tokens, std::int64_t longest);

  private:
    [[nodiscard]] Runner& runner();

    const ModelSource& source_;
    Runner* runner_;
    Team& team_;
    const Texts& texts_;
    Progress progress_;
    std::optional<ImportanceMatrix> squares_;
    std::optional<Metadata> vocabulary_;
};

// Of a matrix's columns.
[[nodiscard]] std::vector<double> squared_column_norms(const ModelSource& source,
                                                       const SourceTensor& tensor, Team& team);
// Of two rows of n; 1 where one is zero.
[[nodiscard]] double cosine(const float* a, const float* b, std::int64_t n);

}  // namespace thimble::prune
