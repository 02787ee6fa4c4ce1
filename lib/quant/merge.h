// SPDX-License-Identifier: Apache-2.0
// Adapters on their way into a model's weights: W + scale * B A of each, with DoRA its rows then
// scaled to their lengths. The terms of one matrix are in memory at a time.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/adapted_store.h"
#include "quant/tensor_error.h"
#include "tensor/buffer.h"

namespace thimble {

class AdapterMerge {
  public:
    AdapterMerge(const AdapterOptions& options, const ModelSource& source);

    [[nodiscard]] bool changes(const SourceTensor& tensor) const {
        return terms_.contains(key_of(tensor));
    }
    [[nodiscard]] std::vector<std::string> files() const;
    // Charged while terms are in memory (Purpose::kWeights).
    [[nodiscard]] std::uint64_t bytes() const noexcept {
        return Buffer::charged_bytes(most_bytes_);
    }

    // Reads the terms of a matrix. Its written row r is then the canonical row f(r) of `rows`
    // (empty: r).
    void load(const SourceTensor& tensor, std::function<std::int64_t(std::int64_t)> rows);
    // Written row r of that matrix, [in], floats or doubles; scratch: [in]. Adds what changed to
    // `change`. Safe to call from several threads.
    template <class Real>
    void apply(std::int64_t r, std::span<Real> row, std::span<double> scratch,
               TensorError& change) const;

  private:
    struct Term {
        const AdapterUse* use = nullptr;
        std::size_t index = 0;  // in its file
    };
    // The same matrix under either container's name.
    using Key = std::pair<const TensorRule*, std::int64_t>;
    static Key key_of(const SourceTensor& tensor) { return {tensor.rule, tensor.layer}; }

    std::vector<AdapterUse> adapters_;
    std::map<Key, std::vector<Term>> terms_;
    std::size_t most_bytes_ = 0;
    Buffer memory_;
    std::vector<std::pair<AdapterMatrix, double>> loaded_;  // and their scales
    std::function<std::int64_t(std::int64_t)> rows_;
};

}  // namespace thimble
