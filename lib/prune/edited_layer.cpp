// SPDX-License-Identifier: Apache-2.0
#include "prune/edited_layer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "format/weight_format.h"

namespace thimble::prune {
namespace {

constexpr std::int64_t kElements = std::int64_t{1} << 18;  // that one thread reads at a time

std::size_t elements_of(const SourceTensor& tensor) {
    return static_cast<std::size_t>(tensor.rows() * tensor.cols());
}
// In floats, so that each begins at a multiple of 64 bytes.
std::size_t room(const SourceTensor& tensor) { return (elements_of(tensor) + 15) / 16 * 16; }

std::size_t room(const UnitSpec& unit) {
    std::size_t sum = 0;
    for (const auto& m : unit.matrices) sum += room(*m.weight) + (m.bias ? room(*m.bias) : 0);
    for (const auto& v : unit.vectors) sum += room(*v.weight);
    return sum;
}

std::size_t largest_layer(const std::vector<UnitSpec>& units) {
    std::size_t most = 0;
    for (std::size_t u = 1; u + 1 < units.size(); ++u) most = std::max(most, room(units[u]));
    return most * sizeof(float);
}

}  // namespace

std::size_t EditedLayer::layer_bytes(const ModelSource& source) {
    return largest_layer(units_of(source));
}

EditedLayer::EditedLayer(std::unique_ptr<WeightStore> rest, const ModelSource& source)
    : rest_(std::move(rest)),
      source_(source),
      specs_(units_of(source)),
      memory_(largest_layer(specs_), Purpose::kWeights) {
    if (source.spec().input_norm_epsilon > 0) {
        throw Error(Exit::kUsage, escaped(source.file().path(), 1024),
                    "has matrices with coded input, which were trained as they are: no weights "
                    "can be zeroed one by one",
                    "methods that drop layers or channels take it");
    }
}

const UnitSpec& EditedLayer::unit() const noexcept {
    return specs_[static_cast<std::size_t>(layer_) + 1];
}

std::span<float> EditedLayer::weights(std::size_t matrix) noexcept { return matrices_[matrix]; }

void EditedLayer::read(const SourceTensor& tensor, float* out, Team& team) const {
    const std::int64_t cols = tensor.cols();
    team.run(tensor.rows(), std::max<std::int64_t>(kElements / cols, 1),
             [&](std::int64_t begin, std::int64_t end) {
                 std::vector<std::byte> scratch;
                 source_.read_rows(tensor, begin, end - begin, out + begin * cols, scratch);
             });
    if (std::all_of(out, out + elements_of(tensor), [](float w) { return std::isfinite(w); }))
        return;
    throw Error(Exit::kBadData, escaped(source_.file().path(), 1024),
                "tensor '" + tensor.name + "' has weights that are not finite");
}

void EditedLayer::open(std::int64_t layer, Team& team) {
    layer_ = layer;
    matrices_.clear();
    weights_ = {};
    float* at = memory_.as<float>();
    const auto place = [&](const SourceTensor& tensor) {
        float* here = at;
        at += room(tensor);
        read(tensor, here, team);
        return here;
    };
    const auto vector = [&](const SourceTensor& tensor) {
        return View{place(tensor), DType::kF32, 1, tensor.cols(), tensor.cols()};
    };
    for (const auto& m : unit().matrices) {
        const Shape2 shape{m.weight->rows(), m.weight->cols()};
        float* here = place(*m.weight);
        matrices_.emplace_back(here, elements_of(*m.weight));
        Linear linear;
        linear.weight = block_form(LayoutId::k_f32, shape)
                            .view(shape, reinterpret_cast<const std::byte*>(here));
        if (m.bias) linear.bias = vector(*m.bias);
        weights_.matrices.push_back(linear);
    }
    for (const auto& v : unit().vectors) weights_.vectors.push_back(vector(*v.weight));
}

Lease EditedLayer::acquire(UnitId unit) {
    if (unit.kind != UnitKind::kLayer || unit.layer != layer_) return rest_->acquire(unit);
    return {*this, unit, weights_};
}

}  // namespace thimble::prune
