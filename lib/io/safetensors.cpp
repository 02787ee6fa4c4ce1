// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <algorithm>
#include <array>
#include <utility>

namespace thimble {
namespace {

using T = TensorType;
constexpr std::array<std::pair<TensorType, std::string_view>, 12> kDtypes = {{
    {T::kF64, "F64"},
    {T::kF32, "F32"},
    {T::kF16, "F16"},
    {T::kBF16, "BF16"},
    {T::kI64, "I64"},
    {T::kI32, "I32"},
    {T::kI16, "I16"},
    {T::kI8, "I8"},
    {T::kU8, "U8"},
    {T::kBool, "BOOL"},
    {T::kF8_E4M3, "F8_E4M3"},
    {T::kF8_E5M2, "F8_E5M2"},
}};

class HeaderParser {
  public:
    HeaderParser(const Cursor& in, std::uint64_t file_bytes)
        : in_(in), data_begin_(in.position()), data_bytes_(file_bytes - in.position()) {}

    SafetensorsHeader parse(const Json& root) const {
        SafetensorsHeader header;
        for (const auto& [name, value] : root.as_members(in_.name())) {
            if (name == kSafetensorsMetadataKey) {
                check_metadata(value);
                header.metadata = value;
            } else {
                header.tensors.push_back(tensor(name, value));
            }
        }
        check_cover(header.tensors);
        for (TensorEntry& t : header.tensors) t.offset += data_begin_;
        return header;
    }

  private:
    [[nodiscard]] Error error(const std::string& name, const std::string& what) const {
        return {Exit::kBadData, escaped(in_.name(), 1024),
                "tensor '" + escaped(name) + "': " + what};
    }

    void check_metadata(const Json& value) const {
        const bool strings =
            value.is_object() &&
            std::all_of(value.as_members("").begin(), value.as_members("").end(),
                        [](const auto& member) { return member.second.is_string(); });
        if (!strings) {
            throw Error(Exit::kBadData, escaped(in_.name(), 1024),
                        "'__metadata__' must be an object of strings");
        }
    }

    // A list of non-negative integers, at most `most` of them.
    [[nodiscard]] std::vector<std::uint64_t> naturals(const std::string& name, const char* key,
                                                      const Json* value, std::size_t most) const {
        std::vector<std::uint64_t> numbers;
        const bool fits =
            value != nullptr && value->is_array() && value->as_array("").size() <= most;
        if (fits) {
            for (const Json& element : value->as_array("")) {
                if (!element.is_int() || element.as_int("") < 0) break;
                numbers.push_back(static_cast<std::uint64_t>(element.as_int("")));
            }
        }
        if (!fits || numbers.size() != value->as_array("").size()) {
            throw error(name, std::string("'") + key + "' must be a list of at most " +
                                  std::to_string(most) + " non-negative integers");
        }
        return numbers;
    }

    [[nodiscard]] TensorEntry tensor(const std::string& name, const Json& value) const {
        if (name.empty() || name.size() > kSafetensorsMaxNameBytes) {
            throw error(name, "the name is empty or longer than 4096 bytes");
        }
        if (!value.is_object() || value.as_members("").size() != 3) {
            throw error(name, "expected an object of dtype, shape and data_offsets");
        }
        TensorEntry entry;
        entry.name = name;
        const Json* dtype = value.find("dtype");
        const auto type = dtype != nullptr && dtype->is_string()
                              ? safetensors_type(dtype->as_string(""))
                              : std::nullopt;
        if (!type) throw error(name, "'dtype' is missing or not a known type");
        entry.type = *type;
        entry.dims = naturals(name, "shape", value.find("shape"), kSafetensorsMaxDims);
        const auto offsets = naturals(name, "data_offsets", value.find("data_offsets"), 2);
        if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data_bytes_) {
            throw error(name, "'data_offsets' do not lie in the file's " +
                                  std::to_string(data_bytes_) + " bytes of data");
        }
        entry.offset = offsets[0];
        entry.bytes = offsets[1] - offsets[0];
        const auto bytes = tensor_bytes(entry.type, entry.dims);
        if (!bytes || *bytes != entry.bytes) {
            throw error(name, "'data_offsets' span " + std::to_string(entry.bytes) +
                                  " bytes, which is not the size of the shape");
        }
        return entry;
    }

    // Sorts by offset; no gap, no overlap, nothing after the last.
    void check_cover(std::vector<TensorEntry>& tensors) const {
        std::stable_sort(tensors.begin(), tensors.end(),
                         [](const TensorEntry& a, const TensorEntry& b) {
                             return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
                         });
        std::uint64_t end = 0;
        for (const TensorEntry& t : tensors) {
            if (t.offset != end) {
                throw error(t.name, "begins at data byte " + std::to_string(t.offset) +
                                        " where byte " + std::to_string(end) +
                                        " was expected (gap or overlap)");
            }
            end += t.bytes;
        }
        if (end != data_bytes_) {
            throw Error(Exit::kBadData, escaped(in_.name(), 1024),
                        "the tensors cover " + std::to_string(end) + " of " +
                            std::to_string(data_bytes_) + " bytes of data");
        }
    }

    const Cursor& in_;
    std::uint64_t data_begin_, data_bytes_;
};

}  // namespace

std::string_view safetensors_dtype(TensorType type) noexcept {
    for (const auto& [known, dtype] : kDtypes)
        if (known == type) return dtype;
    return {};
}

std::optional<TensorType> safetensors_type(std::string_view dtype) noexcept {
    for (const auto& [type, known] : kDtypes)
        if (known == dtype) return type;
    return std::nullopt;
}

SafetensorsHeader parse_safetensors_header(Cursor& in, std::uint64_t file_bytes) {
    const std::string text = in.read_string(kSafetensorsMaxHeaderBytes, "the header");
    if (text.empty() || text[0] != '{') {
        throw in.error("not a safetensors file: its header does not begin with '{'");
    }
    if (text.find_last_not_of(' ') != text.rfind('}')) {
        throw in.error("the safetensors header is followed by more than spaces");
    }
    JsonLimits limits;
    limits.max_depth = 3;
    const Json root = parse_json(text, escaped(in.name(), 1024), limits);
    return HeaderParser(in, file_bytes).parse(root);
}

}  // namespace thimble
