// SPDX-License-Identifier: Apache-2.0
// A parameter under training with its optimizer's state in memory; guards follow each array.
#pragma once

#include <algorithm>
#include <vector>

#include "core/cpu.h"
#include "kernels/layout/rng.h"
#include "train/optimizer.h"

namespace thimble::test {

class TrainedParameter {
  public:
    TrainedParameter(const train::Optimizer& optimizer, const train::ParameterInfo& info,
                     std::uint64_t seed)
        : optimizer_(&optimizer), info_(info), seed_(seed) {
        const auto n = static_cast<std::size_t>(info.elements());
        weights.resize(n + kGuards, kGuard), gradients.resize(n + kGuards, kGuard);
        for (std::size_t i = 0; i < n; ++i) weights[i] = normal(0, i);
        for (const train::SlotInfo& slot : optimizer.slots(info)) {
            slots.emplace_back(slot.bytes(info.elements()) + kGuards, std::byte{0x7e});
            std::fill(slots.back().begin(), slots.back().end() - kGuards, std::byte{});
        }
    }

    // New gradients of step `step`; magnitudes vary, some are 0.
    void set_gradients(std::int64_t step, float scale = 1) {
        const auto n = static_cast<std::size_t>(info_.elements());
        for (std::size_t i = 0; i < n; ++i) {
            const std::uint32_t kind = philox(seed_ + 1, i).v[0] % 8;
            const float size = kind == 0 ? 0.0f : kind == 1 ? 1e-5f : kind == 2 ? 30.0f : 1.0f;
            gradients[i] = normal(static_cast<std::uint64_t>(step), i) * size * scale;
        }
    }
    [[nodiscard]] train::UpdateTile tile(std::int64_t step) {
        train::UpdateTile tile;
        tile.parameter = info_, tile.count = info_.elements();
        tile.weights = weights.data(), tile.gradients = gradients.data();
        for (std::size_t i = 0; i < slots.size(); ++i) tile.slots[i] = slots[i].data();
        tile.step = step, tile.learning_rate = 1e-2, tile.weight_decay = 0.1;
        tile.gradient_scale = 0.75;
        return tile;
    }
    // Steps 1 ... count with gradients of their own, whole.
    void train(Isa isa, std::int64_t first, std::int64_t count) {
        for (std::int64_t step = first; step < first + count; ++step) {
            set_gradients(step);
            optimizer_->update(isa, tile(step));
        }
    }
    [[nodiscard]] bool same_bits(const TrainedParameter& other) const {
        return std::equal(weights.begin(), weights.end(), other.weights.begin(),
                          [](float a, float b) {
                              return std::bit_cast<std::uint32_t>(a) ==
                                     std::bit_cast<std::uint32_t>(b);
                          }) &&
               slots == other.slots;
    }
    [[nodiscard]] bool guards_hold() const {
        const auto floats_hold = [](const std::vector<float>& x) {
            return std::all_of(x.end() - kGuards, x.end(), [](float f) { return f == kGuard; });
        };
        return floats_hold(weights) && floats_hold(gradients) &&
               std::all_of(slots.begin(), slots.end(), [](const std::vector<std::byte>& slot) {
                   return std::all_of(slot.end() - kGuards, slot.end(),
                                      [](std::byte b) { return b == std::byte{0x7e}; });
               });
    }
    [[nodiscard]] std::int64_t elements() const { return info_.elements(); }

    std::vector<float> weights, gradients;
    std::vector<std::vector<std::byte>> slots;

  private:
    static constexpr int kGuards = 64;
    static constexpr float kGuard = -77.5f;

    [[nodiscard]] float normal(std::uint64_t step, std::size_t i) const {
        float sum = -2;
        for (const std::uint32_t v : philox(seed_, i, step).v) sum += unit_float(v);
        return sum * 1.7320508f;
    }

    const train::Optimizer* optimizer_;
    train::ParameterInfo info_;
    std::uint64_t seed_;
};

[[nodiscard]] inline std::vector<Isa> machine_levels() {
    std::vector<Isa> out;
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i) out.push_back(static_cast<Isa>(i));
    return out;
}

}  // namespace thimble::test
