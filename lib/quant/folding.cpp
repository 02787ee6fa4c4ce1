// SPDX-License-Identifier: Apache-2.0
#include "quant/folding.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"
#include "quant/rearrange.h"
#include "quant/row_stream.h"

namespace thimble {
namespace {

using Kind = FoldSite::Kind;

// Of an area that holds `count` values of `size` bytes; returns where it begins.
std::size_t reserve(std::size_t& bytes, std::int64_t count, std::size_t size) {
    const std::size_t at = bytes;
    bytes += (static_cast<std::size_t>(count) * size + 63) & ~std::size_t{63};
    return at;
}

std::string layers_text(std::int64_t layers) {
    return std::to_string(layers) + (layers == 1 ? " layer" : " layers");
}

}  // namespace

Folding::Folding(const QuantizeOptions& options, const ModelSource& source)
    : source_(source), wish_(parse_rearrange(options.rearrange)), alpha_(options.smooth) {
    wish_.smooth = alpha_ != QuantizeOptions::kNoSmoothing;
    if (!wish_.any()) return;
    if (wish_.smooth && alpha_ < 0) {
        throw Error(Exit::kUsage, "--smooth", "is an exponent from 0 to 1",
                    "0.5 shares the size of channels evenly");
    }
    if (wish_.smooth && options.imatrix.empty()) {
        throw Error(Exit::kUsage, "--smooth",
                    "needs the size of each input channel, and there is no importance matrix",
                    "give --imatrix FILE, which quantize --collect-imatrix makes");
    }
    sites_ = fold_sites(wish_, source.spec().sublayers, units_of(source));
    add_folds();
    place();
}

TensorFold& Folding::fold(const SourceTensor& tensor, std::size_t site) {
    TensorFold& fold = folds_[{tensor.rule, tensor.layer}];
    fold.sites.push_back(site);
    return fold;
}

void Folding::add_folds() {
    for (std::size_t i = 0; i < sites_.size(); ++i) {
        const FoldSite& site = sites_[i];
        for (const SourceTensor* tensor : site.rows) fold(*tensor, i).moves_rows = true;
        for (const SourceTensor* tensor : site.columns) fold(*tensor, i).moves_columns = true;
        if (site.norm == nullptr) continue;
        for (const SourceTensor* tensor : site.keys) fold(*tensor, i).scales_columns = true;
        fold(*site.norm, i).replaced = true;
    }
}

void Folding::place() {
    std::int64_t widest = 0;
    for (const FoldSite& site : sites_) {
        const std::int64_t cols = site.keys.front()->cols();
        widest = std::max(widest, cols);
        Place at;
        if (site.kind == Kind::kSmooth) {
            at.scale = reserve(bytes_, cols, sizeof(double));
            at.values = reserve(bytes_, cols, sizeof(double));
        } else {
            at.order = reserve(bytes_, site.rows.front()->rows(), sizeof(std::int32_t));
            at.spread = at.order;
            if (site.kind == Kind::kValues) at.spread = reserve(bytes_, cols, sizeof(std::int32_t));
        }
        places_.push_back(at);
    }
    keys_at_ = reserve(bytes_, widest, sizeof(double));
    importance_at_ = reserve(bytes_, widest, sizeof(float));
}

const TensorFold* Folding::of(const SourceTensor& tensor) const {
    const auto at = folds_.find({tensor.rule, tensor.layer});
    return at == folds_.end() ? nullptr : &at->second;
}

std::span<const float> Folding::importance_of(const FoldSite& site) const {
    if (importance_ == nullptr) return {};
    for (const SourceTensor* tensor : site.keys) {
        const std::span<const float> means = importance_->of(*tensor);
        if (!means.empty()) return means;
    }
    return {};
}

void Folding::use(const ColumnImportance& importance) {
    importance_ = &importance;
    for (const FoldSite& site : sites_) {
        if (site.kind != Kind::kSmooth || !importance_of(site).empty()) continue;
        const SourceTensor& tensor = *site.keys.front();
        throw Error(Exit::kUsage, "--smooth",
                    "--imatrix does not tell how large the input of '" + tensor.name +
                        "' is: " + importance.absence(tensor),
                    "give one of the whole model, or leave --smooth out");
    }
}

void Folding::use(std::span<const TensorChoice> choices, bool hf) {
    for (const TensorChoice& choice : choices) {
        if (choice.fold == nullptr || !choice.fold->replaced) continue;
        const bool less_one = hf && choice.tensor->rule->transform == HfTransform::kPlusOne;
        for (const std::size_t site : choice.fold->sites)
            places_[site].form = {choice.layout(), less_one};
    }
}

std::uint64_t Folding::bytes() const noexcept { return Buffer::charged_bytes(bytes_); }

std::vector<std::string> Folding::notes() const {
    std::vector<std::string> notes;
    for (const Kind kind : {Kind::kFfn, Kind::kValues, Kind::kSmooth}) {
        std::int64_t count = 0, blind = 0;
        for (const FoldSite& site : sites_) {
            if (site.kind != kind) continue;
            ++count;
            blind += importance_of(site).empty() ? 1 : 0;
        }
        if (count == 0) continue;
        if (kind == Kind::kSmooth) {
            notes.push_back("smooth: " + std::to_string(count) + " norms and the columns that " +
                            "they feed");
            continue;
        }
        std::string text = kind == Kind::kFfn ? "rearrange: the middle axis of ffn in "
                                              : "rearrange: the channels of value heads in ";
        text += layers_text(count);
        if (importance_ != nullptr && blind > 0)
            text += ", " + std::to_string(blind) + " by weights alone: no importance";
        notes.push_back(std::move(text));
    }
    return notes;
}

void Folding::begin() {
    if (any()) memory_ = Buffer(bytes_, Purpose::kOther);
}

bool Folding::prepare(const TensorChoice& choice, RowStream& stream,
                      const std::function<bool()>& go_on) {
    TensorFold& fold = folds_.at({choice.tensor->rule, choice.tensor->layer});
    for (const std::size_t i : fold.sites) {
        if (!places_[i].ready && !compute(i, stream, go_on)) return false;
        const Place& at = places_[i];
        const FoldSite& site = sites_[i];
        const std::int64_t cols = choice.tensor->cols();
        if (site.kind == Kind::kSmooth) {
            auto& span = fold.replaced ? fold.values : fold.scale;
            span = area<double>(fold.replaced ? at.values : at.scale, cols);
        } else if (!choice.tensor->is_matrix) {  // a bias
            fold.columns = area<std::int32_t>(at.order, cols);
        } else if (fold.moves_columns) {
            fold.columns = area<std::int32_t>(at.spread, cols);
        } else {
            fold.rows = area<std::int32_t>(at.order, choice.tensor->rows());
        }
    }
    set_importance(choice, fold);
    return true;
}

// A column's error weighs as much as its input is large: where it goes that goes, and what its
// weights are multiplied by its input is divided by.
void Folding::set_importance(const TensorChoice& choice, TensorFold& fold) {
    fold.importance = choice.importance;
    if (choice.importance.empty() || !fold.changes_rows()) return;
    const std::span<float> out = area<float>(importance_at_, choice.tensor->cols());
    for (std::size_t c = 0; c < out.size(); ++c) {
        const std::size_t from =
            fold.columns.empty() ? c : static_cast<std::size_t>(fold.columns[c]);
        const double scale = fold.scale.empty() ? 1 : fold.scale[c];
        out[c] = static_cast<float>(static_cast<double>(choice.importance[from]) / scale / scale);
    }
    fold.importance = out;
}

std::span<double> Folding::keys_of(const FoldSite& site) {
    return area<double>(keys_at_, site.keys.front()->cols());
}

bool Folding::survey(const FoldSite& site, RowStream& stream, const std::function<bool()>& go_on) {
    const std::span<double> keys = keys_of(site);
    std::fill(keys.begin(), keys.end(), 0.0);
    const bool peaks = site.kind == Kind::kSmooth;
    const auto use = [&](const float* row, std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = begin; c < end; ++c) {
            const auto w = static_cast<double>(row[c]);
            double& key = keys[static_cast<std::size_t>(c)];
            key = peaks ? std::max(key, std::abs(w)) : key + w * w;
        }
    };
    return std::all_of(site.keys.begin(), site.keys.end(), [&](const SourceTensor* tensor) {
        return stream.survey(*tensor, use, go_on);
    });
}

