// SPDX-License-Identifier: Apache-2.0
// compressed-tensors checkpoints (llm-compressor): `pack-quantized` integers and
// `mxfp4-pack-quantized`. For module m, W [out, in]:
//   m.weight_packed [out, in * bits / 32] i32   codes, the lowest bit of a row first
//   m.weight_scale [out, groups]; m.weight_zero_point [out * bits / 32, groups] i32, if any
//   m.weight_g_idx [in] i32, if any;  m.weight_shape [2]
// or m.weight_packed [out, in / 2] u8 (see mxfp4_tensor.h) and m.weight_scale [out, in / 32] u8.
#include <algorithm>
#include <cstring>

#include "model/import.h"
#include "model/mxfp4_tensor.h"

namespace thimble {
namespace {

using u64 = std::uint64_t;
enum Plane : std::size_t { kCodes, kScales, kZeros, kGroups };

class PackedIntegers final : public PackedTensor {
  public:
    PackedIntegers(const ImportConfig& config, const std::string& module, Shape2 shape) {
        const std::string weight = module + ".weight_";
        const auto in = static_cast<u64>(shape.cols), out = static_cast<u64>(shape.rows);
        const TensorEntry& packed = *config.file().find(weight + "packed");
        const u64 words = packed.dims.empty() ? 0 : packed.dims.back();
        codes_ = &config.get_tensor(packed.name, {TensorType::kI32}, {out, words});
        check_shape(config, weight + "shape", shape);
        bits_ = words * 32 / in;
        const TensorEntry* scale = config.file().find(weight + "scale");
        const u64 groups = scale != nullptr && scale->dims.size() == 2 ? scale->dims[1] : 1;
        scales_ = &config.get_tensor(weight + "scale",
                                     {TensorType::kF16, TensorType::kBF16, TensorType::kF32},
                                     {out, groups});
        zeros_ = config.find_tensor(weight + "zero_point", {TensorType::kI32},
                                    {(out * bits_ + 31) / 32, groups});
        entries_.insert(entries_.end(), {codes_, scales_});
        std::vector<PlaneInfo> planes = {
            plane_info("codes", DType::kU8, {out, words * 4}),
            plane_info("scales", scale_dtype(scales_->type), {out, groups}),
        };
        if (zeros_ != nullptr) {
            entries_.push_back(zeros_);
            planes.push_back(plane_info("zeros", DType::kU8, {out, groups}));
        }
        groups_ = read_group_index(config, weight + "g_idx", in, groups, entries_);
        if (!groups_.empty()) planes.push_back(plane_info("groups", DType::kI16, {in}));
        form_ = imported_form(config, module, LayoutId::k_affine, shape, planes);
    }

    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override {
        const u64 offset = static_cast<u64>(rows.first) * form_.planes[plane].row_bytes;
        if (plane == kCodes) return file.read(*codes_, offset, out);
        if (plane == kScales) return file.read(*scales_, offset, out);
        if (plane == kZeros) return read_zeros(file, rows, out);
        std::memcpy(out.data(), groups_.data(), out.size());
    }

  private:
    void check_shape(const ImportConfig& config, const std::string& name, Shape2 shape) {
        const TensorEntry* entry = config.find_tensor(name, {TensorType::kI64}, {2});
        if (entry == nullptr) return;
        std::int64_t stored[2];
        config.file().read(*entry, 0, std::as_writable_bytes(std::span(stored)));
        if (stored[0] != shape.rows || stored[1] != shape.cols)
            config.fail_tensor(name, "says another shape than the config");
        entries_.push_back(entry);
    }
    // Packed along the outputs.
    void read_zeros(const ModelFile& file, RowRange rows, std::span<std::byte> out) const {
        const u64 groups = zeros_->dims[1], last = zeros_->dims[0] - 1;
        const auto first = static_cast<u64>(rows.first);
        std::vector<std::uint32_t> words(2 * groups);
        for (u64 r = 0; r < static_cast<u64>(rows.count); ++r) {
            const u64 bit = (first + r) * bits_, line = bit / 32;
            const u64 lines = line < last ? 2 : 1;
            file.read(*zeros_, line * groups * 4,
                      std::as_writable_bytes(std::span(words).first(lines * groups)));
            for (u64 g = 0; g < groups; ++g) {
                const u64 both = words[g] | (lines == 2 ? u64{words[groups + g]} << 32 : 0);
                out[r * groups + g] =
                    static_cast<std::byte>(both >> bit % 32 & ((1u << bits_) - 1));
            }
        }
    }

