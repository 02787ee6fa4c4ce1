// SPDX-License-Identifier: Apache-2.0
// A training method says which parameters there are and how the model's weights come from them.
// One leaf file in methods/ plus one line in methods.def makes a new one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/leaf.h"
#include "core/options.h"
#include "model/adapter.h"
#include "train/parameters.h"

namespace thimble::train {

// How a trained model is stored.
enum class ResultKind : std::uint8_t {
    kModel,    // the model's own tensors changed
    kAdapter,  // low-rank terms beside them
};

class Method {
  public:
    virtual ~Method() = default;
    [[nodiscard]] virtual ResultKind result() const = 0;
    // Adds the parameters of a unit. Rules (target modules) that match nothing in the whole model
    // are Error(kUsage), thrown by check().
    virtual void declare(const UnitSpec& unit, UnitId id, ParameterSet& parameters) = 0;
    virtual void check() const {}
    // First values of a parameter.
    virtual void initialise(const ModelSource& source, const ParameterSet& parameters,
                            std::size_t index, std::uint64_t seed) const = 0;
    // Hangs the parameters on the weights of a unit, whose other matrices are frozen.
    virtual void bind(UnitId id, const ParameterSet& parameters, UnitWeights& weights) = 0;
    // After the parameters changed (and before the first pass): what is derived from them.
    // `weights` are what bind() made of the unit.
    virtual void refresh(const Exec& exec, UnitId id, UnitWeights& weights) {
        (void)exec, (void)id, (void)weights;
    }
    // Before the optimizer reads gradients that backward made of what is derived.
    virtual void finish_gradients(const Exec& exec, ParameterSet& parameters) {
        (void)exec, (void)parameters;
    }
    // What was trained, for ResultKind::kAdapter; its values are the parameters'.
    [[nodiscard]] virtual Adapter adapter(const ModelSource& source,
                                          const ParameterSet& parameters) const {
        (void)source, (void)parameters;
        return {};
    }
    // Before a pass: which elements its dropout drops.
    virtual void set_pass(std::uint64_t seed, std::uint64_t pass) { (void)seed, (void)pass; }
};

using MethodType = LeafType<Method>;
template <class Leaf>
using MethodOf = LeafOf<Method, Leaf>;
[[nodiscard]] const Registry<MethodType>& methods();
// "lora:rank=16,alpha=32"
[[nodiscard]] std::unique_ptr<Method> make_method(std::string_view spec, std::string_view where);
// What --method can be, for OptionInfo::inline_forms.
[[nodiscard]] std::vector<InlineForm> method_forms();

}  // namespace thimble::train
