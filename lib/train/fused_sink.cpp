// SPDX-License-Identifier: Apache-2.0
#include "train/fused_sink.h"

#include <algorithm>
#include <cstring>

namespace thimble::train {
namespace {

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

}  // namespace

FusedSink::FusedSink(ParameterSet& parameters, const Optimizer& optimizer, const Exec& exec,
                     dist::Communicator& ranks)
    : parameters_(parameters), optimizer_(optimizer), exec_(exec), ranks_(ranks) {
    std::size_t largest = 0;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        const std::size_t bytes = aligned(static_cast<std::size_t>(parameters[i].info.elements()) *
                                          size_of(exec.dtype()));
        uses_.push_back(parameters.uses(i));
        places_.push_back(0);
        if (stays(i)) {
            places_.back() = bytes_;
            bytes_ += bytes;
        } else {
            largest = std::max(largest, bytes);
        }
    }
    // The others take turns behind those.
    for (std::size_t i = 0; i < parameters.size(); ++i) {
        if (!stays(i)) places_[i] = bytes_;
    }
    bytes_ += largest;
    if (!exec.dry) memory_ = Buffer(bytes_, Purpose::kGradients);
}

void FusedSink::begin_step(std::int64_t step, double learning_rate, double weight_decay,
                           SlotStore& slots, const std::vector<Chunk>& chunks) {
    step_ = step, learning_rate_ = learning_rate, weight_decay_ = weight_decay;
    slots_ = &slots, chunks_ = &chunks;
    left_ = uses_;
    begun_.assign(parameters_.size(), false);
    first_chunk_.assign(parameters_.size() + 1, chunks.size());
    for (std::size_t c = chunks.size(); c-- > 0;) first_chunk_[chunks[c].parameter] = c;
}

std::optional<View> FusedSink::gradient(const ParameterId& id) {
    const auto at = parameters_.find(id);
    if (!at) return std::nullopt;
    const Shape2 shape = parameters_[*at].info.shape;
    if (exec_.dry)
        return View{reinterpret_cast<std::byte*>(64), exec_.dtype(), shape.rows, shape.cols,
                    shape.cols};
    const View view = {memory_.data() + places_[*at], exec_.dtype(), shape.rows, shape.cols,
                       shape.cols};
    if (!begun_[*at]) {
        begun_[*at] = true;
        std::memset(
            view.data, 0,
            static_cast<std::size_t>(parameters_[*at].info.elements()) * size_of(exec_.dtype()));
    }
    return view;
}

void FusedSink::done(const ParameterId& id) {
    if (exec_.dry) return;
    const std::size_t at = parameters_.find(id).value();
    if (--left_[at] == 0) update(at);
}

void FusedSink::update(std::size_t at) {
    Parameter& p = parameters_[at];
    float* const gradient = reinterpret_cast<float*>(memory_.data() + places_[at]);
    ranks_.sum({gradient, static_cast<std::size_t>(p.info.elements())});
    for (std::size_t c = first_chunk_[at]; c < chunks_->size() && (*chunks_)[c].parameter == at;
         ++c) {
        const Chunk& chunk = (*chunks_)[c];
        UpdateTile tile;
        tile.parameter = p.info;
        tile.first = chunk.first, tile.count = chunk.count;
        tile.weights = p.values + chunk.first;
        tile.gradients = gradient + chunk.first;
        tile.slots = slots_->acquire(c);
        tile.step = step_;
        tile.learning_rate = learning_rate_ * p.rate;
        tile.weight_decay = p.decays ? weight_decay_ : 0;
        train::update(optimizer_, *exec_.team, exec_.isa, tile);
        slots_->release(c);
    }
    parameters_.change(at);
}

}  // namespace thimble::train
