// SPDX-License-Identifier: Apache-2.0
// Mixes of formats under the names that llama.cpp gave them (q4_k_m, q3_k_l, ...): which matrices
// get more bits than the mix's base type, by role, layer and shape. A table, checked against
// llama-quantize (of llama-cpp-python 0.3.36) tensor by tensor.
// differs: the position of a layer counts all layers, also those that a rule of the user's takes
// out; Falcon's own rules are left out, as no such model is read.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_file.h"

namespace thimble {

struct Mix {
    std::string_view name;        // "q4_k_m"
    TensorType base;              // of every matrix that no rule names
    std::uint32_t file_type = 0;  // general.file_type
    std::string_view alias = {};  // "q4_k"
};

// In llama.cpp's numbering order; by name or alias, null if there is none.
[[nodiscard]] std::span<const Mix> mixes() noexcept;
[[nodiscard]] const Mix* find_mix(std::string_view name) noexcept;

// What the rules ask of a model.
struct MixModel {
    std::string_view architecture;
    std::int64_t layers = 0, experts = 0;
    std::int64_t heads = 0, kv_heads = 0;  // of the first layer
    bool tied_embedding = false;
    bool importance = false;  // an importance matrix steers the encoders
};
struct MixTensor {
    std::string_view name;  // "blk.3.ffn_down.weight"
    std::int64_t cols = 0;
    bool stacked = false;  // a stack of experts' matrices
};

// The types of all quantisable matrices of a model, in their order: before rows that are no whole
// blocks make another type of some.
[[nodiscard]] std::vector<TensorType> mixed_types(const Mix& mix, const MixModel& model,
                                                  std::span<const MixTensor> matrices);

// What a type becomes for rows of `cols` weights: itself, or a type of shorter blocks with at least
// its bits, or f16.
[[nodiscard]] TensorType fitting_type(TensorType wanted, std::int64_t cols);

// Whether a matrix of this type is too bad to be of use unless importance steers its encoder: where
// llama-quantize refuses. `mix` null: none.
[[nodiscard]] bool needs_importance(const Mix* mix, TensorType type,
                                    std::string_view name) noexcept;

// The head of a model: output.weight, or the embedding that it shares.
[[nodiscard]] bool is_head(std::string_view name, bool tied_embedding) noexcept;

}  // namespace thimble