    u64 bits_ = 0;
    const TensorEntry* codes_ = nullptr;
    const TensorEntry* scales_ = nullptr;
    const TensorEntry* zeros_ = nullptr;
    std::vector<std::int16_t> groups_;
};

class CompressedImporter final : public Importer {
  public:
    explicit CompressedImporter(const ImportConfig& config) : config_(config) {
        config.expect_keys({"quant_method", "format", "config_groups", "ignore", "kv_cache_scheme",
                            "quantization_status", "global_compression_ratio", "sparsity_config",
                            "transform_config", "version"});
        format_ = config.find_string("format", "");
        if (format_ != "pack-quantized" && format_ != "mxfp4-pack-quantized") {
            config.fail("format", "is '" + escaped(format_) +
                                      "', expected pack-quantized or mxfp4-pack-quantized");
        }
        for (const char* key : {"kv_cache_scheme", "sparsity_config", "transform_config"}) {
            const Json* value = config.find(key);
            if (value != nullptr && !(value->is_object() && value->as_members("").empty()))
                config.fail(key, "is not supported");
        }
        const Json* groups = config.find("config_groups");
        if (groups == nullptr || !groups->is_object())
            config.fail("config_groups", "is not an object");
        for (const auto& [name, group] : groups->as_members("")) check_group(name, group);
    }

    std::shared_ptr<const PackedTensor> find(const std::string& module,
                                             Shape2 shape) const override {
        if (config_.file().find(module + ".weight_packed") == nullptr) return nullptr;
        if (format_ == "pack-quantized")
            return std::make_shared<PackedIntegers>(config_, module, shape);
        const auto rows = static_cast<u64>(shape.rows), cols = static_cast<u64>(shape.cols);
        return make_mxfp4_tensor(
            config_, shape,
            config_.get_tensor(module + ".weight_packed", {TensorType::kU8}, {rows, cols / 2}),
            config_.get_tensor(module + ".weight_scale", {TensorType::kU8}, {rows, cols / 32}));
    }

  private:
    void check_group(const std::string& name, const Json& group) const {
        const std::string key = "config_groups." + name;
        for (const char* part : {"input_activations", "output_activations"}) {
            const Json* value = group.find(part);
            if (value != nullptr && !value->is_null())
                config_.fail(key + "." + part, "is set: quantised activations are not supported");
        }
        const Json* weights = group.find("weights");
        const Json* type = weights != nullptr ? weights->find("type") : nullptr;
        const std::string wanted = format_ == "pack-quantized" ? "int" : "float";
        if (type != nullptr && (!type->is_string() || type->as_string("") != wanted))
            config_.fail(key + ".weights.type", "is not " + wanted);
    }

    ImportConfig config_;
    std::string format_;
};

class CompressedTensors final : public ImportMethod {
  public:
    [[nodiscard]] std::string_view name() const override { return "compressed-tensors"; }
    [[nodiscard]] std::unique_ptr<Importer> open(const ImportConfig& config) const override {
        return std::make_unique<CompressedImporter>(config);
    }
};

}  // namespace

std::unique_ptr<ImportMethod> make_import_compressed_tensors() {
    return std::make_unique<CompressedTensors>();
}

}  // namespace thimble
