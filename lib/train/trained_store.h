// SPDX-License-Identifier: Apache-2.0
// The weights of a model in training: those that are frozen as stored, in memory where operations
// run, and on top what a method makes of its parameters.
#pragma once

#include <vector>

#include "model/weight_memory.h"
#include "train/method.h"

namespace thimble::train {

class TrainedStore final : public WeightStore {
  public:
    struct Room {
        bool gradients = true;      // are stored
        bool pages_layers = false;  // the values of layers lie on a tier
        storage::StorageTier* tier = nullptr;
    };
    // Declares the method's parameters and takes room for them; with exec.dry only on paper.
    TrainedStore(const ModelSource& source, const Exec& exec, Method& method,
                 ParameterSet& parameters, const Room& room);

    // Reads the frozen weights.
    void load();
    // After the parameters' values were set or changed.
    void refresh();

    [[nodiscard]] Lease acquire(UnitId unit) override {
        if (is_paged(unit)) fetch(unit);
        return {*this, unit, units_[index_of(unit, specs_)]};
    }
    [[nodiscard]] std::uint64_t bytes_per_token() const noexcept override {
        return bytes_per_token_of(units_);
    }
    [[nodiscard]] const std::vector<UnitSpec>& specs() const noexcept { return specs_; }
    // What the frozen weights take, and while they are loaded the buffer that they are read
    // through.
    [[nodiscard]] std::size_t frozen_bytes() const noexcept { return frozen_.bytes(); }
    [[nodiscard]] std::size_t staging_bytes() const noexcept { return frozen_.staging_bytes(); }

  private:
    void release(UnitId unit) noexcept override {
        if (is_paged(unit)) parameters_.release(static_cast<std::size_t>(unit.layer));
    }
    [[nodiscard]] bool is_paged(UnitId unit) const noexcept {
        return unit.kind == UnitKind::kLayer && parameters_.has_pages();
    }
    void fetch(UnitId unit);
    [[nodiscard]] UnitId id_of(std::size_t unit) const noexcept;
    [[nodiscard]] UnitWeights unit_on_paper(const UnitSpec& unit) const;
    [[nodiscard]] UnitWeights unit_in_memory(std::size_t unit) const;
    [[nodiscard]] bool is_trained(const ParameterId& id) const {
        return parameters_.find(id).has_value();
    }

    Exec exec_;
    Method& method_;
    ParameterSet& parameters_;
    std::vector<UnitSpec> specs_;
    WeightMemory frozen_;
    std::vector<UnitWeights> units_;
    std::int64_t last_layer_ = -1, direction_ = 1;  // of pages that were fetched
};

}  // namespace thimble::train
