// SPDX-License-Identifier: Apache-2.0
#include "train/optimizer.h"

#include <algorithm>

namespace thimble::train {

std::size_t Optimizer::state_bytes(const ParameterInfo& parameter) const {
    std::size_t bytes = 0;
    for (const SlotInfo& slot : slots(parameter)) bytes += slot.bytes(parameter.elements());
    return bytes;
}

UpdateTile slice(const Optimizer& optimizer, const UpdateTile& tile, std::int64_t offset,
                 std::int64_t count) {
    UpdateTile part = tile;
    part.first += offset, part.count = count;
    part.weights += offset, part.gradients += offset;
    const std::vector<SlotInfo> slots = optimizer.slots(tile.parameter);
    for (std::size_t i = 0; i < slots.size(); ++i) part.slots[i] += slots[i].bytes(offset);
    return part;
}

void update(const Optimizer& optimizer, Team& team, Isa isa, const UpdateTile& tile) {
    constexpr std::int64_t kWorthSharing = 32768;  // elements
    const std::int64_t unit = optimizer.tile_elements(tile.parameter);
    const std::int64_t grain = ceil_div(kWorthSharing, unit) * unit;
    if (tile.count <= grain) return optimizer.update(isa, tile);
    team.run(tile.count, grain, [&](std::int64_t begin, std::int64_t end) {
        optimizer.update(isa, slice(optimizer, tile, begin, end - begin));
    });
}

}  // namespace thimble::train
