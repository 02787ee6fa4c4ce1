// SPDX-License-Identifier: Apache-2.0
#include "model/packed_tensor.h"

#include <algorithm>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/coded_tensor.h"
#include "model/factored_tensor.h"
#include "model/stacked_tensor.h"

namespace thimble {
namespace {

constexpr int kVersion = 1;
constexpr std::size_t kMaxName = 63;  // bytes of a tensor's name that every reader takes

struct StoredType {
    DType dtype;
    TensorType type;
};
// Files have no tensors of unsigned integers, and those of bf16 are not for every reader.
constexpr StoredType kStoredTypes[] = {
    {DType::kF32, TensorType::kF32},  {DType::kF16, TensorType::kF16},
    {DType::kBF16, TensorType::kI16}, {DType::kI32, TensorType::kI32},
    {DType::kI16, TensorType::kI16},  {DType::kI8, TensorType::kI8},
    {DType::kU8, TensorType::kI8},
};

TensorType stored_type(DType dtype) {
    const auto* at = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                  [&](const StoredType& t) { return t.dtype == dtype; });
    if (at == std::end(kStoredTypes))
        throw Error(Exit::kFailure, std::string(name(dtype)), "no plane has this type");
    return at->type;
}

std::string key_of(const ModelFile& file, const std::string& tensor) {
    return escaped(file.path(), 1024) + ": key '" + std::string(kFormatKey) + tensor + "'";
}

class StoredPlanes final : public PackedTensor {
  public:
    StoredPlanes(const ModelFile& file, const std::string& tensor, const Json& json, Shape2 shape)
        : where_(key_of(file, tensor)) {
        const WeightFormat* format = nullptr;
        const Json* planes = nullptr;
        for (const auto& [key, value] : json.as_members(where_)) {
            if (key == "format") {
                format = weight_formats().find(value.as_string(where_));
                if (format == nullptr)
                    fail("names format '" + escaped(value.as_string(where_)) +
                         "', which is not known here");
            } else if (key == "version") {
                if (value.as_int(where_) != kVersion)
                    fail("is of a version that this program does not know");
            } else if (key == "shape") {
                check_shape(value, shape);
            } else if (key == "planes") {
                planes = &value;
            } else if (key == "linear") {
                if (!value.as_members(where_).empty())
                    fail("asks for a run-time step that this program does not know");
            } else {
                fail("has '" + escaped(key) + "', which is not known here");
            }
        }
        for (const char* key : {"format", "version", "shape", "planes", "linear"}) {
            if (json.find(key) == nullptr) fail(std::string("lacks '") + key + "'");
        }
        make_form(file, tensor, *format, *planes, shape);
    }

    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override {
        const std::size_t row_bytes = form_.planes[plane].row_bytes;
        file.read(*tensor_of_[plane], static_cast<std::uint64_t>(rows.first) * row_bytes, out);
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw Error(Exit::kBadData, where_, what);
    }
    void check_shape(const Json& value, Shape2 shape) const {
        const JsonArray& dims = value.as_array(where_);
        if (dims.size() != 2 || dims[0].as_int(where_) != shape.rows ||
            dims[1].as_int(where_) != shape.cols) {
            fail("says shape " + value.dump() + ", the config wants [" +
                 std::to_string(shape.rows) + ", " + std::to_string(shape.cols) + "]");
        }
    }
    void make_form(const ModelFile& file, const std::string& tensor, const WeightFormat& format,
                   const Json& planes, Shape2 shape) {
        std::vector<PlaneInfo> infos;
        for (const Json& plane : planes.as_array(where_)) {
            const Json* name = plane.find("name");
            const Json* dtype = plane.find("dtype");
            if (name == nullptr || dtype == nullptr || plane.as_members(where_).size() != 2)
                fail("must list planes of 'name' and 'dtype'");
            PlaneInfo info;
            info.name = name->as_string(where_);
            const TensorEntry* entry = file.find(tensor + "." + info.name);
            if (entry == nullptr)
                fail("names plane '" + escaped(info.name) + "', which is missing");
            info.dtype = dtype_named(dtype->as_string(where_), *entry);
            info.dims = entry->dims;
            infos.push_back(std::move(info));
            entries_.push_back(entry);
        }
        try {
            form_ = format.form(shape, infos);
        } catch (const Error& e) {
            throw Error(e.exit(), where_, e.where() + " " + e.problem(), e.hint());
        }
        for (const PlaneInfo& plane : form_.planes)
            tensor_of_.push_back(file.find(tensor + "." + plane.name));
    }
    [[nodiscard]] DType dtype_named(const std::string& text, const TensorEntry& entry) const {
        for (const StoredType& t : kStoredTypes) {
            if (name(t.dtype) == text && t.type == entry.type) return t.dtype;
        }
        fail("calls tensor '" + escaped(entry.name) + "' " + escaped(text) +
             ", which it is not stored as");
    }

