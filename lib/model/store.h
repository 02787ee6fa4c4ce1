// SPDX-License-Identifier: Apache-2.0
// Where blocks get weights: units acquired as leases. How a unit's bytes come to be in memory
// (repacked at load, read from disk for each pass) is the store's affair; results do not depend on
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/ledger.h"
#include "model/linear.h"
#include "model/source.h"

namespace thimble {

enum class UnitKind : std::uint8_t { kEmbedding, kLayer, kHead };
struct UnitId {
    UnitKind kind = UnitKind::kEmbedding;
    std::int64_t layer = 0;
};

// What a unit holds, by role: a tensor's name without its place and ending ("attn_q", "ffn_norm").
struct UnitSpec {
    struct Matrix {
        std::string role;
        const SourceTensor* weight = nullptr;
        const SourceTensor* bias = nullptr;  // null: none
    };
    struct Vector {
        std::string role;
        const SourceTensor* weight = nullptr;
    };
    std::vector<Matrix> matrices;
    std::vector<Vector> vectors;
    // Index of a role; Error(kBadData) when the unit has none.
    [[nodiscard]] std::size_t matrix(std::string_view role) const;
    [[nodiscard]] std::size_t vector(std::string_view role) const;
};
// The model's units in the order of the forward pass: embedding, layers, head. A tied head's matrix
// is the embedding's tensor.
[[nodiscard]] std::vector<UnitSpec> units_of(const ModelSource& source);

struct UnitWeights {
    std::vector<Linear> matrices;  // in the order of UnitSpec::matrices
    std::vector<View> vectors;     // [1, n] in exec.dtype()
};

class WeightStore;

// The weights of one unit, at rest for as long as the lease lives.
class Lease {
  public:
    Lease(WeightStore& store, UnitId unit, const UnitWeights& weights)
        : store_(&store), unit_(unit), weights_(&weights) {}
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    [[nodiscard]] const Linear& matrix(std::size_t i) const { return weights_->matrices[i]; }
    [[nodiscard]] View vector(std::size_t i) const { return weights_->vectors[i]; }

  private:
    WeightStore* store_;
    UnitId unit_;
    const UnitWeights* weights_;
};

class WeightStore {
  public:
    virtual ~WeightStore() = default;
    [[nodiscard]] virtual Lease acquire(UnitId unit) = 0;
    // Bytes of weights that one decoded token reads.
    [[nodiscard]] virtual std::uint64_t bytes_per_token() const noexcept = 0;

  private:
    friend class Lease;
    virtual void release(UnitId unit) noexcept = 0;
};

inline Lease::~Lease() { store_->release(unit_); }

struct StoreOptions {
    bool repack = true;
};
// What a store holds, and what it needs besides while it loads.
struct StorePlan {
    std::uint64_t weight_bytes = 0, staging_bytes = 0;
};

// All weights in memory, each in the layout that is fastest here.
[[nodiscard]] StorePlan plan_resident_store(const ModelSource& source, const Exec& exec,
                                            const StoreOptions& options);
[[nodiscard]] std::unique_ptr<WeightStore> make_resident_store(const ModelSource& source,
                                                               const Exec& exec,
                                                               const StoreOptions& options);

}  // namespace thimble
