// SPDX-License-Identifier: Apache-2.0
#include "eval/report_table.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/strings.h"

namespace thimble::eval {
namespace {

constexpr const char* kNone = "-";

std::string fixed(double value, int decimals) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
    return text.data();
}

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

std::vector<std::string> cells(const Record& r) {
    const auto& s = r.speed;
    const auto of_text = [&](std::string_view name, auto part, int decimals, double unit = 1) {
        std::optional<Estimate> first;
        if (const auto& d = r.divergence) first = part(*d);
        const auto figure = text_figure(r, name, first);
        return figure ? with_error(*figure, decimals, unit) : kNone;
    };
    using Divergence = DivergenceFigures;
    const auto perplexity = text_figure(
        r, "ppl", r.perplexity ? std::optional(r.perplexity->perplexity) : std::nullopt);
    return {title(r.model),
            r.model.format,
            format_bytes(r.model.file_bytes),
            fixed(r.model.bits_per_weight, 2),
            perplexity ? with_error(*perplexity, 3) : kNone,
            of_text(
                "kld_mean", [](const Divergence& d) { return d.kld; }, 5),
            of_text(
                "same_top", [](const Divergence& d) { return d.same_top; }, 2, 100),
            of_text(
                "rms_delta_p", [](const Divergence& d) { return d.rms_delta_p; }, 2, 100),
            s ? fixed(s->decode_tokens_per_second, 1) : kNone,
            s ? fixed(s->prefill_tokens_per_second, 1) : kNone,
            format_bytes(r.peak.measured_bytes)};
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
    return "prompt of " + std::to_string(r.speed->prompt_tokens) + ", then " +
           std::to_string(r.speed->decode_tokens) + " single tokens, median of " +
           std::to_string(r.speed->repeats);
}

}  // namespace

TableRows model_rows(std::span<const Record> records) {
    TableRows rows = {{"model", "format", "size", "bits/weight", "PPL", "KLD", "same top-1 %",
                       "RMS Δp %", "decode tok/s", "prefill tok/s", "peak memory"}};
    for (const Record& record : records) rows.push_back(cells(record));
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
