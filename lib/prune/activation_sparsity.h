// SPDX-License-Identifier: Apache-2.0
// How few of a feed-forward block's neurons a token needs: those whose output is small are left out
// until perplexity has risen by so many per cent. "Sparsing Law: Towards Large Language Models with
// Greater Activation Sparsity" (2025): a neuron's output at a token has the norm
//   n_i = |a_i| * |W_down[:, i]|,
// and a threshold t leaves out, of the block's output,
//   CETT(t) = mean over tokens of |sum over n_i <= t of a_i W_down[:, i]| / |output|,
// the same in all layers. Nothing is written, and nothing runs faster for it yet: it is a measure.
// differs: CETT is worked out at quantiles of n, and thresholds between them are interpolated.
#pragma once

#include <vector>

#include "eval/windows.h"
#include "io/json.h"
#include "prune/calibration.h"

namespace thimble::prune {

struct LayerSparsity {
    double threshold = 0;  // of n_i
    double kept = 1;       // mean share of the neurons that a token needs
};
struct ActivationSparsity {
    double percent = 0;  // by which perplexity may rise
    double cett = 0;
    double dense_perplexity = 0, sparse_perplexity = 0;
    std::vector<LayerSparsity> layers;
    std::int64_t tokens = 0;  // whose predictions were scored
    [[nodiscard]] double kept() const noexcept;
    [[nodiscard]] Json json() const;
};

// CETT of one block at rising thresholds: outputs [tokens, neurons] of the activation times the
// gate, and the weights [hidden, neurons].
[[nodiscard]] std::vector<double> cett_at(std::span<const float> neurons,
                                          std::span<const float> weights, std::int64_t count,
                                          std::int64_t hidden, std::span<const double> norms,
                                          std::span<const double> thresholds, Team& team);

// Over the windows of a text. Error(kUsage) for a model without gated feed-forward blocks.
[[nodiscard]] ActivationSparsity measure_activation_sparsity(Runner& runner, Team& team,
                                                             const eval::Windows& windows,
                                                             double percent,
                                                             const Progress& progress);
// What that holds beside the runner.
void add_sparsity_to_plan(Plan& plan, const ModelSource& source, std::int64_t windows,
                          std::int64_t context);

}  // namespace thimble::prune
