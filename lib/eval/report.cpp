// SPDX-License-Identifier: Apache-2.0
#include "eval/report.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::eval {
namespace {

constexpr const char* kNone = "-";

// Names in a record are a file's text: no control character of theirs reaches a terminal.
std::string shown(const std::string& line) { return escaped(line, 1024); }

std::string fixed(double value, int decimals) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
    return text.data();
}

std::string with_error(const Estimate& e, int decimals, double unit = 1) {
    return fixed(e.value * unit, decimals) + " ± " + fixed(e.standard_error * unit, decimals);
}

std::size_t characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

std::vector<std::string> cells(const Record& r) {
    const auto& p = r.perplexity;
    const auto& d = r.divergence;
    const auto& s = r.speed;
    return {r.model.file,
            r.model.format,
            format_bytes(r.model.file_bytes),
            fixed(r.model.bits_per_weight, 2),
            p ? with_error(p->perplexity, 3) : kNone,
            d ? with_error(d->kld, 5) : kNone,
            d ? with_error(d->same_top, 2, 100) : kNone,
            d ? with_error(d->rms_delta_p, 2, 100) : kNone,
            s ? fixed(s->decode_tokens_per_second, 1) : kNone,
            s ? fixed(s->prefill_tokens_per_second, 1) : kNone,
            format_bytes(r.peak.measured_bytes)};
}

// One line per different value of `describe`; several mean that their columns do not compare.
template <class Describe>
void append_notes(std::string& out, std::span<const Record> records, const char* what,
                  Describe&& describe) {
    std::vector<std::string> seen;
    for (const Record& record : records) {
        std::string line = describe(record);
        if (!line.empty() && std::find(seen.begin(), seen.end(), line) == seen.end())
            seen.push_back(std::move(line));
    }
    for (const std::string& line : seen) out += std::string(what) + ": " + shown(line) + "\n";
    if (seen.size() > 1) out += "note: results above differ in this and do not compare directly\n";
}

std::string describe_text(const Record& r) {
    if (!r.text) return {};
    return r.text->file + " (sha256 " + r.text->sha256.substr(0, 12) + "), " +
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

std::string text_table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths;
    for (const auto& row : rows) {
        widths.resize(std::max(widths.size(), row.size()));
        for (std::size_t c = 0; c < row.size(); ++c)
            widths[c] = std::max(widths[c], characters(row[c]));
    }
    std::string out;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t c = 0; c < row.size(); ++c) {
            const std::string pad(widths[c] - characters(row[c]), ' ');
            if (c > 0) line += "  ";
            line += c == 0 ? row[c] + pad : pad + row[c];
        }
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

namespace {

// Figures of tasks that have no column above: one line each.
std::string task_lines(std::span<const Record> records) {
    std::vector<std::vector<std::string>> rows = {{"model", "task", "samples", "figure", "value"}};
    for (const Record& record : records) {
        for (const TaskResult& task : record.tasks) {
            const bool has_columns =
                record.averages.empty() && record.text && record.text->sha256 == task.sha256;
            for (const Metric& metric : task.metrics) {
                if (has_columns && !metric.info.name.starts_with("ppl_from_")) continue;
                rows.push_back({shown(record.model.file), shown(task.name),
                                std::to_string(task.samples), shown(metric.info.name),
                                with_error(metric.value, 4)});
            }
        }
        for (const Metric& metric : record.averages) {
            rows.push_back({shown(record.model.file), "mean of texts", "", shown(metric.info.name),
                            with_error(metric.value, 4)});
        }
    }
    return rows.size() == 1 ? "" : "\n" + text_table(rows);
}

}  // namespace

std::string report_text(std::span<const Record> records) {
    std::vector<std::vector<std::string>> rows = {{"model", "format", "size", "bits/weight", "PPL",
                                                   "KLD", "same top-1 %", "RMS Δp %",
                                                   "decode tok/s", "prefill tok/s", "peak memory"}};
    for (const Record& record : records) {
        rows.push_back(cells(record));
        for (std::string& cell : rows.back()) cell = shown(cell);
    }
    std::string out = text_table(rows) + task_lines(records) + "\n";
    append_notes(out, records, "text", describe_text);
    append_notes(out, records, "speed", describe_speed);
    append_notes(out, records, "machine", describe_machine);
    for (const Record& r : records) {
        if (r.reference)
            out += shown("reference of " + r.model.file + ": " + r.reference->file + " (sha256 " +
                         r.reference->sha256.substr(0, 12) + ")") +
                   "\n";
    }
    return out;
}

Json report_json(std::span<const Record> records) {
    Json results = Json::array();
    for (const Record& record : records) results.push(to_json(record));
    Json out = Json::object();
    out.set("schema", "thimble.report.v1");
    out.set("results", std::move(results));
    return out;
}

}  // namespace thimble::eval
