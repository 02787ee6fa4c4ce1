// SPDX-License-Identifier: Apache-2.0
// GPTQ checkpoints of AutoGPTQ, GPTQModel and optimum. For y = x W^T with W [out, in]:
//   qweight [in * bits / 32, out] i32   codes of one output, the lowest bit of its column first
//   qzeros  [groups, out * bits / 32] i32   zero points; in "gptq" less one, in "gptq_v2" as they
//   are scales  [groups, out] g_idx   [in] i32   the group of each input (act order); optional
// "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2023).
#include <cstring>

#include "model/import.h"

namespace thimble {
namespace {

using u64 = std::uint64_t;
enum Plane : std::size_t { kCodes, kScales, kZeros, kGroups };

class GptqTensor final : public PackedTensor {
  public:
    GptqTensor(const ImportConfig& config, const std::string& module, Shape2 shape,
               std::int64_t bits, std::int64_t group, bool less_one)
        : bits_(static_cast<unsigned>(bits)), less_one_(less_one) {
        const auto in = static_cast<u64>(shape.cols), out = static_cast<u64>(shape.rows);
        const auto width = static_cast<u64>(bits);
        if (in % 32 != 0 || out % 32 != 0) {
            config.fail_tensor(module + ".qweight",
                               "belongs to a matrix whose sides are not multiples of 32");
        }
        const u64 groups = (in + static_cast<u64>(group) - 1) / static_cast<u64>(group);
        codes_ =
            &config.get_tensor(module + ".qweight", {TensorType::kI32}, {in / 32 * width, out});
        zeros_ =
            &config.get_tensor(module + ".qzeros", {TensorType::kI32}, {groups, out / 32 * width});
        scales_ = &config.get_tensor(module + ".scales",
                                     {TensorType::kF16, TensorType::kBF16, TensorType::kF32},
                                     {groups, out});
        entries_ = {codes_, zeros_, scales_};
        std::vector<PlaneInfo> planes = {
            plane_info("codes", DType::kU8, {out, in / 8 * width}),
            plane_info("scales", scale_dtype(scales_->type), {out, groups}),
            plane_info("zeros", DType::kU8, {out, groups}),
        };
        groups_ = read_group_index(config, module + ".g_idx", in, groups, entries_);
        if (groups_.empty() && groups > 1 && in % static_cast<u64>(group) != 0)
            config.fail_tensor(module + ".scales", "has groups that are not whole");
        if (!groups_.empty()) planes.push_back(plane_info("groups", DType::kI16, {in}));
        form_ = imported_form(config, module, LayoutId::k_affine, shape, planes);
    }

    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override {
        if (plane == kCodes) return read_transposed(file, *codes_, 4, rows, out.data());
        if (plane == kScales) {
            const std::size_t size = size_of(form_.planes[kScales].dtype);
            return read_transposed(file, *scales_, size, rows, out.data());
        }
        if (plane == kZeros) return read_zeros(file, rows, out);
        std::memcpy(out.data(), groups_.data(), out.size());
    }

  private:
    // 32 zero points are `bits` words.
    void read_zeros(const ModelFile& file, RowRange rows, std::span<std::byte> out) const {
        const u64 groups = zeros_->dims[0], pitch = zeros_->dims[1] * 4;
        const u64 width = bits_;
        const auto first = static_cast<u64>(rows.first), count = static_cast<u64>(rows.count);
        const u64 from = first / 32, to = (first + count + 31) / 32;
        std::vector<std::uint32_t> words((to - from) * width);
        for (u64 g = 0; g < groups; ++g) {
            file.read(*zeros_, g * pitch + from * width * 4,
                      std::as_writable_bytes(std::span(words)));
            for (u64 r = 0; r < count; ++r) {
                const u64 n = first + r - from * 32;
                out[r * groups + g] = static_cast<std::byte>(
                    zero(words.data() + n / 32 * width, static_cast<unsigned>(n % 32)));
            }
        }
    }
    // Writers subtract one from whole words (of 2, 4 and 8 bits), so a zero point of 0 has borrowed
    // from its neighbour: adding to the whole word undoes it.
    [[nodiscard]] unsigned zero(const std::uint32_t* words, unsigned n) const {
        const unsigned bits = bits_, mask = (1u << bits) - 1, at = n * bits % 32;
        std::uint32_t word = words[n * bits / 32];
        if (bits == 3) {
            unsigned code = word >> at;
            if (at > 29) code |= words[n * bits / 32 + 1] << (32 - at);
            return (code + (less_one_ ? 1 : 0)) & mask;
        }
        if (less_one_) word += 0xffffffffu / mask;
        return word >> at & mask;
    }

