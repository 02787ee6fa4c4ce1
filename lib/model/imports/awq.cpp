// SPDX-License-Identifier: Apache-2.0
// AWQ checkpoints ("gemm" packing, 4 bits). For y = x W^T with W [out, in]:
//   qweight [in, out / 8] i32       codes of eight outputs in a word: nibble i holds output
//                                   0 2 4 6 1 3 5 7
//   qzeros  [groups, out / 8] i32   zero points, in the same order
//   scales  [groups, out]
// "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration" (2024); the
// order of the nibbles is AutoAWQ's.
#include <algorithm>

#include "model/import.h"

namespace thimble {
namespace {

using u64 = std::uint64_t;
enum Plane : std::size_t { kCodes, kScales, kZeros };
constexpr unsigned kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of output n % 8

class AwqTensor final : public PackedTensor {
  public:
    AwqTensor(const ImportConfig& config, const std::string& module, Shape2 shape,
              std::int64_t group) {
        const auto in = static_cast<u64>(shape.cols), out = static_cast<u64>(shape.rows);
        if (in % static_cast<u64>(group) != 0 || out % 8 != 0) {
            config.fail_tensor(module + ".qweight",
                               "belongs to a matrix that is not whole groups by multiples of 8");
        }
        const u64 groups = in / static_cast<u64>(group);
        codes_ = &config.get_tensor(module + ".qweight", {TensorType::kI32}, {in, out / 8});
        zeros_ = &config.get_tensor(module + ".qzeros", {TensorType::kI32}, {groups, out / 8});
        scales_ = &config.get_tensor(module + ".scales",
                                     {TensorType::kF16, TensorType::kBF16, TensorType::kF32},
                                     {groups, out});
        entries_ = {codes_, zeros_, scales_};
        form_ = imported_form(config, module, LayoutId::k_affine, shape,
                              {plane_info("codes", DType::kU8, {out, in / 2}),
                               plane_info("scales", scale_dtype(scales_->type), {out, groups}),
                               plane_info("zeros", DType::kU8, {out, groups})});
    }

    void read(const ModelFile& file, std::size_t plane, RowRange rows,
              std::span<std::byte> out) const override {
        if (plane == kScales) {
            const std::size_t size = size_of(form_.planes[kScales].dtype);
            return read_transposed(file, *scales_, size, rows, out.data());
        }
        const u64 row_bytes = form_.planes[plane].row_bytes;
        if (plane == kCodes) std::fill(out.begin(), out.end(), std::byte{0});
        read_nibbles(
            file, plane == kCodes ? *codes_ : *zeros_, rows, [&](u64 j, u64 r, unsigned nibble) {
                if (plane == kCodes) {
                    out[r * row_bytes + j / 2] |= static_cast<std::byte>(nibble << (4 * (j % 2)));
                } else {
                    out[r * row_bytes + j] = static_cast<std::byte>(nibble);
                }
            });
    }

  private:
    // take(j, r, nibble) for line j of the stored matrix and the r-th of the outputs `rows`.
    template <class Take>
    static void read_nibbles(const ModelFile& file, const TensorEntry& entry, RowRange rows,
                             Take&& take) {
        const auto first = static_cast<u64>(rows.first), count = static_cast<u64>(rows.count);
        const u64 from = first / 8, to = (first + count + 7) / 8, pitch = entry.dims[1] * 4;
        std::vector<std::uint32_t> words(to - from);
        for (u64 j = 0; j < entry.dims[0]; ++j) {
            file.read(entry, j * pitch + from * 4, std::as_writable_bytes(std::span(words)));
            for (u64 r = 0; r < count; ++r) {
                const u64 n = first + r;
                take(j, r, words[n / 8 - from] >> (4 * kNibbleOf[n % 8]) & 15);
            }
        }
    }

    const TensorEntry* codes_ = nullptr;
    const TensorEntry* zeros_ = nullptr;
    const TensorEntry* scales_ = nullptr;
};

class AwqImporter final : public Importer {
  public:
    explicit AwqImporter(const ImportConfig& config)
        : config_(config), group_(config.get_int("group_size")) {
        config.expect_keys({"quant_method",
                            "method",
                            "bits",
                            "group_size",
                            "zero_point",
                            "version",
                            "format",
                            "checkpoint_format",
                            "modules_to_not_convert",
                            "backend",
                            "do_fuse",
                            "modules_to_fuse",
                            "fuse_max_seq_len",
                            "exllama_config",
                            "sym",
                            "desc_act",
                            "lm_head",
                            "pack_dtype",
                            "meta",
                            "dynamic"});
        if (config.get_int("bits") != 4) config.fail("bits", "is not 4");
        if (group_ != -1 && (group_ < 1 || group_ > 1 << 24))
            config.fail("group_size", "is " + std::to_string(group_));
        for (const char* key : {"version", "format", "checkpoint_format"}) {
            std::string packing = config.find_string(key, "gemm");
            packing = to_lower(packing);
            if (packing != "gemm") config.fail(key, "is '" + escaped(packing) + "', expected gemm");
        }
        if (!config.find_bool("zero_point", true))
            config.fail("zero_point", "is false; only packing with zero points is supported");
        if (config.find_bool("desc_act", false)) config.fail("desc_act", "is true");
        const Json* dynamic = config.find("dynamic");
        if (dynamic != nullptr && !(dynamic->is_object() && dynamic->as_members("").empty()))
            config.fail("dynamic", "is not supported");
    }

    std::shared_ptr<const PackedTensor> find(const std::string& module,
                                             Shape2 shape) const override {
        if (config_.file().find(module + ".qweight") == nullptr) return nullptr;
        return std::make_shared<AwqTensor>(config_, module, shape,
                                           group_ == -1 ? shape.cols : group_);
    }

  private:
    ImportConfig config_;
    std::int64_t group_;
};

class Awq final : public ImportMethod {
  public:
    [[nodiscard]] std::string_view name() const override { return "awq"; }
    [[nodiscard]] std::unique_ptr<Importer> open(const ImportConfig& config) const override {
        return std::make_unique<AwqImporter>(config);
    }
};

}  // namespace

std::unique_ptr<ImportMethod> make_import_awq() { return std::make_unique<Awq>(); }

}  // namespace thimble
