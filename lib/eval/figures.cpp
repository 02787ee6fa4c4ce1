// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/strings.h"
#include "eval/gate.h"

namespace thimble::eval {
namespace {

class Figures {
  public:
    std::vector<Figure> all;

    // The first of a name stays.
    void add(const std::string& name, const Estimate& value) {
        const bool taken =
            std::any_of(all.begin(), all.end(), [&](const Figure& f) { return f.name == name; });
        if (!taken) all.push_back({name, value.value, value.standard_error});
    }
    void add(const std::string& name, double value) { add(name, Estimate{value, 0}); }
};

void add_tasks(Figures& out, const Record& record) {
    std::map<std::string, int> holders;
    for (const TaskResult& task : record.tasks)
        for (const Metric& metric : task.metrics) ++holders[metric.info.name];
    for (const Metric& metric : record.averages) out.add(metric.info.name, metric.value);
    for (const TaskResult& task : record.tasks) {
        for (const Metric& metric : task.metrics)
            if (holders[metric.info.name] == 1) out.add(metric.info.name, metric.value);
    }
    for (const TaskResult& task : record.tasks)
        for (const Metric& metric : task.metrics)
            out.add(task.name + "." + metric.info.name, metric.value);
}

}  // namespace

std::vector<Figure> figures_of(const Record& record) {
    Figures out;
    add_tasks(out, record);
    if (record.speed) {
        out.add("speed.prefill_tokens_per_second", record.speed->prefill_tokens_per_second);
        out.add("speed.decode_tokens_per_second", record.speed->decode_tokens_per_second);
        out.add("speed.decode_bytes_per_second", record.speed->bytes_per_second());
    }
    if (record.encoding) {
        out.add("encoding.seconds", record.encoding->seconds);
        out.add("encoding.relative_rmse", record.encoding->relative_rmse);
    }
    out.add("peak_memory.predicted_bytes", static_cast<double>(record.peak.predicted_bytes));
    out.add("peak_memory.measured_bytes", static_cast<double>(record.peak.measured_bytes));
    out.add("model.file_bytes", static_cast<double>(record.model.file_bytes));
    out.add("model.bits_per_weight", record.model.bits_per_weight);
    out.add("seconds", record.seconds);
    return std::move(out.all);
}

std::vector<Figure> figures_of(const Record& record, const Record* baseline) {
    std::vector<Figure> out = figures_of(record);
    if (baseline == nullptr) return out;
    for (Figure& figure : figures_of(*baseline)) {
        figure.name = "baseline." + figure.name;
        out.push_back(std::move(figure));
    }
    return out;
}

GateResult check_gate(const Gate& gate, const std::vector<Figure>& figures) {
    return gate.evaluate([&](const std::string& name) {
        std::vector<std::string> known;
        std::string list;
        for (const Figure& figure : figures) {
            if (figure.name == name) return figure.value;
            known.push_back(figure.name);
            list += (list.empty() ? "" : ", ") + figure.name;
        }
        const std::string hint = did_you_mean(name, known);
        throw Error(Exit::kUsage, gate.where(),
                    "gate '" + escaped(gate.text()) + "': there is no figure '" + escaped(name) +
                        "'" + (name.starts_with("baseline.") ? " (or no --baseline)" : ""),
                    (hint.empty() ? "" : hint + " ") + "figures: " + list);
    });
}

}  // namespace thimble::eval
