// SPDX-License-Identifier: Apache-2.0
#include "model/mxfp4_tensor.h"

#include "format/weight_format.h"

namespace thimble {
namespace {

class Mxfp4Tensor final : public PackedTensor {
  public:
    Mxfp4Tensor(LayoutId layout, Shape2 shape, const TensorEntry& codes, const TensorEntry& scales)
        : codes_(codes), scales_(scales), blocks_(static_cast<std::size_t>(shape.cols / 32)) {
        entries_ = {&codes, &scales};
        form_ = block_form(layout, shape);
    }

    void read(const ModelFile& file, std::size_t, RowRange rows,
              std::span<std::byte> out) const override {
        std::vector<std::byte> line(17 * blocks_);
        const auto exponents = std::span(line).first(blocks_);
        const auto codes = std::span(line).subspan(blocks_);
        for (std::int64_t r = 0; r < rows.count; ++r) {
            const auto row = static_cast<std::uint64_t>(rows.first + r);
            file.read(scales_, row * blocks_, exponents);
            file.read(codes_, row * 16 * blocks_, codes);
            std::byte* to = out.data() + static_cast<std::size_t>(r) * 17 * blocks_;
            for (std::size_t b = 0; b < blocks_; ++b, to += 17) {
                to[0] = exponents[b];
                for (std::size_t i = 0; i < 16; ++i)
                    to[1 + i] = nibble(codes.data() + 16 * b, i) |
                                nibble(codes.data() + 16 * b, i + 16) << 4;
            }
        }
    }

  private:
    static std::byte nibble(const std::byte* codes, std::size_t i) {
        return codes[i / 2] >> (i % 2 == 0 ? 0 : 4) & std::byte{15};
    }

    const TensorEntry& codes_;
    const TensorEntry& scales_;
    std::size_t blocks_;
};

}  // namespace

std::shared_ptr<const PackedTensor> make_mxfp4_tensor(const ImportConfig& config, Shape2 shape,
                                                      const TensorEntry& codes,
                                                      const TensorEntry& scales) {
    const auto layout = layout_of(TensorType::kMXFP4);
    if (!layout) config.fail_tensor(codes.name, "is MXFP4, which is not supported");
    if (shape.cols % 32 != 0)
        config.fail_tensor(codes.name, "has rows that are not whole blocks of 32");
    return std::make_shared<Mxfp4Tensor>(*layout, shape, codes, scales);
}

}  // namespace thimble
