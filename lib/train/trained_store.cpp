// SPDX-License-Identifier: Apache-2.0
#include "train/trained_store.h"

#include "model/device_form.h"

namespace thimble::train {

using Part = ParameterId::Part;

TrainedStore::TrainedStore(const ModelSource& source, const Exec& exec, Method& method,
                           ParameterSet& parameters, const Room& room)
    : exec_(exec),
      method_(method),
      parameters_(parameters),
      specs_(units_of(source)),
      frozen_(source, exec, false, true) {
    for (std::size_t u = 0; u < specs_.size(); ++u) method.declare(specs_[u], id_of(u), parameters);
    method.check();
    if (room.pages_layers) parameters.page_layers();
    parameters.allocate(exec, room.gradients, room.tier);
    for (std::size_t u = 0; u < specs_.size(); ++u) {
        const UnitSpec& unit = specs_[u];
        for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
            if (!is_trained({id_of(u), Part::kMatrix, i, 0}))
                frozen_.add_matrix(*unit.matrices[i].weight, false);
            if (unit.matrices[i].bias && !is_trained({id_of(u), Part::kBias, i, 0}))
                frozen_.add_vector(*unit.matrices[i].bias);
        }
        for (std::size_t i = 0; i < unit.vectors.size(); ++i) {
            if (!is_trained({id_of(u), Part::kVector, i, 0}))
                frozen_.add_vector(*unit.vectors[i].weight);
        }
    }
    if (!exec.dry) return;
    for (std::size_t u = 0; u < specs_.size(); ++u) {
        units_.push_back(unit_on_paper(specs_[u]));
        method_.bind(id_of(u), parameters_, units_.back());
        method_.refresh(exec_, id_of(u), units_.back());
    }
}

UnitId TrainedStore::id_of(std::size_t unit) const noexcept {
    if (unit == 0) return {UnitKind::kEmbedding, 0};
    if (unit + 1 == specs_.size()) return {UnitKind::kHead, 0};
    return {UnitKind::kLayer, static_cast<std::int64_t>(unit) - 1};
}

UnitWeights TrainedStore::unit_on_paper(const UnitSpec& unit) const {
    const auto vector = [&](const SourceTensor& t) {
        return View{reinterpret_cast<std::byte*>(64), exec_.dtype(), 1, t.cols(), t.cols()};
    };
    UnitWeights weights;
    for (const auto& m : unit.matrices) {
        const Shape2 shape{m.weight->rows(), m.weight->cols()};
        const PackedForm form =
            exec_.device == Device::kCuda ? device_form(*m.weight) : m.weight->form;
        Linear linear{form.view(shape, reinterpret_cast<const std::byte*>(64))};
        if (stays_coded(*m.weight, exec_))
            linear.weight.coded = reinterpret_cast<const ops::CodedMatrix*>(64);
        if (m.bias) linear.bias = vector(*m.bias);
        weights.matrices.push_back(linear);
    }
    for (const auto& v : unit.vectors) weights.vectors.push_back(vector(*v.weight));
    return weights;
}

UnitWeights TrainedStore::unit_in_memory(std::size_t u) const {
    const UnitSpec& unit = specs_[u];
    UnitWeights weights;
    for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
        Linear linear;
        if (!is_trained({id_of(u), Part::kMatrix, i, 0}))
            linear.weight = frozen_.matrix(*unit.matrices[i].weight);
        if (unit.matrices[i].bias && !is_trained({id_of(u), Part::kBias, i, 0}))
            linear.bias = frozen_.vector(*unit.matrices[i].bias);
        weights.matrices.push_back(linear);
    }
    for (std::size_t i = 0; i < unit.vectors.size(); ++i) {
        weights.vectors.push_back(is_trained({id_of(u), Part::kVector, i, 0})
                                      ? View{}
                                      : frozen_.vector(*unit.vectors[i].weight));
    }
    return weights;
}

// A layer's values into memory, and the next one's on their way: passes go up and down in turns.
void TrainedStore::fetch(UnitId unit) {
    const std::int64_t layers = std::ssize(specs_) - 2;
    if (unit.layer != last_layer_) direction_ = unit.layer > last_layer_ ? 1 : -1;
    last_layer_ = unit.layer;
    const std::int64_t ahead = unit.layer + direction_;
    const std::int64_t next = ahead >= 0 && ahead < layers ? ahead : unit.layer - direction_;
    parameters_.prefetch(static_cast<std::size_t>(unit.layer));
    if (next >= 0 && next < layers) parameters_.prefetch(static_cast<std::size_t>(next));
    parameters_.hold(static_cast<std::size_t>(unit.layer));
    method_.bind(unit, parameters_, units_[index_of(unit, specs_)]);
}

void TrainedStore::load() {
    frozen_.load();
    for (std::size_t u = 0; u < specs_.size(); ++u) {
        units_.push_back(unit_in_memory(u));
        method_.bind(id_of(u), parameters_, units_.back());
    }
}

void TrainedStore::refresh() {
    parameters_.refresh(exec_);
    for (std::size_t u = 0; u < specs_.size(); ++u) method_.refresh(exec_, id_of(u), units_[u]);
}

}  // namespace thimble::train
