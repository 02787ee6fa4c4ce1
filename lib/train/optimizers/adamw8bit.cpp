// SPDX-License-Identifier: Apache-2.0
// AdamW whose moments are 8-bit codes with a peak for each block: "8-bit Optimizers via Block-wise
// Quantization" (2021). Small parameters and the token table keep moments of 32 bits, as there.
// differs: what optimizer_codes.h says of signs and of the smallest second moment.
#include "train/optimizer_adam.h"
#include "train/optimizer_codes.h"

namespace thimble::train {
namespace {

class Adamw8bit final : public Optimizer {
  public:
    static constexpr std::string_view kName = "adamw8bit";
    static constexpr std::string_view kHelp =
        "AdamW with 8-bit moments: 2.03 bytes of state for each element";

    struct Options {
        AdamOptions adam;
        std::int64_t block = 256, min_elements = 4096;
        bool embeddings = false;
        void visit(OptionVisitor& v) {
            adam.visit(v);
            v.option({.name = "block",
                      .help = "elements that share a peak",
                      .least = 16,
                      .most = static_cast<double>(cpu::kMostBlockElements)},
                     block);
            v.option({.name = "min-elements",
                      .help = "smaller parameters keep 32-bit moments",
                      .least = 0},
                     min_elements);
            v.option({.name = "embeddings", .help = "8-bit moments for the token table, too"},
                     embeddings);
        }
    };

    Adamw8bit(const Options& options, std::string_view /*where*/) : options_(options) {}

    [[nodiscard]] std::vector<SlotInfo> slots(const ParameterInfo& parameter) const override {
        if (!in_codes(parameter)) return adam_slots();
        return {{.name = "m_codes", .unit_bytes = 1},
                {.name = "v_codes", .unit_bytes = 1},
                {.name = "m_peaks", .unit_elements = options_.block, .unit_bytes = 4},
                {.name = "v_peaks", .unit_elements = options_.block, .unit_bytes = 4}};
    }
    [[nodiscard]] std::int64_t tile_elements(const ParameterInfo& parameter) const override {
        return in_codes(parameter) ? options_.block : 1;
    }

    void update(Isa isa, const UpdateTile& tile) const override {
        if (!in_codes(tile.parameter)) return update_adamw(options_.adam, isa, tile);
        cpu::AdamwBlocks blocks{};
        blocks.rule = options_.adam.rule(tile);
        blocks.weights = tile.weights, blocks.gradients = tile.gradients;
        blocks.m_map = &signed_map(), blocks.v_map = &unsigned_map();
        blocks.m_codes = reinterpret_cast<std::uint8_t*>(tile.slots[0]);
        blocks.v_codes = reinterpret_cast<std::uint8_t*>(tile.slots[1]);
        blocks.m_peaks = reinterpret_cast<float*>(tile.slots[2]);
        blocks.v_peaks = reinterpret_cast<float*>(tile.slots[3]);
        blocks.count = tile.count, blocks.block_elements = options_.block;
        ops::kernels(isa).adamw_blocks(blocks);
    }

  private:
    [[nodiscard]] bool in_codes(const ParameterInfo& parameter) const {
        return parameter.elements() >= options_.min_elements &&
               (options_.embeddings || !parameter.is_embedding);
    }
    Options options_;
};

}  // namespace

std::unique_ptr<OptimizerType> make_adamw8bit_optimizer();
std::unique_ptr<OptimizerType> make_adamw8bit_optimizer() {
    return std::make_unique<OptimizerOf<Adamw8bit>>();
}

}  // namespace thimble::train
