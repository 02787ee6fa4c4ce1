// SPDX-License-Identifier: Apache-2.0
// MXFP4 checkpoints in gpt-oss' manner. For module m, W [out, in]:
//   m.weight_blocks [out, in / 32, 16] u8, m.weight_scales [out, in / 32] u8   (see mxfp4_tensor.h)
// "OCP Microscaling Formats (MX) Specification" (2023).
#include "model/import.h"
#include "model/mxfp4_tensor.h"

namespace thimble {
namespace {

class Mxfp4Importer final : public Importer {
  public:
    explicit Mxfp4Importer(const ImportConfig& config) : config_(config) {
        config.expect_keys({"quant_method", "modules_to_not_convert", "dequantize"});
    }
    std::shared_ptr<const PackedTensor> find(const std::string& module,
                                             Shape2 shape) const override {
        if (config_.file().find(module + ".weight_blocks") == nullptr) return nullptr;
        const auto rows = static_cast<std::uint64_t>(shape.rows);
        const auto blocks = static_cast<std::uint64_t>(shape.cols) / 32;
        return make_mxfp4_tensor(
            config_, shape,
            config_.get_tensor(module + ".weight_blocks", {TensorType::kU8}, {rows, blocks, 16}),
            config_.get_tensor(module + ".weight_scales", {TensorType::kU8}, {rows, blocks}));
    }

  private:
    ImportConfig config_;
};

class Mxfp4 final : public ImportMethod {
  public:
    [[nodiscard]] std::string_view name() const override { return "mxfp4"; }
    [[nodiscard]] std::unique_ptr<Importer> open(const ImportConfig& config) const override {
        return std::make_unique<Mxfp4Importer>(config);
    }
};

}  // namespace

std::unique_ptr<ImportMethod> make_import_mxfp4() { return std::make_unique<Mxfp4>(); }

}  // namespace thimble