bool Folding::compute(std::size_t i, RowStream& stream, const std::function<bool()>& go_on) {
    if (!survey(sites_[i], stream, go_on)) return false;
    if (sites_[i].kind == Kind::kSmooth) {
        smooth(i);
    } else {
        rearrange(i);
    }
    places_[i].ready = true;
    return true;
}

void Folding::rearrange(std::size_t i) {
    const FoldSite& site = sites_[i];
    const std::span<double> keys = keys_of(site);
    const std::span<const float> means = importance_of(site);
    for (std::size_t c = 0; c < keys.size(); ++c) {
        if (!means.empty()) keys[c] *= static_cast<double>(means[c]);
        if (std::isfinite(keys[c])) continue;
        throw Error(Exit::kBadData, escaped(source_.file().path(), 1024),
                    "tensor '" + site.keys.front()->name + "', column " + std::to_string(c) +
                        " has no size: a weight is NaN or infinite");
    }
    const std::int64_t channels = site.rows.front()->rows();
    const std::span<std::int32_t> order = area<std::int32_t>(places_[i].order, channels);
    if (site.kind == Kind::kFfn) return sort_channels(keys, channels, order);
    const AttentionLayer& shape =
        source_.spec().attention[static_cast<std::size_t>(site.layer)].shape;
    add_shared_heads(keys, shape.heads, shape.kv_heads, shape.head_dim);
    sort_channels(keys.first(order.size()), shape.head_dim, order);
    spread_order(order, shape.heads, shape.kv_heads, shape.head_dim,
                 area<std::int32_t>(places_[i].spread, std::ssize(keys)));
}

void Folding::smooth(std::size_t i) {
    const FoldSite& site = sites_[i];
    const std::span<double> peaks = keys_of(site);
    const std::span<const float> means = importance_of(site);
    const std::span<double> scale = area<double>(places_[i].scale, std::ssize(peaks));
    const std::span<double> norm = area<double>(places_[i].values, std::ssize(peaks));
    for (std::size_t j = 0; j < peaks.size(); ++j)
        scale[j] = smoothing_scale(std::sqrt(static_cast<double>(means[j])), peaks[j], alpha_);
    std::vector<std::byte> scratch;
    source_.read_rows(*site.norm, 0, 1, norm.data(), scratch);
    divide_norm(places_[i].form, norm, scale);
}

}  // namespace thimble
