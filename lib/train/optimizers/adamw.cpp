// SPDX-License-Identifier: Apache-2.0
// Adam with decoupled weight decay: "Adam: A Method for Stochastic Optimization" (2014), "Decoupled
// Weight Decay Regularization" (2017). Slots: m and v, F32.
// differs: the decay is taken off together with the step, so that a weight is rounded once; and a
// moment below the smallest normal number becomes 0, because subnormal ones never decay to it.
#include <cmath>

#include "ops/dispatch.h"
#include "train/optimizer.h"

namespace thimble::train {
namespace {

class Adamw final : public Optimizer {
  public:
    static constexpr std::string_view kName = "adamw";
    static constexpr std::string_view kHelp =
        "Adam with decoupled weight decay; 8 bytes of state per element";

    struct Options {
        double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
        void visit(OptionVisitor& v) {
            v.option({.name = "beta1",
                      .help = "share of the mean gradient that a step keeps",
                      .least = 0,
                      .most = 0.9999999},
                     beta1);
            v.option({.name = "beta2",
                      .help = "share of the mean squared gradient that a step keeps",
                      .least = 0,
                      .most = 0.9999999},
                     beta2);
            v.option({.name = "eps",
                      .help = "added to the root of the mean square",
                      .least = 1e-18,
                      .most = 1},
                     eps);
        }
    };

    Adamw(const Options& options, std::string_view /*where*/) : options_(options) {}

    [[nodiscard]] std::vector<SlotInfo> slots(const ParameterInfo&) const override {
        return {{.name = "m", .unit_bytes = 4}, {.name = "v", .unit_bytes = 4}};
    }
    [[nodiscard]] std::int64_t tile_elements(const ParameterInfo&) const override { return 1; }

    void update(Isa isa, const UpdateTile& tile) const override {
        const auto step = static_cast<double>(tile.step);
        const double first = 1 - std::pow(options_.beta1, step);
        const double second = 1 - std::pow(options_.beta2, step);
        cpu::AdamwRange range{};
        range.rule.new_mean = static_cast<float>(1 - options_.beta1);
        range.rule.old_square = static_cast<float>(options_.beta2);
        range.rule.new_square = static_cast<float>(1 - options_.beta2);
        range.rule.root_scale = static_cast<float>(1 / std::sqrt(second));
        range.rule.epsilon = static_cast<float>(options_.eps);
        range.rule.step_size = static_cast<float>(tile.learning_rate / first);
        range.rule.decay = static_cast<float>(tile.learning_rate * tile.weight_decay);
        range.weights = tile.weights, range.gradients = tile.gradients, range.count = tile.count;
        range.m = reinterpret_cast<float*>(tile.slots[0]);
        range.v = reinterpret_cast<float*>(tile.slots[1]);
        ops::kernels(isa).adamw(range);
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<OptimizerType> make_adamw_optimizer();
std::unique_ptr<OptimizerType> make_adamw_optimizer() {
    return std::make_unique<OptimizerOf<Adamw>>();
}

}  // namespace thimble::train
