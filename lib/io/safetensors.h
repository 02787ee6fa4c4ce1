// SPDX-License-Identifier: Apache-2.0
// The header of one safetensors file: tensor table and text metadata, fully checked, data
// untouched.
#pragma once

#include "io/cursor.h"
#include "io/json.h"
#include "io/model_file.h"

namespace thimble {

inline constexpr std::uint64_t kSafetensorsMaxHeaderBytes = 100'000'000;
inline constexpr std::size_t kSafetensorsMaxDims = 8;
inline constexpr std::size_t kSafetensorsMaxNameBytes = 4096;
inline constexpr std::string_view kSafetensorsMetadataKey = "__metadata__";

// Spelling of a type in the header ("BF16"); empty / nullopt where the container has none.
[[nodiscard]] std::string_view safetensors_dtype(TensorType type) noexcept;
[[nodiscard]] std::optional<TensorType> safetensors_type(std::string_view dtype) noexcept;

struct SafetensorsHeader {
    std::vector<TensorEntry> tensors;  // by offset; offsets absolute; they cover the data exactly
    Json metadata;                     // an object of strings, or null
};

[[nodiscard]] SafetensorsHeader parse_safetensors_header(Cursor& cursor, std::uint64_t file_bytes);

}  // namespace thimble
