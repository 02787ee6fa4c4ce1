// SPDX-License-Identifier: Apache-2.0
#include "train/optimizer.h"

#include <algorithm>

#include "ops/dispatch.h"

namespace thimble::train {

std::size_t Optimizer::state_bytes(const ParameterInfo& parameter) const {
    std::size_t bytes = 0;
    for (const SlotInfo& slot : slots(parameter)) bytes += slot.bytes(parameter.elements());
    return bytes;
}

namespace {

constexpr std::int64_t kWorthSharing = 32768;  // elements

// Elements that one thread updates at a time.
std::int64_t part_elements(const Optimizer& optimizer, const ParameterInfo& parameter) {
    const std::int64_t unit = optimizer.tile_elements(parameter);
    return ceil_div(kWorthSharing, unit) * unit;
}

// fn(part, its offset, thread) for parts of a tile.
template <class Fn>
void for_parts(const Optimizer& optimizer, Team& team, const UpdateTile& tile, Fn&& fn) {
    const std::int64_t most = part_elements(optimizer, tile.parameter);
    if (tile.count <= most) return fn(tile, 0, 0);
    team.run_indexed(tile.count, most, [&](std::int64_t begin, std::int64_t end, int thread) {
        fn(slice(optimizer, tile, begin, end - begin), begin, thread);
    });
}

}  // namespace

UpdateTile slice(const Optimizer& optimizer, const UpdateTile& tile, std::int64_t offset,
                 std::int64_t count) {
    UpdateTile part = tile;
    part.first += offset, part.count = count;
    if (part.weights != nullptr) part.weights += offset;
    part.gradients += offset;
    const std::vector<SlotInfo> slots = optimizer.slots(tile.parameter);
    for (std::size_t i = 0; i < slots.size(); ++i) part.slots[i] += slots[i].bytes(offset);
    return part;
}

void update(const Optimizer& optimizer, Team& team, Isa isa, const UpdateTile& tile) {
    for_parts(optimizer, team, tile,
              [&](const UpdateTile& part, std::int64_t, int) { optimizer.update(isa, part); });
}

void update_bf16(const Optimizer& optimizer, Team& team, Isa isa, const UpdateTile& tile,
                 const RandomKey& key, std::uint16_t* weights, std::span<float> scratch) {
    const std::int64_t most = part_elements(optimizer, tile.parameter);
    for_parts(optimizer, team, tile, [&](UpdateTile part, std::int64_t offset, int thread) {
        const auto n = static_cast<std::size_t>(part.count);
        part.weights = scratch.data() + thread * most;
        widen(isa, {weights + offset, n}, part.weights);
        optimizer.update(isa, part);
        round_stochastic(isa, key, tile.step, part.first, {part.weights, n}, weights + offset);
    });
}

std::int64_t bf16_scratch_elements(const Optimizer& optimizer, const ParameterInfo& parameter,
                                   int threads) {
    const std::int64_t most = part_elements(optimizer, parameter);
    return parameter.elements() <= most ? parameter.elements() : most * threads;
}

void round_stochastic(Isa isa, const RandomKey& key, std::int64_t step, std::int64_t first,
                      std::span<const float> from, std::uint16_t* to) {
    constexpr std::uint64_t kPurpose = 0x726f756e64696e67;  // apart from others' use of the seed
    cpu::StochasticRounding problem{};
    problem.from = from.data(), problem.to = to;
    problem.first = first, problem.count = std::ssize(from);
    problem.seed = key.seed ^ kPurpose;
    problem.stream = std::uint64_t{key.parameter} << 32 | static_cast<std::uint32_t>(step);
    ops::kernels(isa).round_stochastic(problem);
}

void widen(Isa isa, std::span<const std::uint16_t> from, float* to) {
    ops::kernels(isa).decode_row(LayoutId::k_bf16, from.data(), std::ssize(from), to);
}

void add_squares(Team& team, Isa isa, std::span<const float> x, double& sum) {
    constexpr std::int64_t kBlocks = 256;  // at a time
    double sums[kBlocks];
    const auto square = ops::kernels(isa).sums_of_squares;
    for (std::size_t first = 0; first < x.size(); first += kBlocks * kSumElements) {
        const std::span<const float> part =
            x.subspan(first, std::min<std::size_t>(x.size() - first, kBlocks * kSumElements));
        const auto range = [&](std::int64_t begin, std::int64_t end) {
            square(part.data() + begin, end - begin, sums + begin / kSumElements);
        };
        if (std::ssize(part) <= kWorthSharing) {
            range(0, std::ssize(part));
        } else {
            team.run(std::ssize(part), 8 * kSumElements, range);
        }
        const std::int64_t blocks = ceil_div(std::ssize(part), kSumElements);
        for (std::int64_t b = 0; b < blocks; ++b) sum += sums[b];
    }
}

}  // namespace thimble::train
