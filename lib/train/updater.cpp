// SPDX-License-Identifier: Apache-2.0
#include "train/updater.h"

namespace thimble::train {

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
        tile.weights = p.values + chunk.first;
        tile.gradients = gradients + chunk.first;
        tile.gradient_scale = step_.gradient_scale;
        tile.slots = slots_->acquire(c);
        tile.step = step_.number;
        tile.learning_rate = step_.learning_rate * p.rate;
        tile.weight_decay = p.decays ? step_.weight_decay : 0;
        train::update(optimizer_, *exec_.team, exec_.isa, tile);
        slots_->release(c);
    }
    parameters_.change(parameter);
}

}  // namespace thimble::train
