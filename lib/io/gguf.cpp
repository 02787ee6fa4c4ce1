// SPDX-License-Identifier: Apache-2.0
#include "io/gguf.h"

#include <algorithm>
#include <unordered_set>

#include "core/checked.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMaxKeys = 65'536;
constexpr std::uint64_t kMaxTensors = 1'000'000;
constexpr std::uint64_t kMaxKeyBytes = 65'536;
constexpr std::uint64_t kMaxStringBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kMaxStrings = std::uint64_t{16} << 20;  // of one array: 32 bytes each
constexpr std::uint64_t kMaxNameBytes = 64;
constexpr std::uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;         // length, key, type, value
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 4 + 8;  // length, name, n_dims, type, offset

template <class T>
std::vector<T> read_elements(Cursor& in, std::uint64_t count, const std::string& what) {
    in.require(count, sizeof(T), what);
    std::vector<T> elements(count);
    in.read_bytes(std::as_writable_bytes(std::span(elements)), what);
    return elements;
}

std::uint8_t read_bool(Cursor& in, const std::string& what) {
    const auto value = in.read<std::uint8_t>(what);
    if (value > 1) throw in.error(what + ": a boolean is 0 or 1, found " + std::to_string(value));
    return value;
}

std::vector<std::string> read_strings(Cursor& in, std::uint64_t count, const std::string& what) {
    in.require(count, sizeof(std::uint64_t), what);
    if (count > kMaxStrings) {
        throw in.error(what + ": " + std::to_string(count) + " strings; at most " +
                       std::to_string(kMaxStrings) + " are accepted");
    }
    std::vector<std::string> elements;
    elements.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i)
        elements.push_back(in.read_string(kMaxStringBytes, what));
    return elements;
}

MetaValue read_array(Cursor& in, const std::string& what) {
    const auto type = static_cast<GgufType>(in.read<std::uint32_t>(what));
    const auto count = in.read<std::uint64_t>(what);
    auto array = std::make_shared<MetaArray>();
    switch (type) {
        case GgufType::kU8:
            array->elements = read_elements<std::uint8_t>(in, count, what);
            break;
        case GgufType::kI8:
            array->elements = read_elements<std::int8_t>(in, count, what);
            break;
        case GgufType::kU16:
            array->elements = read_elements<std::uint16_t>(in, count, what);
            break;
        case GgufType::kI16:
            array->elements = read_elements<std::int16_t>(in, count, what);
            break;
        case GgufType::kU32:
            array->elements = read_elements<std::uint32_t>(in, count, what);
            break;
        case GgufType::kI32:
            array->elements = read_elements<std::int32_t>(in, count, what);
            break;
        case GgufType::kF32:
            array->elements = read_elements<float>(in, count, what);
            break;
        case GgufType::kU64:
            array->elements = read_elements<std::uint64_t>(in, count, what);
            break;
        case GgufType::kI64:
            array->elements = read_elements<std::int64_t>(in, count, what);
            break;
        case GgufType::kF64:
            array->elements = read_elements<double>(in, count, what);
            break;
        case GgufType::kString:
            array->elements = read_strings(in, count, what);
            break;
        case GgufType::kBool: {
            auto flags = read_elements<std::uint8_t>(in, count, what);
            if (std::any_of(flags.begin(), flags.end(), [](std::uint8_t v) { return v > 1; }))
                throw in.error(what + ": a boolean is 0 or 1");
            array->elements = std::move(flags);
            array->is_bool = true;
            break;
        }
        case GgufType::kArray:
            throw in.error(what + ": arrays of arrays are not accepted");
        default:
            throw in.error(what + ": unknown element type " +
                           std::to_string(static_cast<std::uint32_t>(type)));
    }
    return std::shared_ptr<const MetaArray>(std::move(array));
}

MetaValue read_value(Cursor& in, const std::string& what) {
    const auto type = static_cast<GgufType>(in.read<std::uint32_t>(what));
    switch (type) {
        case GgufType::kU8:
            return in.read<std::uint8_t>(what);
        case GgufType::kI8:
            return in.read<std::int8_t>(what);
        case GgufType::kU16:
            return in.read<std::uint16_t>(what);
        case GgufType::kI16:
            return in.read<std::int16_t>(what);
        case GgufType::kU32:
            return in.read<std::uint32_t>(what);
        case GgufType::kI32:
            return in.read<std::int32_t>(what);
        case GgufType::kF32:
            return in.read<float>(what);
        case GgufType::kBool:
            return read_bool(in, what) == 1;
        case GgufType::kString:
            return in.read_string(kMaxStringBytes, what);
        case GgufType::kArray:
            return read_array(in, what);
        case GgufType::kU64:
            return in.read<std::uint64_t>(what);
        case GgufType::kI64:
            return in.read<std::int64_t>(what);
        case GgufType::kF64:
            return in.read<double>(what);
    }
    throw in.error(what + ": unknown value type " +
                   std::to_string(static_cast<std::uint32_t>(type)));
}

std::uint32_t read_version(Cursor& in) {
    if (in.read<std::uint32_t>("magic") != 0x46554747) {  // "GGUF"
        throw in.error("not a GGUF file: it does not begin with 'GGUF'");
    }
    const auto version = in.read<std::uint32_t>("version");
    if (version == 2 || version == 3) return version;
    if (const auto swapped = __builtin_bswap32(version); swapped >= 1 && swapped <= 0xffff) {
        throw in.error("GGUF of big-endian byte order", "convert it for little-endian machines");
    }
    throw in.error("GGUF version " + std::to_string(version) + "; versions 2 and 3 are known",
                   version == 1 ? "convert the model again with a current converter" : "");
}

