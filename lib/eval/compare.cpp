// SPDX-License-Identifier: Apache-2.0
#include "eval/compare.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/error.h"
#include "eval/gate.h"
#include "eval/report.h"

namespace thimble::eval {
namespace {

std::string shown(const std::string& line) { return escaped(line, 1024); }

std::string number(double value, const char* format = "%.6g") {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

std::string why_not(const TaskResult& a, const TaskResult& b) {
    if (a.kind != b.kind) return "kinds differ";
    if (a.sha256 != b.sha256) return "the samples' files differ";
    if (a.options != b.options || a.filter != b.filter) return "options differ";
    if (a.shots != b.shots) return "numbers of examples differ";
    if (a.samples != b.samples) return "numbers of samples differ";
    return {};
}

void compare_tasks(Comparison& out, const TaskResult& a, const TaskResult& b) {
    for (const Column& mine : a.columns) {
        const auto theirs = std::find_if(b.columns.begin(), b.columns.end(),
                                         [&](const Column& c) { return c.name == mine.name; });
        if (theirs == b.columns.end() || theirs->values.size() != mine.values.size()) continue;
        out.figures.push_back({a.name, mine.name, paired_test(mine.values, theirs->values)});
    }
}

}  // namespace

Comparison compare(const Record& a, const Record& b, const std::string& file_a,
                   const std::string& file_b) {
    Comparison out;
    if (a.settings.context_tokens != b.settings.context_tokens)
        out.notes.push_back("--ctx-size differs: texts do not compare");
    for (const TaskResult& mine : a.tasks) {
        const auto theirs = std::find_if(b.tasks.begin(), b.tasks.end(),
                                         [&](const TaskResult& t) { return t.name == mine.name; });
        if (theirs == b.tasks.end()) {
            out.notes.push_back(mine.name + ": only in the first result");
            continue;
        }
        std::string reason = why_not(mine, *theirs);
        if (reason.empty() && mine.kind == "perplexity" &&
            a.settings.context_tokens != b.settings.context_tokens)
            reason = "windows differ";
        if (!reason.empty()) {
            out.notes.push_back(mine.name + ": " + reason);
            continue;
        }
        compare_tasks(out, mine, *theirs);
    }
    if (!out.figures.empty()) return out;
    throw Error(Exit::kUsage, escaped(file_a, 1024) + " and " + escaped(file_b, 1024),
                "have no task on the same samples" +
                    (out.notes.empty() ? "" : ": " + escaped(out.notes.front())),
                "evaluate both with the same tasks and options");
}

std::string comparison_text(const Comparison& comparison, const Record& a, const Record& b) {
    std::vector<std::vector<std::string>> rows = {
        {"task", "figure", "samples", "A", "B", "A - B", "t", "p", "only A", "only B"}};
    for (const ComparedFigure& figure : comparison.figures) {
        const PairedTest& t = figure.test;
        rows.push_back({shown(figure.task), shown(figure.figure), std::to_string(t.count),
                        number(t.a.value), number(t.b.value),
                        number(t.difference.value, "%+.6g") + " ± " +
                            number(t.difference.standard_error, "%.3g"),
                        number(t.t, "%.3f"), number(t.p, "%.3g"),
                        t.binary ? std::to_string(t.only_a) : "-",
                        t.binary ? std::to_string(t.only_b) : "-"});
    }
    std::string out = "A: " + shown(title(a.model)) + " (" + shown(a.model.format) + ")\n" +
                      "B: " + shown(title(b.model)) + " (" + shown(b.model.format) + ")\n\n" +
                      text_table(rows) +
                      "\np: two-sided paired t test; of right and wrong answers McNemar's exact "
                      "test\n";
    for (const std::string& note : comparison.notes) out += "note: " + shown(note) + "\n";
    return out;
}

Json comparison_json(const Comparison& comparison) {
    Json figures = Json::array();
    for (const ComparedFigure& figure : comparison.figures) {
        const PairedTest& t = figure.test;
        Json one = Json::object();
        one.set("task", figure.task);
        one.set("figure", figure.figure);
        one.set("samples", t.count);
        one.set("a", t.a.value);
        one.set("b", t.b.value);
        one.set("difference", t.difference.value);
        one.set("standard_error", t.difference.standard_error);
        one.set("t", t.t);
        one.set("p", t.p);
        one.set("test", t.binary ? "mcnemar_exact" : "paired_t");
        if (t.binary) {
            one.set("only_a", t.only_a);
            one.set("only_b", t.only_b);
        }
        figures.push(std::move(one));
    }
    Json notes = Json::array();
    for (const std::string& note : comparison.notes) notes.push(note);
    Json out = Json::object();
    out.set("schema", "thimble.comparison.v1");
    out.set("figures", std::move(figures));
    out.set("notes", std::move(notes));
    return out;
}

std::string beside_text(const Record& record, const Record& baseline) {
    std::vector<std::vector<std::string>> rows = {
        {"figure", "value", "baseline", "difference", "ratio"}};
    const std::vector<Figure> theirs = figures_of(baseline);
    for (const Figure& mine : figures_of(record)) {
        const auto at = std::find_if(theirs.begin(), theirs.end(),
                                     [&](const Figure& f) { return f.name == mine.name; });
        if (at == theirs.end()) continue;
        rows.push_back({shown(mine.name), number(mine.value), number(at->value),
                        number(mine.value - at->value, "%+.4g"),
                        at->value == 0 ? "-" : number(mine.value / at->value, "%.4f")});
    }
    return text_table(rows);
}

}  // namespace thimble::eval
