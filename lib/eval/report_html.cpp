// SPDX-License-Identifier: Apache-2.0
// A report as one HTML page that needs nothing else: no script, no other file, plots as inline SVG.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>

#include "core/error.h"
#include "core/strings.h"
#include "eval/report.h"
#include "eval/report_table.h"

namespace thimble::eval {
namespace {

constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Evaluation report</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 34rem; margin: .5rem 1rem .5rem 0; }
svg text { font: 12px system-ui, sans-serif; fill: #333; }
.notes { color: #555; }
</style>
</head>
<body>
<h1>Evaluation report</h1>
)";

std::string html(const std::string& text) {
    std::string out;
    for (const char c : escaped(text, 1024)) {
        switch (c) {
            case '&':
                out += "&amp;";
                break;
            case '<':
                out += "&lt;";
                break;
            case '>':
                out += "&gt;";
                break;
            case '"':
                out += "&quot;";
                break;
            case '\'':
                out += "&#39;";
                break;
            default:
                out += c;
        }
    }
    return out;
}

std::string number(double value) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), "%.4g", value);
    return text.data();
}

std::string table(const TableRows& rows) {
    std::string out = "<table>\n";
    for (std::size_t r = 0; r < rows.size(); ++r) {
        const std::string tag = r == 0 ? "th" : "td";
        out += "<tr>";
        for (const std::string& cell : rows[r]) {
            out += "<" + tag + ">";
            out += html(cell);
            out += "</" + tag + ">";
        }
        out += "</tr>\n";
    }
    return out + "</table>\n";
}

std::string label_of(const Record& record) {
    return title(record.model) + " (" + record.model.format + ")";
}

struct Point {
    double x = 0, y = 0, error = 0;
    std::string label;
};

// Points with their labels; both axes start at 0 where that costs little, else below the least.
std::string scatter(const std::string& title, const std::string& x_name, const std::string& y_name,
                    std::vector<Point> points) {
    std::erase_if(points, [](const Point& p) { return !std::isfinite(p.x + p.y + p.error); });
    if (points.empty()) return {};
    constexpr double kWidth = 520, kHeight = 300, kLeft = 70, kBottom = 45, kTop = 30, kRight = 20;
    double x_most = 0, y_most = 0;
    for (const Point& p : points) {
        x_most = std::max(x_most, p.x);
        y_most = std::max(y_most, p.y + p.error);
    }
    x_most = x_most > 0 ? 1.1 * x_most : 1;
    y_most = y_most > 0 ? 1.1 * y_most : 1;
    const auto x_at = [&](double x) { return kLeft + x / x_most * (kWidth - kLeft - kRight); };
    const auto y_at = [&](double y) {
        return kHeight - kBottom - std::max(y, 0.0) / y_most * (kHeight - kBottom - kTop);
    };
    std::string out = "<svg viewBox=\"0 0 520 300\" role=\"img\"><title>" + html(title) +
                      "</title>\n<text x=\"70\" y=\"18\">" + html(title) + "</text>\n";
    const auto line = [&](double x1, double y1, double x2, double y2, const char* colour) {
        out += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) +
               "\" y2=\"" + number(y2) + "\" stroke=\"" + colour + "\"/>\n";
    };
    const auto text = [&](double x, double y, const std::string& anchor, const std::string& what) {
        out += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" text-anchor=\"" + anchor +
               "\">" + html(what) + "</text>\n";
    };
    for (int tick = 0; tick <= 4; ++tick) {
        const double x = x_most * tick / 4, y = y_most * tick / 4;
        line(kLeft, y_at(y), kWidth - kRight, y_at(y), "#eee");
        text(kLeft - 6, y_at(y) + 4, "end", number(y));
        text(x_at(x), kHeight - kBottom + 16, "middle", number(x));
    }
    line(kLeft, y_at(0), kWidth - kRight, y_at(0), "#888");
    line(kLeft, kTop, kLeft, y_at(0), "#888");
    text((kLeft + kWidth - kRight) / 2, kHeight - 8, "middle", x_name);
    text(kLeft - 60, kTop - 4, "start", y_name);
    for (const Point& p : points) {
        line(x_at(p.x), y_at(p.y - p.error), x_at(p.x), y_at(p.y + p.error), "#36c");
        out += "<circle cx=\"" + number(x_at(p.x)) + "\" cy=\"" + number(y_at(p.y)) +
               "\" r=\"4\" fill=\"#36c\"><title>" + html(p.label) + "</title></circle>\n";
        const bool right = x_at(p.x) > kWidth * 0.6;
        text(x_at(p.x) + (right ? -8 : 8), y_at(p.y) - 6, right ? "end" : "start", p.label);
    }
    return out + "</svg>\n";
}

