// SPDX-License-Identifier: Apache-2.0
// Weights of a model in blocks (stacked_tensor.h): as many of them as the budget has room for, in
// the order that the file says, the first of every matrix in any case. The number can change while
// no unit is leased: blocks are read, or given back to the system, and what stays is not touched.
#pragma once

#include "model/stacked_tensor.h"
#include "model/store.h"

namespace thimble {

class StackedStore : public WeightStore {
  public:
    [[nodiscard]] virtual const StackOrder& order() const noexcept = 0;
    [[nodiscard]] virtual std::int64_t blocks() const noexcept = 0;  // in memory
    // Of all weights: what the ledger was charged.
    [[nodiscard]] virtual std::uint64_t held_bytes() const noexcept = 0;
    // As many as StoreOptions::most_bytes of the same number would give.
    virtual void resize(std::uint64_t most_bytes) = 0;
    // Multiplies by the first `levels` blocks of a matrix only, all of which are in memory, until
    // the next resize().
    virtual void limit(std::size_t linear, std::int64_t levels) = 0;
};

[[nodiscard]] StorePlan plan_stacked_store(const ModelSource& source, const Exec& exec,
                                           const StoreOptions& options);
[[nodiscard]] std::unique_ptr<StackedStore> make_stacked_store(const ModelSource& source,
                                                               const Exec& exec,
                                                               const StoreOptions& options);

}  // namespace thimble
