// SPDX-License-Identifier: Apache-2.0
// Every weight in memory, read once at load.
// differs: the design page maps the file and drops pages behind the repacking. Reading pieces into
// one huge-page buffer keeps the ledger's peak at the weights plus one piece (a mapping is charged
// whole before it is dropped), survives a file that shrinks while in use, and lets a tensor that
// needs no repacking sit on huge pages too.
#include "model/weight_memory.h"

namespace thimble {
namespace {

WeightMemory arrange(const ModelSource& source, const std::vector<UnitSpec>& units,
                     const Exec& exec, const StoreOptions& options) {
    WeightMemory memory(source, exec, options.repack, options.keep_coded);
    for (std::size_t u = 0; u < units.size(); ++u) {
        // Rows of an embedding that is no head are looked up, never multiplied.
        memory.add_unit(units[u], u > 0 || source.spec().tied_embedding);
    }
    return memory;
}

class ResidentStore final : public WeightStore {
  public:
    ResidentStore(const ModelSource& source, const Exec& exec, const StoreOptions& options)
        : specs_(units_of(source)), memory_(arrange(source, specs_, exec, options)) {
        memory_.load();
        for (const UnitSpec& unit : specs_) units_.push_back(memory_.unit(unit));
    }

    Lease acquire(UnitId unit) override { return {*this, unit, units_[index_of(unit, specs_)]}; }
    std::uint64_t bytes_per_token() const noexcept override { return bytes_per_token_of(units_); }

  private:
    void release(UnitId) noexcept override {}

    std::vector<UnitSpec> specs_;
    WeightMemory memory_;
    std::vector<UnitWeights> units_;
};

}  // namespace

StorePlan plan_resident_store(const ModelSource& source, const Exec& exec,
                              const StoreOptions& options) {
    const std::vector<UnitSpec> units = units_of(source);
    const WeightMemory memory = arrange(source, units, exec, options);
    StorePlan plan;
    plan.resident_bytes = Buffer::charged_bytes(memory.bytes());
    plan.staging_bytes = Buffer::charged_bytes(memory.staging_bytes());
    return plan;
}

std::unique_ptr<WeightStore> make_resident_store(const ModelSource& source, const Exec& exec,
                                                 const StoreOptions& options) {
    return std::make_unique<ResidentStore>(source, exec, options);
}

}  // namespace thimble
