// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with the momentum of "On the importance of initialization and
// momentum in deep learning" (2013) in the form that PyTorch has: the decay is part of the
// gradient, the velocity is the sum of decayed gradients. No state without momentum.
#include <limits>

#include "ops/dispatch.h"
#include "train/optimizer.h"

namespace thimble::train {
namespace {

class Sgd final : public Optimizer {
  public:
    static constexpr std::string_view kName = "sgd";
    static constexpr std::string_view kHelp =
        "gradient descent; 4 bytes of state for each element with momentum, else none";

    struct Options {
        double momentum = 0;
        bool nesterov = false;
        void visit(OptionVisitor& v) {
            v.option({.name = "momentum",
                      .help = "share of the velocity that a step keeps",
                      .least = 0,
                      .most = 0.9999999},
                     momentum);
            v.option({.name = "nesterov", .help = "look ahead along the velocity"}, nesterov);
        }
    };

    Sgd(const Options& options, std::string_view where) : options_(options) {
        if (options.nesterov && options.momentum == 0) {
            throw Error(Exit::kUsage, std::string(where),
                        "sgd: nesterov has no effect without momentum", "add momentum=0.9");
        }
    }

    [[nodiscard]] std::vector<SlotInfo> slots(const ParameterInfo&) const override {
        if (options_.momentum == 0) return {};
        return {{.name = "velocity", .unit_bytes = 4}};
    }
    [[nodiscard]] std::int64_t tile_elements(const ParameterInfo&) const override { return 1; }

    void update(Isa isa, const UpdateTile& tile) const override {
        cpu::SgdRange range{};
        range.weights = tile.weights, range.gradients = tile.gradients, range.count = tile.count;
        if (options_.momentum != 0) range.velocity = reinterpret_cast<float*>(tile.slots[0]);
        range.gradient_scale = static_cast<float>(tile.gradient_scale);
        range.most = std::numeric_limits<float>::infinity();
        range.decay = static_cast<float>(tile.weight_decay);
        range.momentum = static_cast<float>(options_.momentum);
        range.learning_rate = static_cast<float>(tile.learning_rate);
        range.nesterov = options_.nesterov;
        ops::kernels(isa).sgd(range);
    }

  private:
    Options options_;
};

}  // namespace

std::unique_ptr<OptimizerType> make_sgd_optimizer();
std::unique_ptr<OptimizerType> make_sgd_optimizer() { return std::make_unique<OptimizerOf<Sgd>>(); }

}  // namespace thimble::train
