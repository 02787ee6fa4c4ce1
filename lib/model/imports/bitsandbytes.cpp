// SPDX-License-Identifier: Apache-2.0
// bitsandbytes checkpoints of 4 bits (nf4 and fp4). For module m, W [out, in] row by row:
//   m.weight [out * in / 2, 1] u8    two codes a byte, the first in the high nibble
//   m.weight.absmax                  largest magnitude of each `blocksize` weights: f32, or u8
//   codes m.weight.quant_map [16] f32      the codes' values m.weight.nested_absmax f32,
//   m.weight.nested_quant_map [256] f32   of the u8 codes, if they are
//   m.weight.quant_state.bitsandbytes__nf4 u8    JSON: block sizes, shape, the nested codes' offset
// "QLoRA: Efficient Finetuning of Quantized LLMs" (2023).
#include <cstring>
#include <limits>

#include "model/import.h"

namespace thimble {
namespace {

using u64 = std::uint64_t;
enum Plane : std::size_t { kCodes, kPeaks, kValues, kOrigin, kNested };
constexpr std::uint64_t kMaxState = 64 << 10;  // bytes of the JSON

class BitsTensor final : public PackedTensor {
  public:
    BitsTensor(const ImportConfig& config, const std::string& weight, const TensorEntry& state,
               Shape2 shape) {
        const auto in = static_cast<u64>(shape.cols), out = static_cast<u64>(shape.rows);
        const u64 block = read_state(config, state, shape);
        if (in % block != 0) {
            config.fail_tensor(weight, "has blocks of " + std::to_string(block) +
                                           " weights that cross its rows of " + std::to_string(in));
        }
        groups_ = in / block;
        if (groups_ * out > std::numeric_limits<std::int32_t>::max())
            config.fail_tensor(weight, "has too many blocks");
        codes_ = &config.get_tensor(weight, {TensorType::kU8}, {out * in / 2, 1});
        peaks_ = &config.get_tensor(weight + ".absmax", {TensorType::kU8, TensorType::kF32},
                                    {groups_ * out});
        const TensorEntry& map = config.get_tensor(weight + ".quant_map", {TensorType::kF32}, {16});
        entries_ = {codes_, peaks_, &map, &state};
        const bool nested = peaks_->type == TensorType::kU8;
        if (nested != nested_) config.fail_tensor(peaks_->name, "does not fit its quant_state");
        append(config, map, values_);
        std::vector<PlaneInfo> planes = {
            plane_info("codes", DType::kU8, {out, in / 2}),
            plane_info("peaks", nested ? DType::kU8 : DType::kF32, {out, groups_}),
        };
        if (nested) {
            append(config, nested_tensor(config, weight + ".nested_quant_map", 256), values_);
            const u64 scales = (groups_ * out + 255) / 256;
            append(config, nested_tensor(config, weight + ".nested_absmax", scales), scales_);
            planes.push_back(plane_info("origin", DType::kI32, {out, 1}));
            planes.push_back(plane_info("nested", DType::kF32, {scales_.size()}));
        }
        planes.push_back(plane_info("values", DType::kF32, {values_.size()}));
        form_ = imported_form(config, weight, LayoutId::k_nf4, shape, planes);
    }

    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override {
        const u64 offset = static_cast<u64>(rows.first) * form_.planes[plane].row_bytes;
        switch (plane) {
            case kCodes:
                return file.read(*codes_, offset, out);
            case kPeaks:
                return file.read(*peaks_, offset, out);
            case kOrigin:
                for (std::int64_t r = 0; r < rows.count; ++r) {
                    const auto group =
                        static_cast<std::int32_t>(static_cast<u64>(rows.first + r) * groups_);
                    std::memcpy(out.data() + 4 * r, &group, 4);
                }
                return;
            default: {
                const std::vector<float>& table = plane == kValues ? values_ : scales_;
                std::memcpy(out.data(), table.data(), out.size());
            }
        }
    }

