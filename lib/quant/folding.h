// SPDX-License-Identifier: Apache-2.0
// All rewrites of one model that --rearrange and --smooth ask for, layer by layer as their tensors
// are stored: what each tensor becomes follows from a pass over the matrices whose columns decide,
// adapters merged. Sums run over rows in order, so threads never show.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "calib/column_importance.h"
#include "quant/fold_sites.h"
#include "quant/smooth.h"
#include "quant/tensor_fold.h"
#include "tensor/buffer.h"

namespace thimble {

struct QuantizeOptions;
struct TensorChoice;
class RowStream;

class Folding {
  public:
    // From headers alone. Throws Error(kUsage) as fold_sites does, for a smoothing exponent outside
    // 0 to 1, and for smoothing without importance.
    Folding(const QuantizeOptions& options, const ModelSource& source);

    // What becomes of a tensor; null: it stays as it is.
    [[nodiscard]] const TensorFold* of(const SourceTensor& tensor) const;
    [[nodiscard]] bool any() const noexcept { return !sites_.empty(); }

    // How large inputs are; lives as long as this. Throws Error(kUsage) for a norm to be smoothed
    // whose matrices have no importance.
    void use(const ColumnImportance& importance);
    // The choices with these folds: how their norms are written. `hf`: in Hugging Face's form.
    void use(std::span<const TensorChoice> choices, bool hf);

    // Charged from begin() on (Purpose::kOther).
    [[nodiscard]] std::uint64_t bytes() const noexcept;
    [[nodiscard]] std::vector<std::string> notes() const;

    void begin();
    // Makes what a tensor becomes known, and its importance of what choice says. Reads through
    // `stream`; false when go_on() stopped it.
    [[nodiscard]] bool prepare(const TensorChoice& choice, RowStream& stream,
                               const std::function<bool()>& go_on);

  private:
    struct Place {  // in memory_
        std::size_t order = 0, spread = 0, scale = 0, values = 0;
        NormForm form;
        bool ready = false;
    };
    TensorFold& fold(const SourceTensor& tensor, std::size_t site);
    void add_folds();
    void place();
    [[nodiscard]] bool compute(std::size_t site, RowStream& stream,
                               const std::function<bool()>& go_on);
    [[nodiscard]] bool survey(const FoldSite& site, RowStream& stream,
                              const std::function<bool()>& go_on);
    void rearrange(std::size_t site);
    void smooth(std::size_t site);
    void set_importance(const TensorChoice& choice, TensorFold& fold);
    [[nodiscard]] std::span<const float> importance_of(const FoldSite& site) const;
    [[nodiscard]] std::span<double> keys_of(const FoldSite& site);
    template <class T>
    [[nodiscard]] std::span<T> area(std::size_t offset, std::int64_t count) {
        return {reinterpret_cast<T*>(memory_.data() + offset), static_cast<std::size_t>(count)};
    }

    const ModelSource& source_;
    const ColumnImportance* importance_ = nullptr;
    FoldWish wish_;
    double alpha_ = 0;
    std::vector<FoldSite> sites_;
    std::vector<Place> places_;  // of sites_
    // The same tensor under either container's name.
    std::map<std::pair<const TensorRule*, std::int64_t>, TensorFold> folds_;
    std::size_t keys_at_ = 0, importance_at_ = 0, bytes_ = 0;
    Buffer memory_;
};

}  // namespace thimble
