// SPDX-License-Identifier: Apache-2.0
#include "train/fused_sink.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "ops/gradients.h"
#include "train/place.h"

namespace thimble::train {
namespace {

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

}  // namespace

FusedSink::FusedSink(ParameterSet& parameters, Updater& updater, const Exec& exec,
                     dist::Communicator& ranks)
    : parameters_(parameters), updater_(updater), exec_(exec), ranks_(ranks) {
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
    if (exec.dry) return;
    memory_ = Buffer(bytes_, Purpose::kGradients, host_place_of(exec));
    if (place_of(exec) == Place::kDevice)
        device_memory_ = Buffer(bytes_, Purpose::kGradients, Place::kDevice);
}

void FusedSink::begin_pass(Use use, std::int64_t step) {
    use_ = use, step_ = step;
    left_ = uses_;
    begun_.assign(parameters_.size(), false);
    squares_.assign(parameters_.size(), 0);
}

double FusedSink::sum_of_squares() const {
    return std::accumulate(squares_.begin(), squares_.end(), 0.0);
}

std::optional<View> FusedSink::gradient(const ParameterId& id) {
    const auto at = parameters_.find(id);
    if (!at) return std::nullopt;
    if (exec_.dry) return view(*at, reinterpret_cast<std::byte*>(64));
    const View to = view(*at, (device_memory_ ? device_memory_ : memory_).data());
    if (!begun_[*at]) {
        begun_[*at] = true;
        ops::clear(exec_, to);
    }
    return to;
}

View FusedSink::view(std::size_t at, std::byte* memory) const {
    const Shape2 shape = parameters_[at].info.shape;
    return {memory + places_[at], exec_.dtype(), shape.rows, shape.cols, shape.cols};
}

void FusedSink::done(const ParameterId& id) {
    if (exec_.dry) return;
    const std::size_t at = parameters_.find(id).value();
    if (--left_[at] == 0) use_up(at);
}

void FusedSink::use_up(std::size_t at) {
    const auto elements = static_cast<std::size_t>(parameters_[at].info.elements());
    const std::span gradient(reinterpret_cast<float*>(memory_.data() + places_[at]), elements);
    if (device_memory_)
        ops::copy_to_host(exec_, view(at, device_memory_.data()), view(at, memory_.data()));
    ranks_.sum(gradient);
    add_squares(*exec_.team, exec_.isa, gradient, squares_[at]);
    if (!std::isfinite(squares_[at])) {
        throw Error(Exit::kFailure, "step " + std::to_string(step_),
                    "the gradient of '" + parameters_[at].name + "' is not a finite number",
                    "lower --learning-rate");
    }
    if (use_ != Use::kUpdate) return;
    updater_.update(at, gradient.data());
    parameters_.refresh(exec_, at);
}

}  // namespace thimble::train
