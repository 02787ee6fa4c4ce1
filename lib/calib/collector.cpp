// SPDX-License-Identifier: Apache-2.0
#include "calib/collector.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace thimble {
namespace {

constexpr std::int64_t kColumns = 64;  // that one thread adds at a time
constexpr std::string_view kHead = "output.weight";

// The matrices that are collected, by unit: those of the layers, and the head if asked for.
std::vector<std::vector<const SourceTensor*>> collected(const std::vector<UnitSpec>& units,
                                                        bool process_output) {
    std::vector<std::vector<const SourceTensor*>> out(units.size());
    for (std::size_t u = 1; u < units.size(); ++u) {
        for (const auto& m : units[u].matrices) {
            const bool head = u + 1 == units.size();
            const bool wanted = !head || (process_output && m.weight->name == kHead);
            out[u].push_back(wanted ? m.weight : nullptr);
        }
    }
    return out;
}

std::size_t sum_count(const std::vector<std::vector<const SourceTensor*>>& units) {
    std::int64_t columns = 0;
    for (const auto& unit : units) {
        for (const SourceTensor* tensor : unit) columns += tensor ? tensor->cols() : 0;
    }
    return static_cast<std::size_t>(columns);
}

class Collector final : public Tap {
  public:
    Collector(const ModelSource& source, Team& team, bool process_output)
        : specs_(units_of(source)),
          matrices_(collected(specs_, process_output)),
          team_(team),
          sums_(sum_count(matrices_) * sizeof(double), Purpose::kOther) {
        std::fill(sums_.span<double>().begin(), sums_.span<double>().end(), 0.0);
        double* at = sums_.as<double>();
        for (const auto& unit : matrices_) {
            auto& entries = entries_.emplace_back();
            for (const SourceTensor* tensor : unit) {
                entries.push_back({tensor, at, 0, nullptr});
                at += tensor ? tensor->cols() : 0;
            }
        }
    }

    // Matrices that share an input share its sums.
    void input(UnitId unit, std::span<const std::size_t> matrices, View x) override {
        auto& entries = entries_[index_of(unit, specs_)];
        Entry* first = nullptr;
        for (const std::size_t m : matrices) {
            Entry& entry = entries[m];
            if (!entry.tensor) continue;
            entry.tokens += x.rows;
            if (first) entry.same = first;
            if (!first) first = &entry;
        }
        if (first) add_squares(x, first->sums);
    }

    [[nodiscard]] ImportanceMatrix finish(const std::string& file) const {
        ImportanceMatrix matrix;
        for (const auto& unit : entries_) {
            for (const Entry& entry : unit) {
                if (!entry.tensor || entry.tokens == 0) continue;
                const auto cols = static_cast<std::size_t>(entry.tensor->cols());
                const std::span<const double> sums(entry.same ? entry.same->sums : entry.sums,
                                                   cols);
                if (!std::all_of(sums.begin(), sums.end(),
                                 [](double v) { return std::isfinite(v); }))
                    throw Error(Exit::kBadData, escaped(file, 1024),
                                "the input of '" + entry.tensor->name + "' is not finite");
                matrix.charge.resize(matrix.charge.bytes() + entry_bytes(*entry.tensor));
                ImportanceEntry& out = matrix.entries[entry.tensor->name];
                out.counts = {entry.tokens};
                for (const double v : sums) out.sums.push_back(static_cast<float>(v));
            }
        }
        return matrix;
    }

    [[nodiscard]] static std::uint64_t entry_bytes(const SourceTensor& tensor) {
        return static_cast<std::uint64_t>(tensor.cols()) * sizeof(float) + sizeof(std::int64_t);
    }

  private:
    struct Entry {
        const SourceTensor* tensor = nullptr;  // null: not collected
        double* sums = nullptr;
        std::int64_t tokens = 0;
        const Entry* same = nullptr;  // whose sums stand for this one's
    };

