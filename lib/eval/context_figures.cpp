// SPDX-License-Identifier: Apache-2.0
#include "eval/context_figures.h"

#include <algorithm>
#include <cmath>

namespace thimble::eval {

// Ratio of two sums over samples, with the error that their spread says.
Estimate ContextFigures::Mean::estimate() const {
    double sum = 0, count = 0, used = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        sum += sums[i];
        count += counts[i];
        used += counts[i] > 0 ? 1 : 0;
    }
    if (count == 0) return {std::nan(""), std::nan("")};
    const double mean = sum / count;
    double squares = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const double residual = sums[i] - mean * counts[i];
        squares += residual * residual;
    }
    return {mean, used < 2 ? 0 : std::sqrt(squares * used / (used - 1)) / count};
}

void ContextFigures::expect(const ContextItem& item) {
    Label label{item.length, {}, {}};
    for (const ContextTurn& turn : item.turns) {
        label.depths.push_back(turn.depth);
        label.parts.push_back(turn.part);
        depths_.insert(turn.depth);
        parts_.insert(turn.part);
    }
    lengths_.insert(item.length);
    most_turns_ = std::max(most_turns_, item.turns.size());
    labels_.push_back(std::move(label));
}

// Of the figures that a turn counts for, those that tell it from another one.
std::vector<std::string> ContextFigures::names_of(const Label& label, std::size_t turn) const {
    std::vector<std::string> out = {"score"};
    const std::string length = "length_" + std::to_string(label.length);
    const std::string depth = "depth_" + std::to_string(label.depths[turn]);
    const bool has_depth = depths_.size() > 1 && label.depths[turn] >= 0;
    if (lengths_.size() > 1) out.push_back(length);
    if (has_depth) out.push_back(depth);
    if (lengths_.size() > 1 && has_depth) out.push_back(length + "_" + depth);
    if (most_turns_ > 1) out.push_back("turn_" + std::to_string(turn + 1));
    if (parts_.size() > 1) out.push_back(label.parts[turn]);
    return out;
}

ContextFigures::Mean& ContextFigures::mean(const std::string& name) {
    return *std::find_if(means_.begin(), means_.end(),
                         [&](const Mean& one) { return one.name == name; });
}

void ContextFigures::settle() {
    std::set<std::string> found;
    for (const Label& label : labels_) {
        for (std::size_t t = 0; t < label.depths.size(); ++t)
            for (const std::string& name : names_of(label, t)) found.insert(name);
    }
    const auto number = [](auto n) { return std::to_string(n); };
    std::vector<std::string> names = {"score"};
    for (const auto length : lengths_) names.push_back("length_" + number(length));
    for (const auto depth : depths_) names.push_back("depth_" + number(depth));
    for (const auto length : lengths_) {
        for (const auto depth : depths_)
            names.push_back("length_" + number(length) + "_depth_" + number(depth));
    }
    for (std::size_t t = 1; t <= most_turns_; ++t) names.push_back("turn_" + number(t));
    names.insert(names.end(), parts_.begin(), parts_.end());
    for (const std::string& name : names)
        if (found.contains(name)) means_.push_back({name, {}, {}});
    for (Mean& one : means_) {
        one.sums.reserve(labels_.size());
        one.counts.reserve(labels_.size());
    }
}

std::vector<MetricInfo> ContextFigures::metrics() const {
    std::vector<MetricInfo> out;
    for (const Mean& one : means_) out.push_back({one.name, true});
    return out;
}

std::uint64_t ContextFigures::held_bytes() const noexcept {
    std::uint64_t bytes = 2 * means_.size() * labels_.size() * sizeof(double);
    for (const Label& label : labels_)
        bytes += sizeof(Label) + label.depths.size() * (sizeof(std::int64_t) + sizeof(std::string));
    return bytes;
}

void ContextFigures::add(const std::vector<double>& scores) {
    for (Mean& one : means_) one.sums.push_back(0), one.counts.push_back(0);
    const Label& label = labels_[added_++];
    for (std::size_t t = 0; t < scores.size(); ++t) {
        for (const std::string& name : names_of(label, t)) {
            Mean& one = mean(name);
            one.sums.back() += scores[t];
            one.counts.back() += 1;
        }
    }
}

void ContextFigures::results(TaskResult& out) const {
    for (const Mean& one : means_) {
        out.metrics.push_back({{one.name, true}, one.estimate()});
        Column column{one.name, {}};
        for (std::size_t i = 0; i < one.sums.size() && one.counts[i] > 0; ++i)
            column.values.push_back(one.sums[i] / one.counts[i]);
        if (column.values.size() == labels_.size()) out.columns.push_back(std::move(column));
    }
}

}  // namespace thimble::eval
