// SPDX-License-Identifier: Apache-2.0
#include "train/parameters.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "ops/gradients.h"
#include "train/place.h"

namespace thimble::train {
namespace {

// Layers in memory of those on disk: the one at work, the next one, and one that is written.
constexpr std::size_t kSeats = 3;

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

}  // namespace

void Parameter::place(std::byte* memory) noexcept {
    values = in_bf16 ? nullptr : reinterpret_cast<float*>(memory);
    values_bf16 = in_bf16 ? reinterpret_cast<std::uint16_t*>(memory) : nullptr;
}

std::span<std::byte> Parameter::stored() const noexcept {
    std::byte* const memory =
        in_bf16 ? reinterpret_cast<std::byte*>(values_bf16) : reinterpret_cast<std::byte*>(values);
    return {memory, value_bytes()};
}

void Parameter::read(std::int64_t first, std::span<float> out) const noexcept {
    if (!in_bf16) {
        std::copy_n(values + first, out.size(), out.data());
    } else {
        std::transform(values_bf16 + first, values_bf16 + first + std::ssize(out), out.data(),
                       bf16_to_f32);
    }
}

void Parameter::write(std::int64_t first, std::span<const float> from) const noexcept {
    if (!in_bf16) {
        std::copy(from.begin(), from.end(), values + first);
    } else {
        std::transform(from.begin(), from.end(), values_bf16 + first, f32_to_bf16);
    }
}

PackedView Parameter::packed() const {
    const LayoutId layout = in_bf16 ? LayoutId::k_bf16 : LayoutId::k_f32;
    return block_form(layout, info.shape)
        .view(info.shape, on_device != nullptr ? on_device : stored().data());
}

View Parameter::vector() const {
    const std::int64_t n = info.elements();
    if (in_double != nullptr) return {in_double, DType::kF64, 1, n, n};
    if (on_device != nullptr) return {on_device, DType::kF32, 1, n, n};
    return {values, DType::kF32, 1, n, n};
}

std::size_t ParameterSet::add(const ParameterId& id, Parameter parameter) {
    items_.push_back(std::move(parameter));
    uses_.push_back(0);
    units_.push_back(id.unit);
    also(id, items_.size() - 1);
    return items_.size() - 1;
}

void ParameterSet::also(const ParameterId& id, std::size_t parameter) {
    if (!places_.emplace(key_of(id), parameter).second)
        throw Error(Exit::kFailure, items_[parameter].name, "is two parameters at once");
    ++uses_[parameter];
}

std::optional<std::size_t> ParameterSet::find(const ParameterId& id) const {
    const auto at = places_.find(key_of(id));
    return at == places_.end() ? std::nullopt : std::optional(at->second);
}

std::int64_t ParameterSet::elements() const noexcept {
    std::int64_t sum = 0;
    for (const Parameter& p : items_) sum += p.info.elements();
    return sum;
}

void ParameterSet::page_layers() {
    for (std::size_t i = 0; i < items_.size(); ++i) {
        if (units_[i].kind != UnitKind::kLayer) continue;
        const auto page = static_cast<std::size_t>(units_[i].layer);
        page_sizes_.resize(std::max(page_sizes_.size(), page + 1), 0);
        items_[i].page = page;
        items_[i].page_offset = page_sizes_[page];
        page_sizes_[page] += aligned(items_[i].value_bytes());
    }
}

std::size_t ParameterSet::value_bytes() const noexcept {
    std::size_t sum = 0;
    for (const Parameter& p : items_) sum += p.page ? 0 : aligned(p.value_bytes());
    return sum;
}

storage::PageBytes ParameterSet::page_bytes() const {
    return storage::PageCache::bytes(page_sizes_, kSeats);
}

std::size_t ParameterSet::gradient_bytes(DType dtype) const noexcept {
    std::size_t sum = 0;
    for (const Parameter& p : items_)
        sum += aligned(static_cast<std::size_t>(p.info.elements()) * size_of(dtype));
    return sum;
}

void ParameterSet::allocate(const Exec& exec, bool with_gradients, storage::StorageTier* tier) {
    if (!exec.dry) {
        values_ = Buffer(value_bytes(), Purpose::kWeights, host_place_of(exec));
        if (!page_sizes_.empty()) {
            pages_ =
                std::make_unique<storage::PageCache>(*tier, page_sizes_, kSeats, Purpose::kWeights);
        }
        const std::size_t gradients = with_gradients ? gradient_bytes(exec.dtype()) : 0;
        gradients_ = Buffer(gradients, Purpose::kGradients, host_place_of(exec));
        if (exec.device == Device::kCuda) {
            device_values_ = Buffer(value_bytes(), Purpose::kWeights, Place::kDevice);
            device_gradients_ = Buffer(gradients, Purpose::kGradients, Place::kDevice);
        }
    }
    std::size_t value = 0, gradient = 0;
    const auto at = [&](Buffer& buffer, std::size_t offset) {
        return exec.dry ? reinterpret_cast<std::byte*>(64 + offset) : buffer.data() + offset;
    };
    std::size_t doubles = 0;
    for (const Parameter& p : items_)
        doubles += p.info.shape.rows == 1 ? static_cast<std::size_t>(p.info.shape.cols) : 0;
    if (exec.dtype() == DType::kF64) in_double_.resize(doubles);
    doubles = 0;
    for (Parameter& p : items_) {
        const Shape2 shape = p.info.shape;
        if (!p.page || exec.dry) {
            p.place(at(values_, value));
            if (exec.device == Device::kCuda) p.on_device = at(device_values_, value);
            value += aligned(p.value_bytes());
        }
        if (exec.dtype() == DType::kF64 && shape.rows == 1) {
            p.in_double = in_double_.data() + doubles;
            doubles += static_cast<std::size_t>(shape.cols);
        }
        if (!with_gradients) continue;
        p.gradient = {at(gradients_, gradient), exec.dtype(), shape.rows, shape.cols, shape.cols};
        if (exec.device == Device::kCuda) {
            p.device_gradient = p.gradient;
            p.device_gradient.data = at(device_gradients_, gradient);
        }
        gradient += aligned(static_cast<std::size_t>(p.info.elements()) * size_of(exec.dtype()));
    }
}

void ParameterSet::hold(std::size_t page) {
    std::byte* const memory = pages_->acquire(page);
    for (Parameter& p : items_)
        if (p.page == page) p.place(memory + p.page_offset);
}

Parameter& HeldValues::hold(std::size_t parameter) {
    const std::optional<std::size_t> page = parameters_[parameter].page;
    if (page) parameters_.hold(*page);
    if (page_) parameters_.release(*page_);
    page_ = page;
    return parameters_[parameter];
}

HeldValues::~HeldValues() {
    if (page_) parameters_.release(*page_);
}

void ParameterSet::refresh(const Exec& exec, std::size_t parameter) {
    const Parameter& p = items_[parameter];
    if (p.on_device == nullptr) return;
    const auto n = static_cast<std::int64_t>(aligned(p.value_bytes()) / sizeof(float));
    ops::copy_to_device(exec, {p.stored().data(), DType::kF32, 1, n, n},
                        {p.on_device, DType::kF32, 1, n, n});
}

void ParameterSet::refresh(const Exec& exec) {
    if (device_values_) ops::copy_to_device(exec, floats_of(values_), floats_of(device_values_));
    for (Parameter& p : items_) {
        if (p.in_double == nullptr || p.info.shape.rows > 1) continue;
        std::copy_n(p.values, p.info.elements(), p.in_double);
    }
}

void ParameterSet::collect_gradients(const Exec& exec) {
    if (device_gradients_)
        ops::copy_to_host(exec, floats_of(device_gradients_), floats_of(gradients_));
}

void ParameterSet::zero_gradients(const Exec& exec) {
    if (device_gradients_) return ops::clear(exec, floats_of(device_gradients_));
    constexpr std::int64_t kPiece = std::int64_t{1} << 20;
    exec.team->run(static_cast<std::int64_t>(gradients_.bytes()), kPiece,
                   [&](std::int64_t begin, std::int64_t end) {
                       std::memset(gradients_.data() + begin, 0,
                                   static_cast<std::size_t>(end - begin));
                   });
}

std::optional<View> ParameterSet::gradient(const ParameterId& id) {
    const auto at = find(id);
    if (!at) return std::nullopt;
    const Parameter& p = items_[*at];
    return p.device_gradient.data != nullptr ? p.device_gradient : p.gradient;
}

}  // namespace thimble::train
