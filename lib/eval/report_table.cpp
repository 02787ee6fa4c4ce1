// SPDX-License-Identifier: Apache-2.0
#include "eval/report_table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>

#include "core/figures.h"
#include "core/strings.h"

namespace thimble::eval {
namespace {

constexpr const char* kNone = "-";

std::string with_error(const Estimate& e, int decimals, double unit = 1) {
    return fixed(e.value * unit, decimals) + " ± " + fixed(e.standard_error * unit, decimals);
}

// A figure of the record's text, or the mean over its texts.
std::optional<Estimate> text_figure(const Record& r, std::string_view name,
                                    std::optional<Estimate> of_first) {
    for (const Metric& metric : r.averages)
        if (metric.info.name == name) return metric.value;
    return of_first;
}

// Whether a column is left out: never, where no record has it, where all have the same.
enum class Shown : std::uint8_t { kAlways, kKnown, kDiffering };
struct TableColumn {
    const char* head;
    std::function<std::string(const Record&)> cell;
    Shown shown = Shown::kAlways;
};

// A figure of the divergence with its error.
template <class Part>
TableColumn divergence_column(const char* head, std::string name, Part part, int decimals,
                              double unit = 1) {
    return {head, [=](const Record& r) -> std::string {
                std::optional<Estimate> first;
                if (r.divergence) first = part(*r.divergence);
                const auto figure = text_figure(r, name, first);
                return figure ? with_error(*figure, decimals, unit) : kNone;
            }};
}

template <class Cell>
TableColumn speed_column(const char* head, Cell cell, Shown shown = Shown::kAlways) {
    return {head, [=](const Record& r) { return r.speed ? cell(*r.speed) : std::string(kNone); },
            shown};
}

std::string perplexity_cell(const Record& r) {
    const auto perplexity = text_figure(
        r, "ppl", r.perplexity ? std::optional(r.perplexity->perplexity) : std::nullopt);
    return perplexity ? with_error(*perplexity, 3) : kNone;
}

std::string limit_cell(const Speed& s) {
    if (s.limit_bytes_per_second <= 0) return kNone;
    return fixed(100 * s.bytes_per_second() / s.limit_bytes_per_second, 0);
}

std::vector<TableColumn> quality_columns() {
    using Divergence = DivergenceFigures;
    return {
        {"PPL", perplexity_cell},
        divergence_column(
            "KLD", "kld_mean", [](const Divergence& d) { return d.kld; }, 5),
        {"KLD 99 %",
         [](const Record& r) { return r.divergence ? fixed(r.divergence->kld_p99, 3) : kNone; },
         Shown::kKnown},
        divergence_column(
            "same top-1 %", "same_top", [](const Divergence& d) { return d.same_top; }, 2, 100),
        divergence_column(
            "RMS Δp %", "rms_delta_p", [](const Divergence& d) { return d.rms_delta_p; }, 2, 100)};
}

std::vector<TableColumn> columns() {
    std::vector<TableColumn> out = {
        {"model", [](const Record& r) { return title(r.model); }},
        {"format", [](const Record& r) { return r.model.format; }},
        {"activations", [](const Record& r) { return r.settings.activations; }, Shown::kDiffering},
        {"size", [](const Record& r) { return format_bytes(r.model.file_bytes); }},
        {"bits/weight", [](const Record& r) { return fixed(r.model.bits_per_weight, 2); }},
        {"rel. RMSE %",
         [](const Record& r) {
             return r.encoding && std::isfinite(r.encoding->relative_rmse)
                        ? fixed(100 * r.encoding->relative_rmse, 2)
                        : kNone;
         },
         Shown::kKnown}};
    for (TableColumn& column : quality_columns()) out.push_back(std::move(column));
    out.push_back(speed_column(
        "decode tok/s", [](const Speed& s) { return fixed(s.decode_tokens_per_second, 1); }));
    out.push_back(speed_column(
        "decode GB/s", [](const Speed& s) { return fixed(s.bytes_per_second() / 1e9, 1); },
        Shown::kKnown));
    out.push_back(speed_column("of read limit %", limit_cell, Shown::kKnown));
    out.push_back(speed_column(
        "prefill tok/s", [](const Speed& s) { return fixed(s.prefill_tokens_per_second, 1); }));
    out.push_back(
        {"peak memory", [](const Record& r) { return format_bytes(r.peak.measured_bytes); }});
    out.push_back(
        {"encode s",
         [](const Record& r) { return r.encoding ? fixed(r.encoding->seconds, 1) : kNone; },
         Shown::kKnown});
    return out;
}

// One line per different value of `describe`; several mean that their columns do not compare.
template <class Describe>
void add_notes(std::vector<std::string>& out, std::span<const Record> records, const char* what,
               Describe&& describe) {
    std::vector<std::string> seen;
    for (const Record& record : records) {
        std::string line = describe(record);
        if (!line.empty() && std::find(seen.begin(), seen.end(), line) == seen.end())
            seen.push_back(std::move(line));
    }
    for (const std::string& line : seen) out.push_back(std::string(what) + ": " + line);
    if (seen.size() > 1)
        out.emplace_back("note: results above differ in this and do not compare directly");
}

std::string describe_text(const Record& r) {
    if (!r.text) return {};
    const std::string means = r.averages.empty() ? "" : "means over several texts, the first: ";
    return means + r.text->file + " (sha256 " + r.text->sha256.substr(0, 12) + "), " +
           std::to_string(r.settings.windows) + " windows of " +
           std::to_string(r.settings.context_tokens) + " tokens, cache " + r.settings.cache_type_k +
           "/" + r.settings.cache_type_v + " " + r.settings.kv_policy;
}

std::string describe_machine(const Record& r) {
    return r.settings.cpu + ", " + r.settings.isa + ", " + std::to_string(r.settings.threads) +
           " threads, activations " + r.settings.activations + ", device " + r.settings.device;
}

std::string describe_speed(const Record& r) {
    if (!r.speed) return {};
    const std::string depth =
        r.speed->depth_tokens > 0 ? " after " + std::to_string(r.speed->depth_tokens) : "";
    return "prompt of " + std::to_string(r.speed->prompt_tokens) + ", then " +
           std::to_string(r.speed->decode_tokens) + " single tokens" + depth + ", median of " +
           std::to_string(r.speed->repeats);
}

}  // namespace

TableRows model_rows(std::span<const Record> records) {
    TableRows rows(records.size() + 1);
    for (const TableColumn& column : columns()) {
        std::vector<std::string> cells;
        for (const Record& record : records) cells.push_back(column.cell(record));
        const auto all = [&](const std::string& text) {
            return std::all_of(cells.begin(), cells.end(),
                               [&](const std::string& cell) { return cell == text; });
        };
        if (column.shown == Shown::kKnown && all(kNone)) continue;
        if (column.shown == Shown::kDiffering && (cells.empty() || all(cells[0]))) continue;
        rows[0].emplace_back(column.head);
        for (std::size_t i = 0; i < cells.size(); ++i) rows[i + 1].push_back(std::move(cells[i]));
    }
    return rows;
}

TableRows task_rows(std::span<const Record> records) {
    TableRows rows = {{"model", "task", "samples", "figure", "value"}};
    for (const Record& record : records) {
        for (const TaskResult& task : record.tasks) {
            const bool has_columns =
                record.averages.empty() && record.text && record.text->sha256 == task.sha256;
            for (const Metric& metric : task.metrics) {
                if (has_columns && !metric.info.name.starts_with("ppl_from_")) continue;
                rows.push_back({title(record.model), task.name, std::to_string(task.samples),
                                metric.info.name, with_error(metric.value, 4)});
            }
        }
        for (const Metric& metric : record.averages) {
            rows.push_back({title(record.model), "mean of texts", "", metric.info.name,
                            with_error(metric.value, 4)});
        }
    }
    return rows;
}

std::vector<std::string> report_notes(std::span<const Record> records) {
    std::vector<std::string> out;
    add_notes(out, records, "text", describe_text);
    add_notes(out, records, "speed", describe_speed);
    add_notes(out, records, "machine", describe_machine);
    for (const Record& r : records) {
        if (!r.reference) continue;
        out.push_back("reference of " + title(r.model) + ": " + r.reference->file + " (sha256 " +
                      r.reference->sha256.substr(0, 12) + ")");
    }
    return out;
}

}  // namespace thimble::eval
