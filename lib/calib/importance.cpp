// SPDX-License-Identifier: Apache-2.0
#include "calib/importance.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

void add(ImportanceEntry& into, const ImportanceEntry& from, const std::string& what) {
    if (into.sums.size() != from.sums.size() || into.counts.size() != from.counts.size()) {
        throw Error(Exit::kBadData, what,
                    std::to_string(from.sums.size()) + " sums of " +
                        std::to_string(from.counts.size()) + " matrices, another file has " +
                        std::to_string(into.sums.size()) + " of " +
                        std::to_string(into.counts.size()),
                    "only statistics of one model add up");
    }
    for (std::size_t i = 0; i < from.sums.size(); ++i) into.sums[i] += from.sums[i];
    for (std::size_t i = 0; i < from.counts.size(); ++i) into.counts[i] += from.counts[i];
}

void refuse_idle(std::span<const std::string> texts, std::string_view flag,
                 const std::vector<std::string>& names) {
    for (const std::string& text : texts) {
        const bool hit = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
            return name.find(text) != std::string::npos;
        });
        if (hit) continue;
        throw Error(Exit::kUsage, std::string(flag),
                    "'" + escaped(text) + "' is part of no name in the importance matrix",
                    did_you_mean(text, names));
    }
}

bool contains_any(const std::string& name, std::span<const std::string> texts) {
    return std::any_of(texts.begin(), texts.end(), [&](const std::string& text) {
        return name.find(text) != std::string::npos;
    });
}

}  // namespace

void ImportanceMatrix::merge(const ImportanceMatrix& other, std::string_view where) {
    for (const auto& [name, entry] : other.entries) {
        const auto at = entries.find(name);
        if (at != entries.end()) {
            add(at->second, entry, escaped(where, 1024) + ": entry '" + escaped(name) + "'");
            continue;
        }
        charge.resize(charge.bytes() + entry.sums.size() * sizeof(float));
        entries.emplace(name, entry);
    }
    datasets.insert(datasets.end(), other.datasets.begin(), other.datasets.end());
    if (chunk_tokens == 0) chunk_tokens = other.chunk_tokens;
    std::int64_t most = 0;
    for (const auto& [name, entry] : entries)
        most = std::max(most, *std::max_element(entry.counts.begin(), entry.counts.end()));
    chunk_count = chunk_tokens > 0 ? most / chunk_tokens : chunk_count + other.chunk_count;
}

void ImportanceMatrix::select(std::span<const std::string> included,
                              std::span<const std::string> excluded) {
    std::vector<std::string> names;
    for (const auto& [name, entry] : entries) names.push_back(name);
    refuse_idle(included, "--include-weights", names);
    refuse_idle(excluded, "--exclude-weights", names);
    std::erase_if(entries, [&](const auto& item) {
        return contains_any(item.first, excluded) ||
               (!included.empty() && !contains_any(item.first, included));
    });
}

std::size_t unusable_sums(const ImportanceEntry& entry) noexcept {
    return static_cast<std::size_t>(std::count_if(
        entry.sums.begin(), entry.sums.end(), [](float v) { return !std::isfinite(v) || v < 0; }));
}

}  // namespace thimble
