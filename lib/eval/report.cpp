// SPDX-License-Identifier: Apache-2.0
#include "eval/report.h"

#include <algorithm>

#include "core/error.h"
#include "eval/gate.h"
#include "eval/report_table.h"

namespace thimble::eval {
namespace {

// Names in a record are a file's text: no control character of theirs reaches a terminal.
std::string shown(const std::string& line) { return escaped(line, 1024); }

TableRows shown(TableRows rows) {
    for (auto& row : rows)
        for (std::string& cell : row) cell = shown(cell);
    return rows;
}

std::size_t characters(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

std::string markdown_table(const TableRows& rows) {
    std::string out;
    for (std::size_t r = 0; r < rows.size(); ++r) {
        out += "|";
        for (const std::string& cell : rows[r]) {
            out += " ";
            // What Markdown or the HTML it becomes would read as markup.
            for (const char c : shown(cell)) {
                if (std::string_view("\\`*_{}[]<>#|!&~").find(c) != std::string_view::npos)
                    out += '\\';
                out += c;
            }
            out += " |";
        }
        out += "\n";
        if (r > 0) continue;
        out += "|";
        for (std::size_t c = 0; c < rows[0].size(); ++c) out += c == 0 ? " --- |" : " ---: |";
        out += "\n";
    }
    return out;
}

// Spreadsheets run cells that begin like a formula: those get a quote in front.
std::string csv_cell(const std::string& cell) {
    std::string text = shown(cell);
    const bool formula =
        text.size() > 1 && std::string_view("=+-@").find(text[0]) != std::string_view::npos;
    if (formula) text.insert(0, 1, '\'');
    if (text.find_first_of(",\"") == std::string::npos) return text;
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"') out += '"';
        out += c;
    }
    return out + "\"";
}

std::string csv_table(const TableRows& rows) {
    std::string out;
    for (const auto& row : rows) {
        for (std::size_t c = 0; c < row.size(); ++c) out += (c == 0 ? "" : ",") + csv_cell(row[c]);
        out += "\n";
    }
    return out;
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

std::string report_text(std::span<const Record> records) {
    std::string out = text_table(shown(model_rows(records)));
    const TableRows tasks = task_rows(records);
    if (tasks.size() > 1) out += "\n" + text_table(shown(tasks));
    out += "\n";
    for (const std::string& note : report_notes(records)) out += shown(note) + "\n";
    return out;
}

std::string report_markdown(std::span<const Record> records) {
    std::string out = markdown_table(model_rows(records));
    const TableRows tasks = task_rows(records);
    if (tasks.size() > 1) out += "\n" + markdown_table(tasks);
    return out;
}

std::string report_csv(std::span<const Record> records) {
    TableRows rows = {{"model", "format", "sha256", "figure", "value", "standard_error"}};
    for (const Record& record : records) {
        for (const Figure& figure : figures_of(record)) {
            rows.push_back({title(record.model), record.model.format, record.model.sha256,
                            figure.name, Json(figure.value).dump(),
                            Json(figure.standard_error).dump()});
        }
    }
    return csv_table(rows);
}

std::string report_for(const std::string& path, std::span<const Record> records) {
    if (path.ends_with(".json")) return report_json(records).dump(2) + "\n";
    if (path.ends_with(".html")) return report_html(records);
    if (path.ends_with(".md")) return report_markdown(records);
    if (path.ends_with(".csv")) return report_csv(records);
    return report_text(records);
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
