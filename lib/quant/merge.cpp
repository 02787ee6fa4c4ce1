// SPDX-License-Identifier: Apache-2.0
#include "quant/merge.h"

#include <algorithm>

namespace thimble {

AdapterMerge::AdapterMerge(const AdapterOptions& options, const ModelSource& source)
    : adapters_(open_adapters(options, source)) {
    std::map<Key, std::size_t> bytes;
    for (const AdapterUse& use : adapters_) {
        const std::vector<AdapterMatrix>& matrices = use.file->adapter().matrices;
        for (std::size_t i = 0; i < matrices.size(); ++i) {
            const Key key = key_of(*matrices[i].tensor);
            terms_[key].push_back({&use, i});
            most_bytes_ = std::max(most_bytes_, bytes[key] += use.file->value_bytes(i));
        }
    }
}

std::vector<std::string> AdapterMerge::files() const {
    std::vector<std::string> files;
    for (const AdapterUse& use : adapters_) {
        for (std::string& file : use.file->files()) files.push_back(std::move(file));
    }
    return files;
}

void AdapterMerge::load(const SourceTensor& tensor,
                        std::function<std::int64_t(std::int64_t)> rows) {
    if (!memory_) memory_ = Buffer(most_bytes_, Purpose::kWeights);
    rows_ = std::move(rows);
    loaded_.clear();
    std::byte* at = memory_.data();
    for (const Term& term : terms_.at(key_of(tensor))) {
        const AdapterMatrix matrix = term.use->file->read(term.index, at);
        loaded_.emplace_back(matrix, term.use->scale_of(matrix));
        at += term.use->file->value_bytes(term.index);
    }
}

template <class Real>
void AdapterMerge::apply(std::int64_t r, std::span<Real> row, std::span<double> scratch,
                         TensorError& change) const {
    const std::int64_t canonical = rows_ ? rows_(r) : r;
    std::copy(row.begin(), row.end(), scratch.begin());
    double stretch = 1;
    for (const auto& [matrix, scale] : loaded_) {
        add_terms(matrix, scale, canonical, scratch);
        if (matrix.lengths != nullptr) stretch = row_scale(matrix, canonical, scratch);
    }
    for (std::size_t c = 0; c < row.size(); ++c) {
        const auto was = static_cast<double>(row[c]);
        row[c] = static_cast<Real>(stretch * scratch[c]);
        const double moved = static_cast<double>(row[c]) - was;
        change.error += moved * moved;
        change.norm += was * was;
        ++change.count;
    }
}

template void AdapterMerge::apply(std::int64_t, std::span<float>, std::span<double>,
                                  TensorError&) const;
template void AdapterMerge::apply(std::int64_t, std::span<double>, std::span<double>,
                                  TensorError&) const;

}  // namespace thimble
