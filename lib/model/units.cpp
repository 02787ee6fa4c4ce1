// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "core/error.h"
#include "model/store.h"

namespace thimble {
namespace {

constexpr std::string_view kInputNorm = "_input_norm.weight";

// "blk.3.attn_q.weight" -> "attn_q"
std::string role_of(std::string_view name) {
    name = name.substr(0, name.rfind('.'));
    return std::string(name.substr(name.rfind('.') + 1));
}

template <class Items>
std::size_t index_of(const Items& items, std::string_view role) {
    const auto at = std::find_if(items.begin(), items.end(),
                                 [&](const auto& item) { return item.role == role; });
    if (at == items.end()) {
        throw Error(Exit::kBadData, "model",
                    "no tensor plays the part of '" + std::string(role) + "' that a block needs");
    }
    return static_cast<std::size_t>(at - items.begin());
}

void add(const ModelSource& source, const SourceTensor& tensor, UnitSpec& unit) {
    // These belong to their matrix.
    if (tensor.name.ends_with(".bias") || tensor.name.ends_with(kInputNorm)) return;
    const std::string role = role_of(tensor.name);
    if (!tensor.is_matrix) {
        unit.vectors.push_back({role, &tensor});
        return;
    }
    const std::string base = tensor.name.substr(0, tensor.name.rfind('.'));
    unit.matrices.push_back({role, &tensor, source.find(base + ".bias"),
                             source.find(base + std::string(kInputNorm)),
                             source.spec().input_norm_epsilon});
}

}  // namespace

std::size_t UnitSpec::matrix(std::string_view role) const { return index_of(matrices, role); }
std::size_t UnitSpec::vector(std::string_view role) const { return index_of(vectors, role); }
std::optional<std::size_t> UnitSpec::find_vector(std::string_view role) const noexcept {
    for (std::size_t i = 0; i < vectors.size(); ++i) {
        if (vectors[i].role == role) return i;
    }
    return std::nullopt;
}

std::vector<UnitSpec> units_of(const ModelSource& source) {
    const auto layers = static_cast<std::size_t>(source.spec().layers);
    std::vector<UnitSpec> units(layers + 2);
    for (const SourceTensor& tensor : source.tensors()) {
        const bool in_spec =
            tensor.name == "rope_freqs.weight" || tensor.rule->rows == Extent::kLayers;
        if (in_spec) continue;
        std::size_t unit = layers + 1;
        if (tensor.name == "token_embd.weight") unit = 0;
        if (tensor.name.starts_with("blk.")) unit = 1 + std::stoul(tensor.name.substr(4));
        add(source, tensor, units[unit]);
    }
    for (const SourceTensor& tensor : source.thresholds())
        units[static_cast<std::size_t>(tensor.layer) + 1].vectors.push_back(
            {"ffn_thresholds", &tensor});
    if (source.spec().tied_embedding) {
        units.back().matrices.push_back(
            {.role = "output", .weight = source.find("token_embd.weight")});
    }
    return units;
}

}  // namespace thimble
