// SPDX-License-Identifier: Apache-2.0
// Whether a step must run and why: its cache key, its last record, its outputs, its gates.
#include <filesystem>
#include <set>

#include "core/cpu.h"
#include "core/error.h"
#include "io/sha256.h"
#include "recipe/dig.h"
#include "recipe/runner.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
    std::error_code failed;
    return fs::exists(path, failed);
}

}  // namespace

std::string Change::text() const {
    if (group == "executable") return "the tool changed";
    if (group == "inputs") return "input '" + name + "' changed";
    if (group != "options") return name + " changed";
    return name + ": " + (before.empty() ? "default" : before) + " -> " +
           (now.empty() ? "default" : now);
}

std::vector<Change> changes(const Json& before, const Json& now) {
    std::vector<Change> found;
    const auto compare = [&](const std::string& group, const std::string& name, std::string a,
                             std::string b) {
        if (a != b) found.push_back({group, name, std::move(a), std::move(b)});
    };
    compare("executable", "executable", text_at(before, {"executable"}),
            text_at(now, {"executable"}));
    for (const char* group : {"options", "inputs"}) {
        std::set<std::string> names;
        for (const Json* side : {&before, &now})
            if (const Json* map = side->find(group); map != nullptr && map->is_object())
                for (const auto& [name, value] : map->as_members("record")) names.insert(name);
        for (const std::string& name : names)
            compare(group, name, text_at(before, {group, name.c_str()}),
                    text_at(now, {group, name.c_str()}));
    }
    for (const char* key : {"tool", "command", "isa", "machine", "threads"})
        compare("", key, text_at(before, {key}), text_at(now, {key}));
    return found;
}

Json Runner::key_parts(std::size_t i, const std::set<std::string>& left_out) {
    const Step& step = recipe_.steps[i];
    const StepCommand& command = commands_[i];
    Json parts = Json::object(), inputs = Json::object();
    for (const StepCommand::Path& input : command.inputs) {
        if (left_out.contains(input.path)) continue;
        Json list = Json::array();
        if (const Json* before = inputs.find(input.option)) list = *before;
        list.push(store_.hash(input.path));
        inputs.set(input.option, list);
    }
    parts.set("schema", "thimble.step/1");
    parts.set("tool", step.tool);
    parts.set("command", step.command);
    parts.set("executable", store_.hash(command.executable));
    parts.set("options", command.key_options);
    parts.set("inputs", inputs);
    parts.set("isa", host_.isa);
    if (step.measure != Measure::kNone) {
        parts.set("machine", cpu_model_name());
        parts.set("threads", host_.threads);
    }
    return parts;
}

std::string Runner::figures_path(std::size_t i, const std::string& key) const {
    return commands_[i].figures.empty() ? store_.report_path(key) : commands_[i].figures;
}

std::string Runner::outputs_problem(std::size_t i, const Json& record) {
    const Json* hashes = record.find("outputs");
    for (const StepCommand::Path& output : commands_[i].outputs) {
        if (!exists(output.path)) return "'" + output.path + "' is missing";
        if (hashes == nullptr ||
            text_at(*hashes, {shown(output.path).c_str()}) != store_.hash(output.path))
            return "'" + output.path + "' was changed";
    }
    const std::string key = text_at(record, {"key"});
    if (recipe_.steps[i].show && !exists(store_.stdout_path(key)))
        return "its captured output is missing";
    if (!recipe_.steps[i].gates.empty() && !exists(figures_path(i, key)))
        return "its report is missing";
    return {};
}

Verdict Runner::judge(std::size_t i) {
    const Step& step = recipe_.steps[i];
    Verdict verdict;
    for (const StepCommand::Path& input : commands_[i].inputs) {
        if (exists(input.path)) continue;
        verdict.reason = "waits for '" + input.path + "'";
        return verdict;
    }
    verdict.parts = key_parts(i, {});
    verdict.key = sha256_of(verdict.parts.dump());
    verdict.record = store_.record(verdict.key);
    if (!verdict.record) {
        const std::optional<Json> last = store_.last_record(step.id);
        const Json* before = last ? last->find("parts") : nullptr;
        if (before != nullptr) verdict.changes = changes(*before, verdict.parts);
        verdict.reason = before == nullptr         ? "never run"
                         : verdict.changes.empty() ? "changed"
                                                   : verdict.changes.front().text();
    } else if (const std::string problem = outputs_problem(i, *verdict.record); !problem.empty()) {
        verdict.reason = problem;
    } else if (forced_[i]) {
        verdict.reason = "--from";
    } else if (step.measure == Measure::kAlways) {
        verdict.reason = "measure: always";
    } else if (step.measure == Measure::kOnce && options_.remeasure) {
        verdict.reason = "--remeasure";
    } else {
        verdict.up_to_date = true;
        verdict.reason = "tool, options and inputs as on " + text_at(*verdict.record, {"date"});
        if (step.measure == Measure::kOnce)
            verdict.reason += ", measured on " + text_at(*verdict.record, {"machine", "cpu"});
    }
    return verdict;
}

Json Runner::check_gates(std::size_t i, const std::string& key) const {
    Json results = Json::array();
    if (recipe_.steps[i].gates.empty()) return results;
    const Json figures = read_json_file(figures_path(i, key));
    for (const Gate& gate : recipe_.steps[i].gates)
        results.push(gate_json(gate, check_gate(gate, figures)));
    return results;
}

}  // namespace thimble::recipe
