// SPDX-License-Identifier: Apache-2.0
// Where blocks get weights: units acquired as leases. How a unit's bytes come to be in memory
// (repacked at load, read from disk for each pass) is the store's affair; results do not depend on
// it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
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
        // Of its coded input; null: it reads its input as it is.
        const SourceTensor* input_norm = nullptr;
        double input_norm_epsilon = 0;
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
    // The same, where a unit may do without.
    [[nodiscard]] std::optional<std::size_t> find_vector(std::string_view role) const noexcept;
};
// The model's units in the order of the forward pass: embedding, layers, head. A tied head's matrix
// is the embedding's tensor.
[[nodiscard]] std::vector<UnitSpec> units_of(const ModelSource& source);
// The place of a unit among them.
[[nodiscard]] inline std::size_t index_of(UnitId unit, const std::vector<UnitSpec>& units) {
    if (unit.kind == UnitKind::kEmbedding) return 0;
    if (unit.kind == UnitKind::kHead) return units.size() - 1;
    return static_cast<std::size_t>(unit.layer) + 1;
}

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
    [[nodiscard]] UnitId unit() const noexcept { return unit_; }

  private:
    WeightStore* store_;
    UnitId unit_;
    const UnitWeights* weights_;
};

// One lease at a time: the caller's thread acquires a unit, uses it and lets it go.
class WeightStore {
  public:
    virtual ~WeightStore() = default;
    [[nodiscard]] virtual Lease acquire(UnitId unit) = 0;
    // Bytes of weights that one decoded token reads from memory.
    [[nodiscard]] virtual std::uint64_t bytes_per_token() const noexcept = 0;
    // Read from disk so far for layers that do not stay, read-ahead included.
    [[nodiscard]] virtual std::uint64_t streamed_bytes() const noexcept { return 0; }

  private:
    friend class Lease;
    virtual void release(UnitId unit) noexcept = 0;
};

inline Lease::~Lease() { store_->release(unit_); }

struct StoreOptions {
    bool repack = true;
    // Most memory for weights and for the buffers that they are read into. Layers that do not fit
    // are read from disk in each pass.
    std::uint64_t most_bytes = UINT64_MAX;
    // Coded matrices stay coded in memory and are decoded as they are multiplied.
    bool keep_coded = false;
};
// What a store holds, and what it needs besides while it loads.
struct StorePlan {
    std::uint64_t resident_bytes = 0;
    std::uint64_t staging_bytes = 0;  // only until everything resident is loaded
    std::uint64_t lease_bytes = 0;    // the repacked layer at work
    std::uint64_t io_bytes = 0;       // two layers as stored: one at work, one read ahead
    std::int64_t streamed_layers = 0;
    std::uint64_t streamed_bytes = 0;         // read from disk in each pass
    std::int64_t blocks = 0, all_blocks = 0;  // in memory and stored, of matrices in blocks
    [[nodiscard]] std::uint64_t held_bytes() const noexcept {
        return resident_bytes + lease_bytes + io_bytes;
    }
};

// All weights in memory where options.most_bytes allows, else as many layers as do; at least one
// layer's room is taken in any case. Coded matrices are kept so where they do not fit decoded, and
// where there is no bound. Of a model in blocks (stacked_store.h) as many blocks as fit.
[[nodiscard]] StorePlan plan_store(const ModelSource& source, const Exec& exec,
                                   const StoreOptions& options);
[[nodiscard]] std::unique_ptr<WeightStore> make_store(const ModelSource& source, const Exec& exec,
                                                      const StoreOptions& options);

// The kinds that these choose from.
[[nodiscard]] StorePlan plan_resident_store(const ModelSource& source, const Exec& exec,
                                            const StoreOptions& options);
[[nodiscard]] std::unique_ptr<WeightStore> make_resident_store(const ModelSource& source,
                                                               const Exec& exec,
                                                               const StoreOptions& options);
[[nodiscard]] StorePlan plan_streamed_store(const ModelSource& source, const Exec& exec,
                                            const StoreOptions& options);
[[nodiscard]] std::unique_ptr<WeightStore> make_streamed_store(const ModelSource& source,
                                                               const Exec& exec,
                                                               const StoreOptions& options);

}  // namespace thimble
