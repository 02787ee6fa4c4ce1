// SPDX-License-Identifier: Apache-2.0
// A model container on disk, read through one hardened loader: GGUF v2/v3 (single or split) or a
// Hugging Face directory (safetensors, single or sharded, with config.json). Everything in it is
// untrusted.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "io/json.h"

namespace thimble {

// Element types that tensors of either container may have; ggml's ids where ggml has them.
enum class TensorType : std::uint32_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ5_0 = 6,
    kQ5_1 = 7,
    kQ8_0 = 8,
    kQ8_1 = 9,
    kQ2_K = 10,
    kQ3_K = 11,
    kQ4_K = 12,
    kQ5_K = 13,
    kQ6_K = 14,
    kQ8_K = 15,
    kIQ2_XXS = 16,
    kIQ2_XS = 17,
    kIQ3_XXS = 18,
    kIQ1_S = 19,
    kIQ4_NL = 20,
    kIQ3_S = 21,
    kIQ2_S = 22,
    kIQ4_XS = 23,
    kI8 = 24,
    kI16 = 25,
    kI32 = 26,
    kI64 = 27,
    kF64 = 28,
    kIQ1_M = 29,
    kBF16 = 30,
    kTQ1_0 = 34,
    kTQ2_0 = 35,
    kMXFP4 = 39,
    kU8 = 1000,
    kF8_E4M3 = 1001,
    kF8_E5M2 = 1002,
    kBool = 1003,  // safetensors only
};
struct TensorTypeInfo {
    TensorType type;
    std::string_view name;         // "q8_0"
    std::uint32_t block_elements;  // elements per block along the row
    std::uint32_t block_bytes;
};
[[nodiscard]] const TensorTypeInfo* find_tensor_type(TensorType type) noexcept;
[[nodiscard]] const TensorTypeInfo* find_tensor_type(std::string_view name) noexcept;
// Types from here on exist in safetensors only.
inline constexpr std::uint32_t kFirstSafetensorsType = 1000;
// Bytes of a tensor; nullopt when the product overflows or a row is not whole blocks.
[[nodiscard]] std::optional<std::uint64_t> tensor_bytes(
    TensorType type, std::span<const std::uint64_t> dims) noexcept;

// A GGUF metadata value. Integers keep their width so that a file can be rewritten byte for byte.
struct MetaArray;
using MetaValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                               std::uint32_t, std::int32_t, float, bool, std::string, std::uint64_t,
                               std::int64_t, double, std::shared_ptr<const MetaArray>>;
using MetaElements =
    std::variant<std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>,
                 std::vector<std::int16_t>, std::vector<std::uint32_t>, std::vector<std::int32_t>,
                 std::vector<float>, std::vector<std::string>, std::vector<std::uint64_t>,
                 std::vector<std::int64_t>, std::vector<double>>;
struct MetaArray {
    MetaElements elements;
    bool is_bool = false;  // stored as vector<uint8_t>
};

// Ordered key -> value. Getters check type and range and throw Error(kBadData) naming file and key.
class Metadata {
  public:
    explicit Metadata(std::string file = {}) : file_(std::move(file)) {}
    [[nodiscard]] const MetaValue* find(std::string_view key) const noexcept;
    [[nodiscard]] std::optional<std::int64_t> find_int(
        std::string_view key) const;  // any integer type
    [[nodiscard]] std::optional<double> find_number(
        std::string_view key) const;  // integer or float
    [[nodiscard]] std::optional<bool> find_bool(std::string_view key) const;
    [[nodiscard]] std::optional<std::string_view> find_string(std::string_view key) const;
    [[nodiscard]] const MetaArray* find_array(std::string_view key) const;
    [[nodiscard]] std::int64_t get_int(std::string_view key, std::int64_t least,
                                       std::int64_t most) const;
    [[nodiscard]] double get_number(std::string_view key) const;
    [[nodiscard]] std::string_view get_string(std::string_view key) const;
    void set(std::string key, MetaValue value);  // replaces in place or appends
    void erase(std::string_view key);
    [[nodiscard]] const std::vector<std::pair<std::string, MetaValue>>& entries() const noexcept {
        return entries_;
    }
    [[nodiscard]] const std::string& file() const noexcept { return file_; }
    // Memory that the values hold; an open ModelFile charges it as vocabulary, its largest part.
    [[nodiscard]] std::uint64_t memory_bytes() const noexcept;

  private:
    struct Hash {
        using is_transparent = void;
        std::size_t operator()(std::string_view key) const noexcept {
            return std::hash<std::string_view>{}(key);
        }
    };
    std::string file_;
    std::vector<std::pair<std::string, MetaValue>> entries_;
    std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> index_;  // into entries_
};

struct TensorEntry {
    std::string name;
    TensorType type = TensorType::kF32;
    std::vector<std::uint64_t> dims;  // row-major: slowest first, so dims.back() is the row length
    int shard = 0;
    std::uint64_t offset = 0;  // absolute, in the shard's file
    std::uint64_t bytes = 0;
    [[nodiscard]] std::uint64_t row_elements() const noexcept {
        return dims.empty() ? 1 : dims.back();
    }
    [[nodiscard]] std::uint64_t rows() const noexcept;  // product of all but the last
};

// A tensor to be written.
struct TensorSpec {
    std::string name;
    TensorType type = TensorType::kF32;
    std::vector<std::uint64_t> dims;  // row-major, slowest first
};

enum class Container : std::uint8_t { kGguf, kHuggingFace };

class ModelFile {
  public:
    // A .gguf file (or the first of a split), a directory with config.json, or a .safetensors file.
    // Reads headers only. Errors: kNoInput (missing file or shard), kBadData (file, key, offset,
    // expected).
    [[nodiscard]] static std::unique_ptr<ModelFile> open(const std::string& path);
    virtual ~ModelFile() = default;

    [[nodiscard]] virtual Container container() const noexcept = 0;
    [[nodiscard]] virtual const std::string& path() const noexcept = 0;
    [[nodiscard]] virtual const Metadata& metadata() const noexcept = 0;  // GGUF; empty for HF
    [[nodiscard]] virtual const Json& config() const noexcept = 0;  // HF config.json; null for GGUF
    [[nodiscard]] virtual const std::vector<TensorEntry>& tensors() const noexcept = 0;
    [[nodiscard]] virtual const TensorEntry* find(std::string_view name) const noexcept = 0;
    [[nodiscard]] const TensorEntry& get(std::string_view name) const;  // throws kBadData
    [[nodiscard]] virtual std::vector<std::string> files()
        const = 0;  // the shards' paths, in order
    [[nodiscard]] virtual std::uint64_t file_bytes() const noexcept = 0;

    // Bytes [offset, offset + out.size()) of the tensor, by pread; a short read is Error(kIo).
    virtual void read(const TensorEntry& tensor, std::uint64_t offset,
                      std::span<std::byte> out) const = 0;
    // Maps all shards (once, read-only); the whole mapping is charged to the ledger as weights. The
    // tensor's bytes.
    [[nodiscard]] virtual std::span<const std::byte> map(const TensorEntry& tensor) = 0;
    // Tells the system that the mapped pages wholly inside the tensor are not needed any more, and
    // releases their charge. Mapping the tensor again charges them again.
    virtual void drop_pages(const TensorEntry& tensor) noexcept = 0;
};

}  // namespace thimble
