// SPDX-License-Identifier: Apache-2.0
#include "train/updater.h"

#include <algorithm>

namespace thimble::train {

Updater::Updater(ParameterSet& parameters, const Optimizer& optimizer, const Exec& exec,
                 std::uint64_t seed)
    : parameters_(parameters), optimizer_(optimizer), exec_(exec), seed_(seed) {
    std::int64_t most = 0;
    for (const Parameter& p : parameters.items()) {
        if (p.in_bf16)
            most = std::max(most, bf16_scratch_elements(optimizer, p.info, exec.team->threads()));
    }
    bytes_ = static_cast<std::size_t>(most) * sizeof(float);
    if (!exec.dry) scratch_ = Buffer(bytes_, Purpose::kOptimizer);
}

void Updater::begin_step(const UpdateStep& step, SlotStore& slots,
                         const std::vector<Chunk>& chunks) {
    step_ = step, slots_ = &slots, chunks_ = &chunks;
    first_chunk_.assign(parameters_.size() + 1, chunks.size());
    for (std::size_t c = chunks.size(); c-- > 0;) first_chunk_[chunks[c].parameter] = c;
}

void Updater::update(std::size_t parameter, const float* gradients) {
    Parameter& p = parameters_[parameter];
    for (std::size_t c = first_chunk_[parameter];
         c < chunks_->size() && (*chunks_)[c].parameter == parameter; ++c) {
        const Chunk& chunk = (*chunks_)[c];
        UpdateTile tile;
        tile.parameter = p.info;
        tile.first = chunk.first, tile.count = chunk.count;
        if (!p.in_bf16) tile.weights = p.values + chunk.first;
        tile.gradients = gradients + chunk.first;
        tile.gradient_scale = step_.gradient_scale;
        tile.slots = slots_->acquire(c);
        tile.step = step_.number;
        tile.learning_rate = step_.learning_rate * p.rate;
        tile.weight_decay = p.decays ? step_.weight_decay : 0;
        if (p.in_bf16) {
            update_bf16(optimizer_, *exec_.team, exec_.isa, tile,
                        {seed_, static_cast<std::uint32_t>(parameter)}, p.values_bf16 + chunk.first,
                        scratch_.span<float>());
        } else {
            train::update(optimizer_, *exec_.team, exec_.isa, tile);
        }
        slots_->release(c);
    }
    parameters_.change(parameter);
}

}  // namespace thimble::train