Metadata read_metadata(Cursor& in, std::uint64_t count) {
    if (count > kMaxKeys) {
        throw in.error(std::to_string(count) + " keys; at most " + std::to_string(kMaxKeys) +
                       " are accepted");
    }
    in.require(count, kMinKeyBytes, "the key table");
    Metadata metadata(in.name());
    for (std::uint64_t i = 0; i < count; ++i) {
        std::string key = in.read_string(kMaxKeyBytes, "key " + std::to_string(i));
        if (key.empty() || !is_utf8(key)) {
            throw in.error("key " + std::to_string(i) + " '" + escaped(key) +
                           "' is empty or not UTF-8");
        }
        const std::string what = "key '" + escaped(key) + "'";
        if (metadata.find(key) != nullptr) throw in.error(what + " occurs twice");
        MetaValue value = read_value(in, what);
        metadata.set(std::move(key), std::move(value));
    }
    return metadata;
}

std::uint64_t read_alignment(const Cursor& in, const Metadata& metadata) {
    const MetaValue* value = metadata.find(kGgufAlignmentKey);
    if (value == nullptr) return kGgufDefaultAlignment;
    const auto* alignment = std::get_if<std::uint32_t>(value);
    if (alignment == nullptr || !is_gguf_alignment(*alignment)) {
        throw in.error("key 'general.alignment' must be a uint32 power of two from 8 to 65536");
    }
    return *alignment;
}

// Sets type, dims and bytes; leaves the offset relative to the data section.
TensorEntry read_tensor(Cursor& in, std::uint64_t index) {
    TensorEntry tensor;
    tensor.name = in.read_string(kMaxNameBytes, "name of tensor " + std::to_string(index));
    const std::string what = "tensor '" + escaped(tensor.name) + "'";
    if (tensor.name.empty() || !is_utf8(tensor.name)) {
        throw in.error(what + ": the name is empty or not UTF-8");
    }
    const auto n_dims = in.read<std::uint32_t>(what);
    if (n_dims > kGgufMaxDims) {
        throw in.error(what + ": " + std::to_string(n_dims) + " dimensions; at most 4 are known");
    }
    for (std::uint32_t d = 0; d < n_dims; ++d) tensor.dims.push_back(in.read<std::uint64_t>(what));
    std::reverse(tensor.dims.begin(), tensor.dims.end());  // stored fastest first
    const auto type = in.read<std::uint32_t>(what);
    tensor.type = static_cast<TensorType>(type);
    if (find_tensor_type(tensor.type) == nullptr || type >= kFirstSafetensorsType) {
        throw in.error(what + ": unknown type " + std::to_string(type));
    }
    const auto bytes = tensor_bytes(tensor.type, tensor.dims);
    if (!bytes) {
        throw in.error(what + ": the shape is too large, or a row of " +
                       std::to_string(tensor.row_elements()) + " is not a multiple of the block");
    }
    tensor.bytes = *bytes;
    tensor.offset = in.read<std::uint64_t>(what);
    return tensor;
}

// Makes offsets absolute; every tensor inside the file, aligned, none over another.
void place_tensors(const Cursor& in, GgufHeader& header, std::uint64_t file_bytes) {
    const std::uint64_t data_bytes =
        file_bytes > header.data_offset ? file_bytes - header.data_offset : 0;
    std::vector<const TensorEntry*> order;
    for (TensorEntry& tensor : header.tensors) {
        const std::string what = "tensor '" + escaped(tensor.name) + "'";
        if (tensor.offset % header.alignment != 0) {
            throw in.error(what + ": offset " + std::to_string(tensor.offset) +
                           " is not a multiple of " + std::to_string(header.alignment));
        }
        if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
            throw in.error(what + ": " + std::to_string(tensor.bytes) + " bytes at data offset " +
                               std::to_string(tensor.offset) + " pass the end of the file (" +
                               std::to_string(data_bytes) + " bytes of data)",
                           "the file is truncated or corrupt");
        }
        tensor.offset += header.data_offset;
        if (tensor.bytes > 0) order.push_back(&tensor);
    }
    std::sort(order.begin(), order.end(),
              [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < order.size(); ++i) {
        if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes) {
            throw in.error("tensors '" + escaped(order[i - 1]->name) + "' and '" +
                           escaped(order[i]->name) + "' overlap");
        }
    }
}

}  // namespace

GgufHeader parse_gguf_header(Cursor& in, std::uint64_t file_bytes) {
    GgufHeader header;
    header.version = read_version(in);
    const auto n_tensors = in.read<std::uint64_t>("tensor count");
    const auto n_keys = in.read<std::uint64_t>("key count");
    header.metadata = read_metadata(in, n_keys);
    header.alignment = read_alignment(in, header.metadata);
    if (n_tensors > kMaxTensors) {
        throw in.error(std::to_string(n_tensors) + " tensors; at most " +
                       std::to_string(kMaxTensors) + " are accepted");
    }
    in.require(n_tensors, kMinTensorBytes, "the tensor table");
    std::unordered_set<std::string> names;
    for (std::uint64_t i = 0; i < n_tensors; ++i) {
        header.tensors.push_back(read_tensor(in, i));
        if (!names.insert(header.tensors.back().name).second) {
            throw in.error("tensor '" + escaped(header.tensors.back().name) + "' occurs twice");
        }
    }
    header.data_offset = *checked_round_up(in.position(), header.alignment);
    place_tensors(in, header, file_bytes);
    return header;
}

}  // namespace thimble