    unsigned bits_;
    bool less_one_;
    const TensorEntry* codes_ = nullptr;
    const TensorEntry* zeros_ = nullptr;
    const TensorEntry* scales_ = nullptr;
    std::vector<std::int16_t> groups_;  // empty: in order
};

class GptqImporter final : public Importer {
  public:
    explicit GptqImporter(const ImportConfig& config)
        : config_(config), bits_(config.get_int("bits")), group_(config.get_int("group_size")) {
        config.expect_keys({"quant_method",
                            "method",
                            "bits",
                            "group_size",
                            "sym",
                            "desc_act",
                            "static_groups",
                            "checkpoint_format",
                            "format",
                            "pack_dtype",
                            "lm_head",
                            "dynamic",
                            "meta",
                            "damp_percent",
                            "damp_auto_increment",
                            "true_sequential",
                            "act_group_aware",
                            "mse",
                            "is_marlin_format",
                            "model_name_or_path",
                            "model_file_base_name",
                            "model_seqlen",
                            "dataset",
                            "tokenizer",
                            "batch_size",
                            "pad_token_id",
                            "use_cuda_fp16",
                            "use_exllama",
                            "disable_exllama",
                            "exllama_config",
                            "max_input_length",
                            "cache_block_outputs",
                            "modules_in_block_to_quantize",
                            "block_name_to_quantize",
                            "module_name_preceding_first_block",
                            "backend",
                            "adapter"});
        if (bits_ != 2 && bits_ != 3 && bits_ != 4 && bits_ != 8)
            config.fail("bits", "is " + std::to_string(bits_) + ", expected 2, 3, 4 or 8");
        if (group_ != -1 && (group_ < 1 || group_ > 1 << 24))
            config.fail("group_size", "is " + std::to_string(group_));
        format_ = config.find_string("checkpoint_format", config.find_string("format", "gptq"));
        if (format_ != "gptq" && format_ != "gptq_v2") {
            config.fail(config.find("checkpoint_format") ? "checkpoint_format" : "format",
                        "is '" + escaped(format_) + "', expected gptq or gptq_v2");
        }
        if (config.find_bool("is_marlin_format", false))
            config.fail("is_marlin_format", "is true: tiles of that kernel are not supported");
        const std::string dtype = config.find_string("pack_dtype", "int32");
        if (dtype != "int32")
            config.fail("pack_dtype", "is '" + escaped(dtype) + "', expected int32");
        for (const char* key : {"dynamic", "adapter"}) {
            const Json* value = config.find(key);
            if (value != nullptr && !(value->is_object() && value->as_members("").empty()))
                config.fail(key, "is not supported");
        }
    }

    std::shared_ptr<const PackedTensor> find(const std::string& module,
                                             Shape2 shape) const override {
        if (config_.file().find(module + ".qweight") == nullptr) return nullptr;
        return std::make_shared<GptqTensor>(config_, module, shape, bits_,
                                            group_ == -1 ? shape.cols : group_, format_ == "gptq");
    }

  private:
    ImportConfig config_;
    std::int64_t bits_, group_;
    std::string format_;
};

class Gptq final : public ImportMethod {
  public:
    [[nodiscard]] std::string_view name() const override { return "gptq"; }
    [[nodiscard]] std::unique_ptr<Importer> open(const ImportConfig& config) const override {
        return std::make_unique<GptqImporter>(config);
    }
};

}  // namespace

std::unique_ptr<ImportMethod> make_import_gptq() { return std::make_unique<Gptq>(); }

}  // namespace thimble