    void add_squares(View x, double* sums) {
        team_.run(x.cols, kColumns, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = 0; r < x.rows; ++r) {
                if (x.dtype == DType::kF64) {
                    add_row(x.row<double>(r), sums, begin, end);
                } else {
                    add_row(x.row<float>(r), sums, begin, end);
                }
            }
        });
    }
    template <class T>
    static void add_row(const T* x, double* sums, std::int64_t begin, std::int64_t end) {
        for (std::int64_t c = begin; c < end; ++c) {
            const auto v = static_cast<double>(x[c]);
            sums[c] += v * v;
        }
    }

    std::vector<UnitSpec> specs_;
    std::vector<std::vector<const SourceTensor*>> matrices_;
    Team& team_;
    Buffer sums_;
    std::vector<std::vector<Entry>> entries_;
};

std::size_t hidden_bytes(const ModelSpec& spec, DType dtype, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * spec.hidden) * size_of(dtype);
}

}  // namespace

std::vector<std::pair<std::size_t, std::size_t>> groups_of(const CalibrationTexts& texts,
                                                           std::int64_t most) {
    std::vector<std::pair<std::size_t, std::size_t>> groups;
    std::int64_t tokens = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::int64_t count = std::ssize(texts[i]);
        if (groups.empty() || (most > 0 && tokens + count > most)) {
            groups.emplace_back(i, i);
            tokens = 0;
        }
        groups.back().second = i + 1;
        tokens += count;
    }
    return groups;
}

std::int64_t tokens_of(std::span<const std::span<const std::int32_t>> texts) {
    std::int64_t tokens = 0;
    for (const auto& text : texts) tokens += std::ssize(text);
    return tokens;
}

std::optional<ImportanceMatrix> collect_importance(Runner& runner, Team& team,
                                                   const CalibrationTexts& texts,
                                                   const CollectOptions& options,
                                                   const CollectProgress& progress) {
    Collector collector(runner.source(), team, options.process_output);
    const auto groups = groups_of(texts, options.group_tokens);
    std::int64_t most = 0;
    for (const auto& [first, last] : groups)
        most = std::max(most, tokens_of(std::span(texts).subspan(first, last - first)));
    const DType dtype = runner.exec().dtype();
    Buffer states(hidden_bytes(runner.spec(), dtype, most), Purpose::kActivations);
    const std::int64_t layers = runner.spec().layers;
    const std::int64_t total = layers * std::ssize(groups);
    std::int64_t before = 0;
    for (const auto& [first, last] : groups) {
        const auto group = std::span(texts).subspan(first, last - first);
        const std::int64_t hidden = runner.spec().hidden;
        const View x = {states.data(), dtype, tokens_of(group), hidden, hidden};
        const bool whole = runner.sweep(group, x, &collector, [&](std::int64_t done) {
            return !progress || progress(before + done, total);
        });
        if (!whole) return std::nullopt;
        if (options.process_output) runner.head(x, &collector, {});
        before += layers;
    }
    return collector.finish(runner.source().file().path());
}

void add_collection_to_plan(Plan& plan, const ModelSource& source, Device device,
                            std::int64_t tokens, bool process_output) {
    const DType dtype = device == Device::kRef ? DType::kF64 : DType::kF32;
    plan.at(Tier::kRam, Purpose::kActivations) +=
        Buffer::charged_bytes(hidden_bytes(source.spec(), dtype, tokens));
    const auto units = collected(units_of(source), process_output);
    std::uint64_t result = 0;
    for (const auto& unit : units) {
        for (const SourceTensor* tensor : unit)
            result += tensor ? Collector::entry_bytes(*tensor) : 0;
    }
    plan.at(Tier::kRam, Purpose::kOther) +=
        Buffer::charged_bytes(sum_count(units) * sizeof(double));
    // The matrix is made when the cache is empty again.
    const std::uint64_t kv = plan.at(Tier::kRam, Purpose::kKv);
    if (result > kv) plan.at(Tier::kRam, Purpose::kOther) += result - kv;
}

}  // namespace thimble
