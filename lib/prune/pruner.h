// SPDX-License-Identifier: Apache-2.0
// What to leave out of a model. A method chooses parts (layers, heads, channels) that go whole, or
// sets weights of each matrix to zero, or has activations dropped when the model runs; how the
// model is read, run and written is not its affair. One leaf file in methods/ plus one line in
// methods.def makes a new one.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/leaf.h"
#include "core/team.h"
#include "prune/calibration.h"
#include "prune/cut.h"
#include "prune/thresholds.h"

namespace thimble::prune {

// A matrix of a layer at work: what it is, what it multiplies, and its weights to be changed.
struct MatrixAtWork {
    std::string_view name;  // of its tensor
    Shape2 shape;
    std::span<float> weights;  // [rows, cols]
    // Of its input: mean squares by column, [cols], where Needs::squares; the sum of x x^T over
    // tokens, [cols, cols], where Needs::gram.
    std::span<const double> squares;
    std::span<const float> gram;
    const std::optional<Kept>& cols;  // that stay of the cut; nullopt: all
    const Exec& exec;
};

class Pruner {
  public:
    virtual ~Pruner() = default;
    [[nodiscard]] virtual Needs needs() const = 0;
    // Parts that stay. Methods that zero weights leave it at that.
    [[nodiscard]] virtual Cut cut(Calibration& calibration) const;
    // Sets weights to zero, and may change the others to make up for it; called for each matrix of
    // a layer, one after the other, where Needs::edits, or for those that lose columns where
    // Needs::refits.
    virtual void prune(const MatrixAtWork& matrix) const;
    // Which activations are dropped, where Needs::thresholds.
    [[nodiscard]] virtual ThresholdRule thresholds() const { return {}; }
    // Memory that one call of prune() takes.
    [[nodiscard]] virtual std::size_t prune_bytes(Shape2 largest) const;
    // Most weights that a row of `cols` keeps, where the method says so beforehand; 0: any number.
    [[nodiscard]] virtual std::int64_t most_kept(std::int64_t cols) const {
        (void)cols;
        return 0;
    }
    // An upper bound of what is left, for plans: without looking at anything.
    [[nodiscard]] virtual Cut most(const ModelConfig& config) const { return whole(config); }
};

using PrunerType = LeafType<Pruner>;
template <class Leaf>
[[nodiscard]] std::unique_ptr<PrunerType> make_pruner_type() {
    return std::make_unique<LeafOf<Pruner, Leaf>>();
}
[[nodiscard]] const Registry<PrunerType>& pruners();
// Of "name:key=value,...".
[[nodiscard]] std::unique_ptr<Pruner> make_pruner(std::string_view spec, std::string_view where);
[[nodiscard]] std::vector<InlineForm> pruner_forms();

}  // namespace thimble::prune
