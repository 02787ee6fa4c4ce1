// SPDX-License-Identifier: Apache-2.0
// What the optimizers of Adam's family share: options and the factors of a step.
#pragma once

#include <cmath>

#include "ops/dispatch.h"
#include "train/optimizer.h"

namespace thimble::train {

struct AdamOptions {
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
    [[nodiscard]] cpu::AdamwRule rule(const UpdateTile& tile) const {
        const auto step = static_cast<double>(tile.step);
        const double first = 1 - std::pow(beta1, step), second = 1 - std::pow(beta2, step);
        cpu::AdamwRule rule{};
        rule.gradient_scale = static_cast<float>(tile.gradient_scale);
        rule.new_mean = static_cast<float>(1 - beta1);
        rule.old_square = static_cast<float>(beta2);
        rule.new_square = static_cast<float>(1 - beta2);
        rule.root_scale = static_cast<float>(1 / std::sqrt(second));
        rule.epsilon = static_cast<float>(eps);
        rule.step_size = static_cast<float>(tile.learning_rate / first);
        rule.decay = static_cast<float>(tile.learning_rate * tile.weight_decay);
        return rule;
    }
};

[[nodiscard]] inline std::vector<SlotInfo> adam_slots() {
    return {{.name = "m", .unit_bytes = 4}, {.name = "v", .unit_bytes = 4}};
}

// One step with m and v in the first two slots as floats.
inline void update_adamw(const AdamOptions& options, Isa isa, const UpdateTile& tile) {
    cpu::AdamwRange range{};
    range.rule = options.rule(tile);
    range.weights = tile.weights, range.gradients = tile.gradients, range.count = tile.count;
    range.m = reinterpret_cast<float*>(tile.slots[0]);
    range.v = reinterpret_cast<float*>(tile.slots[1]);
    ops::kernels(isa).adamw(range);
}

}  // namespace thimble::train
