// SPDX-License-Identifier: Apache-2.0
// Optimizers turn gradients into new weights. The state that one keeps of a parameter lies in slots
// of plain bytes: whoever owns them (memory, a file) hands a range's part of each to update(),
// which is pure: the result depends on what its tile holds and on nothing else, so ranges may be
// updated in any order, on any thread, and again after a crash. Slots whose bytes are all zero are
// the state before the first step: a new sparse file is one.
//
// One leaf file in optimizers/ plus one line in optimizers.def makes a new one.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/checked.h"
#include "core/leaf.h"
#include "core/options.h"
#include "core/team.h"
#include "format/packed.h"
#include "kernels/layout/isa.h"

namespace thimble::train {

// What an optimizer may know of a parameter.
struct ParameterInfo {
    Shape2 shape;               // a vector is [1, n]
    bool is_embedding = false;  // the token table
    [[nodiscard]] std::int64_t elements() const noexcept { return shape.rows * shape.cols; }
};

// One array of state: each `unit_elements` elements of the parameter, in order, own `unit_bytes`.
struct SlotInfo {
    std::string_view name;
    std::int64_t unit_elements = 1;
    std::size_t unit_bytes = 0;
    // Bytes of the elements [0, count); also where those of element `count` begin, at a multiple of
    // the unit.
    [[nodiscard]] std::size_t bytes(std::int64_t count) const noexcept {
        return static_cast<std::size_t>(ceil_div(count, unit_elements)) * unit_bytes;
    }
};
inline constexpr std::size_t kMaxSlots = 4;

// Elements [first, first + count) of one parameter. `first` is a multiple of tile_elements(), and
// so is `count` unless the range ends where the parameter does.
struct UpdateTile {
    ParameterInfo parameter;
    std::int64_t first = 0, count = 0;
    float* weights = nullptr;          // [count], updated in place
    const float* gradients = nullptr;  // [count]
    double gradient_scale = 1;         // multiplies them: what clipping and averaging ask for
    // This range's part of each slot, in the order of slots(), aligned to 4 bytes.
    std::array<std::byte*, kMaxSlots> slots{};
    std::int64_t step = 1;  // from 1
    double learning_rate = 0;
    double weight_decay = 0;  // 0 already where the parameter is to have none
};

class Optimizer {
  public:
    virtual ~Optimizer() = default;
    // At most kMaxSlots.
    [[nodiscard]] virtual std::vector<SlotInfo> slots(const ParameterInfo& parameter) const = 0;
    // The unit of tiles: 1 where elements are independent, a row's length, or the whole parameter.
    [[nodiscard]] virtual std::int64_t tile_elements(const ParameterInfo& parameter) const = 0;
    // Each gradient is used up as soon as backward has made it, so no gradient is stored or summed
    // over several batches.
    [[nodiscard]] virtual bool updates_in_backward() const { return false; }
    // On one thread; the bits do not depend on the level or on how a parameter is cut into tiles.
    virtual void update(Isa isa, const UpdateTile& tile) const = 0;

    [[nodiscard]] std::size_t state_bytes(const ParameterInfo& parameter) const;
};

// Part of a tile, with everything moved along. `offset` is a multiple of tile_elements().
[[nodiscard]] UpdateTile slice(const Optimizer& optimizer, const UpdateTile& tile,
                               std::int64_t offset, std::int64_t count);
// The whole tile by a team.
void update(const Optimizer& optimizer, Team& team, Isa isa, const UpdateTile& tile);

// What makes the random numbers of one parameter; the step is added to it.
struct RandomKey {
    std::uint64_t seed = 0;
    std::uint32_t parameter = 0;
};
// The same for weights kept in bf16, [count]; tile.weights is not read. The new weights are rounded
// stochastically, so that steps far smaller than a bf16's last place still arrive on average.
// `scratch` is memory to work in, for bf16_scratch_elements().
void update_bf16(const Optimizer& optimizer, Team& team, Isa isa, const UpdateTile& tile,
                 const RandomKey& key, std::uint16_t* weights, std::span<float> scratch);
[[nodiscard]] std::int64_t bf16_scratch_elements(const Optimizer& optimizer,
                                                 const ParameterInfo& parameter, int threads);
// Weights at `first` of a parameter to bf16 after `step`, and back; the way back is exact.
void round_stochastic(Isa isa, const RandomKey& key, std::int64_t step, std::int64_t first,
                      std::span<const float> from, std::uint16_t* to);
void widen(Isa isa, std::span<const std::uint16_t> from, float* to);

// Adds up squares in double, in an order that threads cannot change: a parameter summed up in parts
// that begin at multiples of kSumElements has the sum of the whole, bit for bit.
inline constexpr std::int64_t kSumElements = 4096;
void add_squares(Team& team, Isa isa, std::span<const float> x, double& sum);

using OptimizerType = LeafType<Optimizer>;
template <class Leaf>
using OptimizerOf = LeafOf<Optimizer, Leaf>;
[[nodiscard]] const Registry<OptimizerType>& optimizers();
// "adamw:beta2=0.95"
[[nodiscard]] std::unique_ptr<Optimizer> make_optimizer(std::string_view spec,
                                                        std::string_view where);
// What --optimizer can be, for OptionInfo::inline_forms.
[[nodiscard]] std::vector<InlineForm> optimizer_forms();

}  // namespace thimble::train