  private:
    // The block size; sets nested_ and, first of scales_, the offset.
    u64 read_state(const ImportConfig& config, const TensorEntry& state, Shape2 shape) {
        if (state.type != TensorType::kU8 || state.bytes == 0 || state.bytes > kMaxState)
            config.fail_tensor(state.name, "is not a short text");
        std::string text(state.bytes, '\0');
        config.file().read(state, 0, std::as_writable_bytes(std::span(text)));
        const std::string where =
            escaped(config.file().path(), 1024) + ": tensor '" + escaped(state.name) + "'";
        const Json json = parse_json(text, where);
        const auto get = [&](const char* key) -> const Json& {
            const Json* value = json.find(key);
            if (value == nullptr)
                config.fail_tensor(state.name, std::string("lacks '") + key + "'");
            return *value;
        };
        const JsonArray& dims = get("shape").as_array(where);
        if (dims.size() != 2 || dims[0].as_int(where) != shape.rows ||
            dims[1].as_int(where) != shape.cols)
            config.fail_tensor(state.name, "says another shape than the config");
        const std::int64_t block = get("blocksize").as_int(where);
        if (block < 32 || block > 4096 || block % 32 != 0)
            config.fail_tensor(state.name, "says blocksize " + std::to_string(block));
        nested_ = json.find("nested_blocksize") != nullptr;
        if (nested_) {
            if (get("nested_blocksize").as_int(where) != 256 ||
                get("nested_dtype").as_string(where) != "float32")
                config.fail_tensor(state.name, "says nested blocks that are not 256 of float32");
            scales_.push_back(static_cast<float>(get("nested_offset").as_double(where)));
        }
        return static_cast<u64>(block);
    }
    const TensorEntry& nested_tensor(const ImportConfig& config, const std::string& name,
                                     u64 elements) {
        const TensorEntry& entry = config.get_tensor(name, {TensorType::kF32}, {elements});
        entries_.push_back(&entry);
        return entry;
    }
    static void append(const ImportConfig& config, const TensorEntry& entry,
                       std::vector<float>& to) {
        std::vector<float> values(entry.bytes / sizeof(float));
        config.file().read(entry, 0, std::as_writable_bytes(std::span(values)));
        to.insert(to.end(), values.begin(), values.end());
    }

    const TensorEntry* codes_ = nullptr;
    const TensorEntry* peaks_ = nullptr;
    u64 groups_ = 0;
    bool nested_ = false;
    std::vector<float> values_, scales_;
};

class BitsImporter final : public Importer {
  public:
    explicit BitsImporter(const ImportConfig& config) : config_(config) {
        config.expect_keys({"quant_method", "load_in_4bit", "load_in_8bit", "_load_in_4bit",
                            "_load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
                            "bnb_4bit_quant_type", "bnb_4bit_use_double_quant",
                            "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
                            "llm_int8_skip_modules", "llm_int8_threshold",
                            "bnb_4bit_target_parameters"});
        for (const char* key : {"load_in_8bit", "_load_in_8bit"}) {
            if (config.find_bool(key, false))
                config.fail(key, "is true; only 4 bits are supported");
        }
        const std::string storage = config.find_string("bnb_4bit_quant_storage", "uint8");
        if (storage != "uint8")
            config.fail("bnb_4bit_quant_storage", "is '" + escaped(storage) + "', expected uint8");
        type_ = config.find_string("bnb_4bit_quant_type", "fp4");
        if (type_ != "nf4" && type_ != "fp4")
            config.fail("bnb_4bit_quant_type", "is '" + escaped(type_) + "', expected nf4 or fp4");
    }

    std::shared_ptr<const PackedTensor> find(const std::string& module,
                                             Shape2 shape) const override {
        const std::string weight = module + ".weight";
        const TensorEntry* state =
            config_.file().find(weight + ".quant_state.bitsandbytes__" + type_);
        if (state == nullptr) return nullptr;
        return std::make_shared<BitsTensor>(config_, weight, *state, shape);
    }

  private:
    ImportConfig config_;
    std::string type_;
};

class Bits final : public ImportMethod {
  public:
    [[nodiscard]] std::string_view name() const override { return "bitsandbytes"; }
    [[nodiscard]] std::unique_ptr<Importer> open(const ImportConfig& config) const override {
        return std::make_unique<BitsImporter>(config);
    }
};

}  // namespace

std::unique_ptr<ImportMethod> make_import_bitsandbytes() { return std::make_unique<Bits>(); }

}  // namespace thimble