struct Bar {
    std::string label;
    double first = 0, second = 0;
};

// Two bars a row.
std::string bars(const std::string& title, const std::string& first, const std::string& second,
                 std::vector<Bar> rows) {
    std::erase_if(rows, [](const Bar& b) { return !std::isfinite(b.first + b.second); });
    double most = 0;
    for (const Bar& row : rows) most = std::max({most, row.first, row.second});
    if (rows.empty() || most <= 0) return {};
    const double height = 50 + 50 * static_cast<double>(rows.size());
    std::string out = "<svg viewBox=\"0 0 520 " + number(height) + "\" role=\"img\"><title>" +
                      html(title) + "</title>\n<text x=\"10\" y=\"18\">" + html(title) +
                      "</text>\n<text x=\"10\" y=\"36\"><tspan fill=\"#36c\">&#9632; </tspan>" +
                      html(first) + " <tspan fill=\"#c63\">&#9632; </tspan>" + html(second) +
                      "</text>\n";
    double y = 52;
    const auto bar = [&](double value, const char* colour) {
        const double width = 400 * std::max(value, 0.0) / most;
        out += "<rect x=\"10\" y=\"" + number(y) + "\" width=\"" + number(width) +
               "\" height=\"12\" fill=\"" + colour + "\"/>\n<text x=\"" + number(width + 14) +
               "\" y=\"" + number(y + 11) + "\">" + number(value) + "</text>\n";
        y += 13;
    };
    for (const Bar& row : rows) {
        out += "<text x=\"10\" y=\"" + number(y + 9) + "\">" + html(row.label) + "</text>\n";
        y += 13;
        bar(row.first, "#36c");
        bar(row.second, "#c63");
        y += 10;
    }
    return out + "</svg>\n";
}

constexpr double kMiB = 1 << 20;

std::string quality_plots(std::span<const Record> records) {
    std::vector<Point> perplexity, divergence;
    for (const Record& r : records) {
        const double size = static_cast<double>(r.model.file_bytes) / kMiB;
        if (r.perplexity) {
            const Estimate& e = r.perplexity->perplexity;
            perplexity.push_back({size, e.value, e.standard_error, label_of(r)});
        }
        if (r.divergence) {
            const Estimate& e = r.divergence->kld;
            divergence.push_back({size, e.value, e.standard_error, label_of(r)});
        }
    }
    return scatter("Perplexity against size", "size, MiB", "PPL", std::move(perplexity)) +
           scatter("KL divergence against size", "size, MiB", "KLD", std::move(divergence));
}

std::string cost_plots(std::span<const Record> records) {
    std::vector<Bar> speed, memory;
    for (const Record& r : records) {
        if (r.speed) {
            speed.push_back({label_of(r), r.speed->prefill_tokens_per_second,
                             r.speed->decode_tokens_per_second});
        }
        memory.push_back({label_of(r), static_cast<double>(r.peak.predicted_bytes) / kMiB,
                          static_cast<double>(r.peak.measured_bytes) / kMiB});
    }
    return bars("Speed, tokens per second", "prefill", "decode", std::move(speed)) +
           bars("Peak memory, MiB", "predicted", "measured", std::move(memory));
}

}  // namespace

std::string report_html(std::span<const Record> records) {
    std::string out =
        kHead + table(model_rows(records)) + quality_plots(records) + cost_plots(records);
    const TableRows tasks = task_rows(records);
    if (tasks.size() > 1) out += "<h2>Tasks</h2>\n" + table(tasks);
    out += "<div class=\"notes\">\n";
    for (const std::string& note : report_notes(records)) out += "<p>" + html(note) + "</p>\n";
    return out + "</div>\n</body>\n</html>\n";
}

}  // namespace thimble::eval
