// SPDX-License-Identifier: Apache-2.0
#include "model/import.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "format/weight_format.h"

namespace thimble {
namespace {

constexpr std::string_view kKey = "quantization_config";

std::string text(const std::vector<std::uint64_t>& dims) {
    std::string out = "[";
    for (const std::uint64_t d : dims) out += (out.size() > 1 ? ", " : "") + std::to_string(d);
    return out + "]";
}

}  // namespace

#define THIMBLE_IMPORT(id) std::unique_ptr<ImportMethod> make_import_##id();
#include "model/imports.def"
#undef THIMBLE_IMPORT

const Registry<ImportMethod>& import_methods() {
    static const Registry<ImportMethod> registry = [] {
        std::vector<std::unique_ptr<ImportMethod>> items;
#define THIMBLE_IMPORT(id) items.push_back(make_import_##id());
#include "model/imports.def"
#undef THIMBLE_IMPORT
        return Registry<ImportMethod>("quantisation method", std::move(items));
    }();
    return registry;
}

std::unique_ptr<Importer> open_importer(const ModelFile& file) {
    const Json* object = file.config().find(kKey);
    if (object == nullptr || object->is_null()) return nullptr;
    const ImportConfig config(file, *object);
    const std::string method = config.find_string("quant_method", "");
    const ImportMethod* found = import_methods().find(method);
    if (found == nullptr) {
        std::string known;
        for (const std::string& name : import_methods().names())
            known += (known.empty() ? "supported: " : ", ") + name;
        throw Error(Exit::kBadData,
                    escaped(file.path(), 1024) + ": key '" + std::string(kKey) + ".quant_method'",
                    "'" + escaped(method) + "' is not supported", known);
    }
    return found->open(config);
}

ImportConfig::ImportConfig(const ModelFile& file, const Json& object)
    : file_(file), object_(object) {
    (void)object_.as_members(escaped(file.path(), 1024) + ": key '" + std::string(kKey) + "'");
}

void ImportConfig::fail(std::string_view key, const std::string& what) const {
    throw Error(
        Exit::kBadData,
        escaped(file_.path(), 1024) + ": key '" + std::string(kKey) + "." + escaped(key) + "'",
        what);
}

void ImportConfig::fail_tensor(const std::string& tensor, const std::string& what) const {
    throw Error(Exit::kBadData, escaped(file_.path(), 1024),
                "tensor '" + escaped(tensor) + "' " + what);
}

const Json* ImportConfig::find(std::string_view key) const {
    const Json* value = object_.find(key);
    return value != nullptr && !value->is_null() ? value : nullptr;
}

std::optional<std::int64_t> ImportConfig::find_int(std::string_view key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_int()) fail(key, "is not an integer");
    return value->as_int("");
}

std::int64_t ImportConfig::get_int(std::string_view key) const {
    const auto value = find_int(key);
    if (!value) fail(key, "is missing");
    return *value;
}

bool ImportConfig::find_bool(std::string_view key, bool otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_bool()) fail(key, "is neither true nor false");
    return value->as_bool("");
}

std::string ImportConfig::find_string(std::string_view key, std::string_view otherwise) const {
    const Json* value = find(key);
    if (value == nullptr) return std::string(otherwise);
    if (!value->is_string()) fail(key, "is not a string");
    return value->as_string("");
}

void ImportConfig::expect_keys(std::initializer_list<std::string_view> known) const {
    for (const auto& [key, value] : object_.as_members("")) {
        if (std::find(known.begin(), known.end(), key) != known.end()) continue;
        const std::vector<std::string> names(known.begin(), known.end());
        fail(key, "is not known here" + did_you_mean(key, names));
    }
}

const TensorEntry* ImportConfig::find_tensor(const std::string& name,
                                             std::initializer_list<TensorType> types,
                                             const std::vector<std::uint64_t>& dims) const {
    const TensorEntry* entry = file_.find(name);
    if (entry == nullptr) return nullptr;
    if (std::find(types.begin(), types.end(), entry->type) == types.end()) {
        std::string list;
        for (const TensorType type : types)
            list += (list.empty() ? "" : " or ") + std::string(find_tensor_type(type)->name);
        fail_tensor(name, "has type " + std::string(find_tensor_type(entry->type)->name) +
                              ", expected " + list);
    }
    if (entry->dims != dims)
        fail_tensor(name, "has shape " + text(entry->dims) + ", expected " + text(dims));
    return entry;
}

const TensorEntry& ImportConfig::get_tensor(const std::string& name,
                                            std::initializer_list<TensorType> types,
                                            const std::vector<std::uint64_t>& dims) const {
    const TensorEntry* entry = find_tensor(name, types, dims);
    if (entry == nullptr) fail_tensor(name, "is missing");
    return *entry;
}

void read_transposed(const ModelFile& file, const TensorEntry& entry, std::size_t size,
                     RowRange rows, std::byte* out) {
    const std::uint64_t stored_rows = entry.rows(), pitch = entry.row_elements() * size;
    const auto count = static_cast<std::size_t>(rows.count);
    std::vector<std::byte> line(count * size);
    for (std::uint64_t j = 0; j < stored_rows; ++j) {
        file.read(entry, j * pitch + static_cast<std::uint64_t>(rows.first) * size, line);
        for (std::size_t r = 0; r < count; ++r)
            std::memcpy(out + (r * stored_rows + j) * size, line.data() + r * size, size);
    }
}

std::vector<std::int16_t> read_group_index(const ImportConfig& config, const std::string& tensor,
                                           std::uint64_t in, std::uint64_t groups,
                                           std::vector<const TensorEntry*>& entries) {
    const TensorEntry* entry = config.find_tensor(tensor, {TensorType::kI32}, {in});
    if (entry == nullptr) return {};
    entries.push_back(entry);
    if (groups < 1 || groups > 0x7fff)
        config.fail_tensor(
            tensor, "belongs to " + std::to_string(groups) + " groups; 1 to 32767 are accepted");
    std::vector<std::int32_t> stored(in);
    config.file().read(*entry, 0, std::as_writable_bytes(std::span(stored)));
    bool plain = in % groups == 0;
    for (std::uint64_t k = 0; k < in; ++k) {
        if (stored[k] < 0 || static_cast<std::uint64_t>(stored[k]) >= groups) {
            config.fail_tensor(tensor, "names group " + std::to_string(stored[k]) + " of " +
                                           std::to_string(groups));
        }
        plain = plain && static_cast<std::uint64_t>(stored[k]) == k / (in / groups);
    }
    if (plain) return {};
    std::vector<std::int16_t> out;
    for (const std::int32_t g : stored) out.push_back(static_cast<std::int16_t>(g));
    return out;
}

DType scale_dtype(TensorType type) {
    if (type == TensorType::kF16) return DType::kF16;
    return type == TensorType::kBF16 ? DType::kBF16 : DType::kF32;
}

PlaneInfo plane_info(std::string name, DType dtype, std::vector<std::uint64_t> dims) {
    PlaneInfo info;
    info.name = std::move(name);
    info.dtype = dtype;
    info.dims = std::move(dims);
    return info;
}

PackedForm imported_form(const ImportConfig& config, const std::string& module, LayoutId layout,
                         Shape2 shape, const std::vector<PlaneInfo>& planes) {
    try {
        return format_of(layout).form(shape, planes);
    } catch (const Error& e) {
        throw Error(e.exit(), escaped(config.file().path(), 1024),
                    "module '" + escaped(module) + "': " + e.where() + " " + e.problem(), e.hint());
    }
}

}  // namespace thimble
