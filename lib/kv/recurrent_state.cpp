// SPDX-License-Identifier: Apache-2.0
#include "kv/recurrent_state.h"

#include <algorithm>
#include <cstring>

namespace thimble {
namespace {

constexpr std::int64_t kSlots = RecurrentState::kRevocable + 1;

std::size_t layer_bytes(const RecurrentLayer& layer, DType dtype) {
    return static_cast<std::size_t>(kSlots * layer.channels) * size_of(dtype);
}

std::size_t all_bytes(const std::vector<RecurrentLayer>& layers, DType dtype) {
    std::size_t sum = 0;
    for (const RecurrentLayer& layer : layers) sum += layer_bytes(layer, dtype);
    return sum;
}

}  // namespace

RecurrentState::RecurrentState(const std::vector<RecurrentLayer>& layers, DType dtype)
    : dtype_(dtype), memory_(all_bytes(layers, dtype), Purpose::kKv) {
    std::size_t offset = 0;
    for (const RecurrentLayer& layer : layers) {
        layers_.push_back({offset, layer.channels});
        offset += layer_bytes(layer, dtype);
    }
}

RecurrentState RecurrentState::clone() const {
    RecurrentState copy;
    copy.dtype_ = dtype_;
    copy.layers_ = layers_;
    copy.memory_ = Buffer(memory_.bytes(), Purpose::kKv);
    if (memory_.bytes() > 0) std::memcpy(copy.memory_.data(), memory_.data(), memory_.bytes());
    return copy;
}

View RecurrentState::view(std::size_t layer, std::int64_t tokens) const noexcept {
    const Layer& l = layers_[layer];
    const auto at = static_cast<std::size_t>(tokens % kSlots * l.channels) * size_of(dtype_);
    return {const_cast<std::byte*>(memory_.data()) + l.offset + at, dtype_, 1, l.channels,
            l.channels};
}

std::span<std::byte> RecurrentState::state(std::size_t layer, std::int64_t tokens) const noexcept {
    const View v = view(layer, tokens);
    return {static_cast<std::byte*>(v.data), static_cast<std::size_t>(v.cols) * size_of(dtype_)};
}

void RecurrentState::step(const Exec& exec, std::size_t layer, std::int64_t first, View keep,
                          View take, View out) {
    const std::span<std::byte> start = state(layer, first);
    if (first == 0) std::memset(start.data(), 0, start.size());
    ops::recurrence(exec, keep, take, view(layer, first), out);
    for (std::int64_t t = std::max<std::int64_t>(out.rows - kSlots, 0); t < out.rows; ++t)
        ops::copy(exec, out.slice_rows(t, 1), view(layer, first + t + 1));
}

std::int64_t RecurrentState::rollback_floor(std::int64_t written) const noexcept {
    return layers_.empty() ? 0 : std::max<std::int64_t>(written - kRevocable, 0);
}

std::uint64_t RecurrentState::bytes() const noexcept {
    return layers_.empty() ? 0 : Buffer::charged_bytes(memory_.bytes());
}

std::uint64_t RecurrentState::predict_bytes(const std::vector<RecurrentLayer>& layers,
                                            DType dtype) {
    return layers.empty() ? 0 : Buffer::charged_bytes(all_bytes(layers, dtype));
}

}  // namespace thimble
