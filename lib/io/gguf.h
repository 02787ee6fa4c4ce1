// SPDX-License-Identifier: Apache-2.0
// The header of one GGUF file: key-value pairs and tensor table, fully checked, data untouched.
#pragma once

#include <array>
#include <bit>

#include "io/cursor.h"
#include "io/model_file.h"

namespace thimble {

inline constexpr std::uint64_t kGgufDefaultAlignment = 32;
inline constexpr std::string_view kGgufAlignmentKey = "general.alignment";
[[nodiscard]] constexpr bool is_gguf_alignment(std::uint32_t v) noexcept {
    return v >= 8 && v <= 65'536 && std::has_single_bit(v);
}
// They describe the files of a split model, not the model.
inline constexpr std::string_view kGgufSplitNo = "split.no", kGgufSplitCount = "split.count",
                                  kGgufSplitTensors = "split.tensors.count";
inline constexpr std::array kGgufSplitKeys = {kGgufSplitNo, kGgufSplitCount, kGgufSplitTensors};
inline constexpr std::size_t kGgufMaxDims = 4;
inline constexpr std::uint64_t kGgufMaxHeaderBytes = std::uint64_t{256} << 20;

// Value types as stored.
enum class GgufType : std::uint32_t {
    kU8 = 0,
    kI8 = 1,
    kU16 = 2,
    kI16 = 3,
    kU32 = 4,
    kI32 = 5,
    kF32 = 6,
    kBool = 7,
    kString = 8,
    kArray = 9,
    kU64 = 10,
    kI64 = 11,
    kF64 = 12,
};

struct GgufHeader {
    std::uint32_t version = 0;
    std::uint64_t alignment = kGgufDefaultAlignment;
    std::uint64_t data_offset = 0;  // of the data section, in the file
    Metadata metadata;
    std::vector<TensorEntry> tensors;  // in the header's order; offsets absolute
};

// `file_bytes` is the whole file's size, which tensors must fit into.
[[nodiscard]] GgufHeader parse_gguf_header(Cursor& cursor, std::uint64_t file_bytes);

}  // namespace thimble
