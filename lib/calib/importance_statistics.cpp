// SPDX-License-Identifier: Apache-2.0
#include "calib/importance_statistics.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace thimble {
namespace {

constexpr double kActive = 1e-5;

// Mean squares of the columns of every matrix that saw tokens.
std::vector<double> mean_squares(const ImportanceEntry& entry) {
    std::vector<double> means;
    for (std::size_t i = 0; i < entry.sums.size(); ++i) {
        const std::int64_t count = entry.counts[i / entry.cols()];
        if (count > 0)
            means.push_back(static_cast<double>(entry.sums[i]) / static_cast<double>(count));
    }
    return means;
}

double entropy_of(const std::vector<double>& values, double total) {
    double bits = 0;
    for (const double v : values) {
        if (v > 0) bits -= v / total * std::log2(v / total);
    }
    return bits;
}

std::optional<std::int64_t> layer_of(std::string_view name) {
    if (!name.starts_with("blk.")) return {};
    std::int64_t layer = 0;
    const auto [end, error] = std::from_chars(name.data() + 4, name.data() + name.size(), layer);
    if (error != std::errc() || end == name.data() + name.size() || *end != '.') return {};
    return layer;
}

std::optional<double> cosine_of(const ImportanceEntry& a, const ImportanceEntry& b) {
    if (a.sums.size() != b.sums.size()) return {};
    double dot = 0, aa = 0, bb = 0;
    for (std::size_t i = 0; i < a.sums.size(); ++i) {
        const auto x = static_cast<double>(a.sums[i]), y = static_cast<double>(b.sums[i]);
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    if (!(aa > 0) || !(bb > 0)) return {};
    return dot / (std::sqrt(aa) * std::sqrt(bb));
}

// "blk.7.attn_q.weight" -> "blk.6.attn_q.weight"
std::string one_layer_before(const std::string& name, std::int64_t layer) {
    return "blk." + std::to_string(layer - 1) + name.substr(name.find('.', 4));
}

ImportanceStatistics statistics_of(const std::string& name, const std::vector<double>& means) {
    ImportanceStatistics s;
    s.tensor = name;
    s.layer = layer_of(name);
    s.columns = means.size();
    const auto n = static_cast<double>(means.size());
    for (const double v : means) s.total += v;
    s.mean = s.total / n;
    const auto [least, most] = std::minmax_element(means.begin(), means.end());
    s.least = *least;
    s.most = *most;
    double squares = 0;
    for (const double v : means) squares += (v - s.mean) * (v - s.mean);
    s.deviation = std::sqrt(squares / n);
    const auto share = [&](auto&& holds) {
        return static_cast<double>(std::count_if(means.begin(), means.end(), holds)) / n;
    };
    s.active = share([](double v) { return v > kActive; });
    if (s.deviation > 0) s.above = share([&](double v) { return v - s.mean > s.deviation; });
    if (s.total > 0) s.entropy = entropy_of(means, s.total);
    return s;
}

}  // namespace

std::vector<ImportanceStatistics> importance_statistics(const ImportanceMatrix& matrix) {
    std::vector<ImportanceStatistics> all;
    for (const auto& [name, entry] : matrix.entries) {
        const std::vector<double> means = mean_squares(entry);
        if (means.empty()) continue;
        all.push_back(statistics_of(name, means));
        ImportanceStatistics& s = all.back();
        if (!s.layer || *s.layer == 0) continue;
        const auto before = matrix.entries.find(one_layer_before(name, *s.layer));
        if (before != matrix.entries.end()) s.cosine = cosine_of(entry, before->second);
    }
    return all;
}

}  // namespace thimble
