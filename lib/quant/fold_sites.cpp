// SPDX-License-Identifier: Apache-2.0
#include "quant/fold_sites.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr const char *kRearrange = "--rearrange", *kSmoothFlag = "--smooth";

using Kind = FoldSite::Kind;

const char* flag_of(Kind kind) { return kind == Kind::kSmooth ? kSmoothFlag : kRearrange; }

const UnitSpec::Matrix* matrix(const UnitSpec& unit, std::string_view role) {
    const auto at = std::find_if(unit.matrices.begin(), unit.matrices.end(),
                                 [&](const UnitSpec::Matrix& m) { return m.role == role; });
    return at == unit.matrices.end() ? nullptr : &*at;
}

const SourceTensor* vector(const UnitSpec& unit, std::string_view role) {
    const auto at = std::find_if(unit.vectors.begin(), unit.vectors.end(),
                                 [&](const UnitSpec::Vector& v) { return v.role == role; });
    return at == unit.vectors.end() ? nullptr : at->weight;
}

// The rows of `from` are the columns of `to`; a bias goes with its rows.
bool add_reordered(std::vector<FoldSite>& sites, Kind kind, std::int64_t layer,
                   const std::vector<const UnitSpec::Matrix*>& from, const UnitSpec::Matrix* to) {
    if (to == nullptr || std::count(from.begin(), from.end(), nullptr) > 0) return false;
    FoldSite site{kind, layer, {to->weight}, {}, {to->weight}, nullptr};
    for (const UnitSpec::Matrix* m : from) {
        site.rows.push_back(m->weight);
        if (m->bias != nullptr) site.columns.push_back(m->bias);
    }
    sites.push_back(std::move(site));
    return true;
}

bool add_smoothed(std::vector<FoldSite>& sites, std::int64_t layer, const SourceTensor* norm,
                  const std::vector<const UnitSpec::Matrix*>& fed) {
    if (norm == nullptr || std::count(fed.begin(), fed.end(), nullptr) > 0) return false;
    FoldSite site{Kind::kSmooth, layer, {}, {}, {}, norm};
    for (const UnitSpec::Matrix* m : fed) site.keys.push_back(m->weight);
    sites.push_back(std::move(site));
    return true;
}

[[noreturn]] void refuse_absent(Kind kind, const std::string& what, const std::string& needed) {
    throw Error(Exit::kUsage, flag_of(kind), what + ": no layer of the model has " + needed,
                "leave it out");
}

void refuse_shared(const std::vector<FoldSite>& sites, const std::vector<UnitSpec>& units) {
    std::map<const SourceTensor*, int> readers;
    for (const UnitSpec& unit : units) {
        for (const UnitSpec::Matrix& m : unit.matrices) {
            ++readers[m.weight];
            if (m.bias != nullptr) ++readers[m.bias];
        }
        for (const UnitSpec::Vector& v : unit.vectors) ++readers[v.weight];
    }
    const auto check = [&](Kind kind, const SourceTensor* tensor) {
        if (readers[tensor] <= 1) return;
        throw Error(Exit::kUsage, flag_of(kind),
                    "tensor '" + tensor->name + "' is read in " + std::to_string(readers[tensor]) +
                        " places: what suits one of them would change the others");
    };
    for (const FoldSite& site : sites) {
        for (const SourceTensor* tensor : site.keys) check(site.kind, tensor);
        for (const SourceTensor* tensor : site.rows) check(site.kind, tensor);
        for (const SourceTensor* tensor : site.columns) check(site.kind, tensor);
        if (site.norm != nullptr) check(site.kind, site.norm);
    }
}

void refuse_ordered(const std::vector<FoldSite>& sites) {
    for (const FoldSite& site : sites) {
        for (const SourceTensor* tensor : site.rows) {
            if (tensor->rule->transform == HfTransform::kNone) continue;
            throw Error(Exit::kUsage, flag_of(site.kind),
                        "rows of tensor '" + tensor->name +
                            "' have an order of their own in one of the containers");
        }
    }
}

}  // namespace

FoldWish parse_rearrange(const std::string& list) {
    FoldWish wish;
    if (list.empty()) return wish;
    const std::vector<std::string> known = {"ffn", "values", "all"};
    for (const std::string& item : split(list, ',')) {
        if (std::find(known.begin(), known.end(), item) == known.end()) {
            throw Error(Exit::kUsage, kRearrange,
                        "'" + escaped(item, 60) + "' is nothing that can be rearranged" +
                            did_you_mean(item, known),
                        "expected ffn, values, or all");
        }
        wish.ffn = wish.ffn || item != "values";
        wish.values = wish.values || item != "ffn";
    }
    return wish;
}

std::vector<FoldSite> fold_sites(const FoldWish& wish, const std::vector<std::string>& sublayers,
                                 const std::vector<UnitSpec>& units) {
    const auto has = [&](std::string_view block) {
        return std::find(sublayers.begin(), sublayers.end(), block) != sublayers.end();
    };
    const bool ffn = has("ffn"), attention = has("attention");
    std::vector<FoldSite> sites;
    bool any_ffn = false, any_values = false, any_smooth = false;
    for (std::size_t u = 1; u + 1 < units.size(); ++u) {
        const UnitSpec& unit = units[u];
        const auto layer = static_cast<std::int64_t>(u) - 1;
        const auto* gate = matrix(unit, "ffn_gate");
        const auto* up = matrix(unit, "ffn_up");
        const auto* v = matrix(unit, "attn_v");
        if (wish.ffn && unit.find_vector("ffn_thresholds")) {
            throw Error(Exit::kUsage, kRearrange,
                        "the model drops small activations by a threshold for each channel, in the "
                        "order of its channels",
                        "rearrange first, then prune --method chess; or --rearrange values");
        }
        if (wish.values && attention)
            any_values |=
                add_reordered(sites, Kind::kValues, layer, {v}, matrix(unit, "attn_output"));
        if (wish.ffn && ffn)
            any_ffn |=
                add_reordered(sites, Kind::kFfn, layer, {gate, up}, matrix(unit, "ffn_down"));
        if (wish.smooth && attention)
            any_smooth |= add_smoothed(sites, layer, vector(unit, "attn_norm"),
                                       {matrix(unit, "attn_q"), matrix(unit, "attn_k"), v});
        if (wish.smooth && ffn)
            any_smooth |= add_smoothed(sites, layer, vector(unit, "ffn_norm"), {gate, up});
    }
    if (wish.ffn && !any_ffn) refuse_absent(Kind::kFfn, "ffn", "ffn_gate, ffn_up and ffn_down");
    if (wish.values && !any_values)
        refuse_absent(Kind::kValues, "values", "attn_v and attn_output");
    if (wish.smooth && !any_smooth)
        refuse_absent(Kind::kSmooth, "smoothing", "a norm that feeds attention or an FFN");
    refuse_shared(sites, units);
    refuse_ordered(sites);
    return sites;
}

}  // namespace thimble