    std::string where_;
    std::vector<const TensorEntry*> tensor_of_;  // by the form's planes
};

}  // namespace

std::unique_ptr<const ops::CodedMatrix> PackedTensor::keep(const ModelFile&, std::byte*,
                                                           Isa) const {
    throw Error(Exit::kFailure, "PackedTensor", "the matrix is not coded");
}

std::shared_ptr<const PackedTensor> find_stored_planes(const ModelFile& file,
                                                       const std::string& tensor, Shape2 shape) {
    const auto text = file.metadata().find_string(std::string(kFormatKey) + tensor);
    if (!text) return nullptr;
    const std::string where = key_of(file, tensor);
    const Json json = parse_json(*text, where);
    const Json* format = json.find("format");
    const bool named = format != nullptr && format->is_string();
    if (named && format->as_string(where) == kStackedFormat)
        return std::make_shared<StackedTensor>(file, tensor, json, shape, where);
    if (named && format->as_string(where) == kFactoredFormat)
        return std::make_shared<FactoredTensor>(file, tensor, json, shape, where);
    if (named && format->as_string(where) == kCodedFormat) {
        return std::make_shared<CodedTensor>(file, tensor, shape, coded_kind(json, where), where);
    }
    return std::make_shared<StoredPlanes>(file, tensor, json, shape);
}

std::optional<Shape2> stored_planes_shape(const ModelFile& file, const std::string& tensor) {
    const auto text = file.metadata().find_string(std::string(kFormatKey) + tensor);
    if (!text) return std::nullopt;
    const std::string where = key_of(file, tensor);
    const Json json = parse_json(*text, where);
    const Json* shape = json.find("shape");
    if (shape == nullptr) throw Error(Exit::kBadData, where, "lacks 'shape'");
    const JsonArray& dims = shape->as_array(where);
    if (dims.size() != 2) throw Error(Exit::kBadData, where, "has a shape that is not of a matrix");
    return Shape2{dims[0].as_int(where), dims[1].as_int(where)};
}

std::vector<TensorSpec> plane_specs(const std::string& tensor, const PackedForm& form) {
    std::vector<TensorSpec> specs;
    for (const PlaneInfo& plane : form.planes) {
        if (plane.bytes == 0) continue;
        specs.push_back({tensor + "." + plane.name, stored_type(plane.dtype), plane.dims});
        if (specs.back().name.size() > kMaxName)
            throw Error(Exit::kUsage, escaped(specs.back().name), "the name is too long for GGUF");
    }
    return specs;
}

std::string describe_planes(const PackedForm& form, Shape2 shape) {
    Json planes = Json::array();
    for (const PlaneInfo& plane : form.planes) {
        if (plane.bytes == 0) continue;
        Json one = Json::object();
        one.set("name", plane.name);
        one.set("dtype", name(plane.dtype));
        planes.push(std::move(one));
    }
    Json json = Json::object();
    json.set("format", layout_info(form.layout).name);
    json.set("version", kVersion);
    json.set("shape", JsonArray{shape.rows, shape.cols});
    json.set("planes", std::move(planes));
    json.set("linear", Json::object());
    return json.dump();
}

}  // namespace thimble
