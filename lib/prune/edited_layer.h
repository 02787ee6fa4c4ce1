// SPDX-License-Identifier: Apache-2.0
// One layer of a model as floats that may be changed, and run as they are: the store of a Runner
// whose layers are edited one after the other. All other units are another store's.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/team.h"
#include "model/store.h"
#include "tensor/buffer.h"

namespace thimble::prune {

class EditedLayer final : public WeightStore {
  public:
    // `rest` (may be null where only weights are looked at) has the other units. Source and team
    // outlive it.
    EditedLayer(std::unique_ptr<WeightStore> rest, const ModelSource& source);
    // Reads a layer in place of the one before. Error(kBadData) where a weight is not finite.
    void open(std::int64_t layer, Team& team);
    [[nodiscard]] const UnitSpec& unit() const noexcept;
    // Of a matrix of the open layer, [rows, cols].
    [[nodiscard]] std::span<float> weights(std::size_t matrix) noexcept;

    [[nodiscard]] Lease acquire(UnitId unit) override;
    [[nodiscard]] std::uint64_t bytes_per_token() const noexcept override { return 0; }
    // Bytes of the largest layer.
    [[nodiscard]] static std::size_t layer_bytes(const ModelSource& source);

  private:
    void release(UnitId) noexcept override {}
    void read(const SourceTensor& tensor, float* out, Team& team) const;

    std::unique_ptr<WeightStore> rest_;
    const ModelSource& source_;
    std::vector<UnitSpec> specs_;
    std::int64_t layer_ = -1;
    Buffer memory_;
    std::vector<std::span<float>> matrices_;
    UnitWeights weights_;
};

}  // namespace thimble::prune
