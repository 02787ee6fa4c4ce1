// SPDX-License-Identifier: Apache-2.0
// Thresholds on the activations a = act(gate) of feed-forward blocks, measured on a text: such that
// a given share of them is dropped in each layer. "CHESS: Optimizing LLM Inference via Channel-Wise
// Thresholding and Selective Sparsification" (2024): dropping channel c changes the block's output
// by about a_c^2 E[u_c^2], u being the product with the up matrix; T is that share's quantile of it
// over tokens and channels, and channel c has the threshold sqrt(T / E[u_c^2]). "CATS:
// Contextually-Aware Thresholding for Sparsity in Large Language Models" (2024): one threshold for
// the layer, the quantile of |a|.
// differs: T is the quantile over all tokens, not a mean of quantiles; first tokens of texts, which
// attend to nothing else and have massive activations, do not count.
#pragma once

#include <cstdint>
#include <vector>

#include "model/thresholds.h"
#include "prune/calibration.h"

namespace thimble::prune {

struct ThresholdRule {
    double sparsity = 0.5;   // share of activations that is dropped
    bool by_channel = true;  // else one threshold for all channels of a layer
};

// How often sizes occur, in bins as wide as 1/2048 of them: the upper bits of a float.
class SizeCounts {
  public:
    SizeCounts() : counts_(kBins) {}
    void add(float size) noexcept;  // not negative, not NaN
    void clear() noexcept;
    // The size that `share` of them do not exceed, to within a bin.
    [[nodiscard]] float quantile(double share) const noexcept;
    [[nodiscard]] static std::size_t bytes() noexcept { return kBins * sizeof(std::uint64_t); }

  private:
    static constexpr int kDroppedBits = 12;
    static constexpr std::size_t kBins = std::size_t{1} << (31 - kDroppedBits);
    std::vector<std::uint64_t> counts_;
    std::uint64_t total_ = 0;
};

// Of one layer: T by channel, with mean squares of u.
[[nodiscard]] std::vector<float> channel_thresholds(float quantile,
                                                    std::span<const double> squares);

// Of all layers; the runner's model drops nothing. Error(kUsage) for a model that has no blocks
// with a gate and an up matrix.
[[nodiscard]] Thresholds measure_thresholds(Runner& runner, const Texts& texts,
                                            const ThresholdRule& rule, const Progress& progress);
// The share of activations that a model drops, by layer.
[[nodiscard]] std::vector<double> measure_dropped(Runner& runner, const Texts& texts,
                                                  const Progress& progress);
// What they hold beside the runner.
void add_thresholds_to_plan(Plan& plan, const ModelSource& source, std::int64_t tokens,
                            std::int64_t longest);

// Of what is left of a model that has thresholds.
[[nodiscard]] Thresholds thresholds_after(const Cut& cut, const ModelSource& source);
// As many for each layer, all 0: as long as those to come.
[[nodiscard]] Thresholds blank_thresholds(const ModelSource& source);

}  // namespace thimble::prune
