// SPDX-License-Identifier: Apache-2.0
// Gradient descent during backward: "Full Parameter Fine-tuning for Large Language Models with
// Limited Resources" (2023). Each gradient is used and dropped as soon as it exists; no state. The
// step is that of sgd without momentum. A gradient is clipped by value here, by the norm of all
// with the trainer's second pass.
#include <limits>

#include "ops/dispatch.h"
#include "train/optimizer.h"

namespace thimble::train {
namespace {

class Lomo final : public Optimizer {
  public:
    static constexpr std::string_view kName = "lomo";
    static constexpr std::string_view kHelp =
        "gradient descent during backward: no state and no stored gradients";

    struct Options {
        double clip_value = 0;
        void visit(OptionVisitor& v) {
            v.option({.name = "clip-value",
                      .help = "largest magnitude of a gradient's elements; 0: any",
                      .least = 0},
                     clip_value);
        }
    };

    Lomo(const Options& options, std::string_view /*where*/) : options_(options) {}

    [[nodiscard]] std::vector<SlotInfo> slots(const ParameterInfo&) const override { return {}; }
    [[nodiscard]] std::int64_t tile_elements(const ParameterInfo&) const override { return 1; }
    [[nodiscard]] bool updates_in_backward() const override { return true; }

    void update(Isa isa, const UpdateTile& tile) const override {
        cpu::SgdRange range{};
        range.weights = tile.weights, range.gradients = tile.gradients, range.count = tile.count;
        range.gradient_scale = static_cast<float>(tile.gradient_scale);
        range.most = options_.clip_value > 0 ? static_cast<float>(options_.clip_value)
                                             : std::numeric_limits<float>::infinity();
        range.decay = static_cast<float>(tile.weight_decay);
        range.learning_rate = static_cast<float>(tile.learning_rate);
        ops::kernels(isa).sgd(range);
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<OptimizerType> make_lomo_optimizer();
std::unique_ptr<OptimizerType> make_lomo_optimizer() {
    return std::make_unique<OptimizerOf<Lomo>>();
}

}  // namespace thimble::train
