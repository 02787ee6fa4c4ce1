// SPDX-License-Identifier: Apache-2.0
// Adam with decoupled weight decay: "Adam: A Method for Stochastic Optimization" (2014), "Decoupled
// Weight Decay Regularization" (2017).
// differs: the decay is taken off together with the step, so that a weight is rounded once; and a
// moment below the smallest normal number becomes 0, because subnormal ones never decay to it.
#include "train/optimizer_adam.h"

namespace thimble::train {
namespace {

class Adamw final : public Optimizer {
  public:
    static constexpr std::string_view kName = "adamw";
    static constexpr std::string_view kHelp =
        "Adam with decoupled weight decay; 8 bytes of state for each element";
    using Options = AdamOptions;

    Adamw(const Options& options, std::string_view /*where*/) : options_(options) {}

    [[nodiscard]] std::vector<SlotInfo> slots(const ParameterInfo&) const override {
        return adam_slots();
    }
    [[nodiscard]] std::int64_t tile_elements(const ParameterInfo&) const override { return 1; }
    void update(Isa isa, const UpdateTile& tile) const override {
        update_adamw(options_, isa, tile);
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
