// SPDX-License-Identifier: Apache-2.0
#include "recipe/runner.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <set>

#include "cli/console.h"
#include "cli/report.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "io/sha256.h"
#include "recipe/child.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

// Follows keys through objects; null when one is absent.
const Json* dig(const Json& json, std::initializer_list<const char*> keys) {
    const Json* at = &json;
    for (const char* key : keys) {
        at = at->find(key);
        if (at == nullptr) return nullptr;
    }
    return at;
}

std::string text_at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* found = dig(json, keys);
    if (found == nullptr) return {};
    return found->is_string() ? found->as_string("record") : found->dump();
}

// The first difference that explains why a key is new: "format: [q8_0] -> [q4_0]".
std::string difference(const Json& before, const Json& now) {
    if (text_at(before, {"executable"}) != text_at(now, {"executable"})) return "the tool changed";
    for (const char* group : {"options", "inputs"}) {
        const bool inputs = std::string_view(group) == "inputs";
        std::set<std::string> names;
        for (const Json* side : {&before, &now})
            if (const Json* map = side->find(group); map != nullptr && map->is_object())
                for (const auto& [name, value] : map->as_members("record")) names.insert(name);
        for (const std::string& name : names) {
            const std::string a = text_at(before, {group, name.c_str()});
            const std::string b = text_at(now, {group, name.c_str()});
            if (a == b) continue;
            if (inputs) return "input '" + name + "' changed";
            return name + ": " + (a.empty() ? "default" : a) + " -> " + (b.empty() ? "default" : b);
        }
    }
    for (const char* key : {"isa", "machine", "threads"})
        if (text_at(before, {key}) != text_at(now, {key})) return std::string(key) + " changed";
    return "changed";
}

std::string parent_of(const std::string& path) { return fs::path(path).parent_path().string(); }

void make_parent(const std::string& path) {
    const std::string parent = parent_of(path);
    std::error_code failed;
    if (!parent.empty()) fs::create_directories(parent, failed);
    if (failed) throw Error(Exit::kCannotCreate, parent, failed.message());
}

std::string seconds_text(double seconds) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f s", seconds);
    return text;
}

std::int64_t bytes_at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* found = dig(json, keys);
    return found != nullptr && found->is_int() ? found->as_int("bytes") : 0;
}

}  // namespace

Runner::Runner(Recipe recipe, Toolbox& toolbox, const RunnerOptions& options, const Host& host)
    : recipe_(std::move(recipe)),
      host_(host),
      workdir_(options.workdir),
      store_(options.workdir),
      remeasure_(options.remeasure) {
    const Surroundings surroundings{workdir_, "", host_.common};
    for (const Step& step : recipe_.steps)
        commands_.push_back(toolbox.command(recipe_, step, surroundings));
    std::map<std::string, std::string> makers;
    for (std::size_t i = 0; i < commands_.size(); ++i) {
        for (const StepCommand::Path& output : commands_[i].outputs) {
            const auto [first, fresh] = makers.emplace(output.path, recipe_.steps[i].id);
            if (!fresh)
                throw Error(
                    Exit::kUsage, recipe_.at(output.line),
                    "'" + output.path + "' is written by step '" + first->second + "', too");
        }
    }
    select(options);
}

void Runner::select(const RunnerOptions& options) {
    selected_.assign(recipe_.steps.size(), options.only.empty());
    forced_.assign(recipe_.steps.size(), false);
    for (const std::string& id : options.only)
        for (const std::size_t i : recipe_.find(id, "--only")) selected_[i] = true;
    if (options.from.empty()) return;
    for (const std::size_t i : recipe_.find(options.from, "--from")) forced_[i] = true;
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i)
        for (const std::size_t need : recipe_.steps[i].needs)
            if (forced_[need]) forced_[i] = true;
}

void Runner::check_inputs() const {
    std::set<std::string> made;
    for (const StepCommand& command : commands_)
        for (const StepCommand::Path& output : command.outputs) made.insert(output.path);
    for (const StepCommand& command : commands_) {
        for (const StepCommand::Path& input : command.inputs) {
            std::error_code failed;
            if (!made.contains(input.path) && !fs::exists(input.path, failed))
                throw Error(Exit::kNoInput, recipe_.at(input.line),
                            "'" + escaped(input.path) + "' does not exist and no step makes it");
        }
    }
}

Json Runner::key_parts(std::size_t i) {
    const Step& step = recipe_.steps[i];
    const StepCommand& command = commands_[i];
    Json parts = Json::object(), inputs = Json::object();
    for (const StepCommand::Path& input : command.inputs) {
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

std::string Runner::outputs_problem(std::size_t i, const Json& record) {
    const Json* hashes = record.find("outputs");
    for (const StepCommand::Path& output : commands_[i].outputs) {
        std::error_code failed;
        if (!fs::exists(output.path, failed)) return "'" + output.path + "' is missing";
        if (hashes == nullptr ||
            text_at(*hashes, {output.option.c_str()}) != store_.hash(output.path))
            return "'" + output.path + "' was changed";
    }
    std::error_code failed;
    if (recipe_.steps[i].show && !fs::exists(store_.stdout_path(text_at(record, {"key"})), failed))
        return "its captured output is missing";
    return {};
}

Verdict Runner::judge(std::size_t i) {
    const Step& step = recipe_.steps[i];
    Verdict verdict;
    for (const StepCommand::Path& input : commands_[i].inputs) {
        std::error_code failed;
        if (fs::exists(input.path, failed)) continue;
        verdict.reason = "waits for '" + input.path + "'";
        return verdict;
    }
    verdict.parts = key_parts(i);
    verdict.key = sha256_of(verdict.parts.dump());
    verdict.record = store_.record(verdict.key);
    if (!verdict.record) {
        const std::optional<Json> last = store_.last_record(step.id);
        const Json* before = last ? last->find("parts") : nullptr;
        verdict.reason = before == nullptr ? "never run" : difference(*before, verdict.parts);
    } else if (const std::string problem = outputs_problem(i, *verdict.record); !problem.empty()) {
        verdict.reason = problem;
    } else if (forced_[i]) {
        verdict.reason = "--from";
    } else if (step.measure == Measure::kAlways) {
        verdict.reason = "measure: always";
    } else if (step.measure == Measure::kOnce && remeasure_) {
        verdict.reason = "--remeasure";
    } else {
        verdict.up_to_date = true;
        verdict.reason = "tool, options and inputs as on " + text_at(*verdict.record, {"date"});
        if (step.measure == Measure::kOnce)
            verdict.reason += ", measured on " + text_at(*verdict.record, {"machine", "cpu"});
    }
    return verdict;
}

Json Runner::run() {
    check_inputs();
    store_.create();
    const DirectoryLock lock(
        store_.directory() + "/lock",
        [] { log_info("another run holds this work directory; waiting"); },
        [] { return cli::seen_signal() != 0; });
    Json steps = Json::array();
    std::size_t ran = 0, considered = 0;
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        if (!selected_[i]) continue;
        if (host_.pending_signal && host_.pending_signal() != 0) break;
        const Verdict verdict = judge(i);
        const Step& step = recipe_.steps[i];
        ++considered;
        Json entry = Json::object();
        entry.set("id", step.id);
        entry.set("uses", step.tool + (step.command.empty() ? "" : " " + step.command));
        entry.set("ran", !verdict.up_to_date);
        entry.set("reason", verdict.reason);
        if (verdict.key.empty())
            throw Error(Exit::kNoInput, recipe_.at(step.line),
                        "step '" + step.id + "' " + verdict.reason);
        if (verdict.up_to_date) {
            log_info(step.id + ": up to date (" + verdict.reason + ")");
            if (step.show) replay(verdict);
            entry.set("record", *verdict.record);
        } else {
            log_info(step.id + ": " + step.tool + " (" + verdict.reason + ")");
            entry.set("record", execute(i, verdict));
            ++ran;
        }
        steps.push(entry);
    }
    store_.save_hashes();
    if (ran == 0)
        log_info("nothing to do: all " + std::to_string(considered) + " steps are up to date");
    return steps;
}

Json Runner::execute(std::size_t i, const Verdict& verdict) {
    const Step& step = recipe_.steps[i];
    const StepCommand& command = commands_[i];
    for (const StepCommand::Path& output : command.outputs) make_parent(output.path);
    std::vector<std::string> argv = command.argv;
    const std::string report =
        command.own_report ? command.report : store_.report_path(verdict.key);
    if (!command.own_report) argv.insert(argv.end(), {"--json", report});
    if (!host_.common->verbose) argv.push_back("--quiet");
    if (host_.common->progress != "auto")
        argv.insert(argv.end(), {"--progress", host_.common->progress});

    AtomicFile captured(store_.stdout_path(verdict.key), 0, IfExists::kReplace);
    std::uint64_t written = 0;
    bool ended = true;  // the last line of stdout
    const auto take = [&](std::string_view text) {
        captured.write(written, std::as_bytes(std::span(text)));
        written += text.size();
        if (!text.empty()) ended = text.back() == '\n';
        if (step.show && host_.show) host_.show(text);
    };
    const auto start = std::chrono::steady_clock::now();
    const int code = run_child(argv, {.on_stdout = take, .pending_signal = host_.pending_signal});
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    if (!ended) take("\n");  // a generation may end anywhere; what follows begins a line
    if (code != 0) {
        store_.save_hashes();
        throw Error(static_cast<Exit>(code), recipe_.at(step.line),
                    "step '" + step.id + "' (" + step.tool + ") ended with exit code " +
                        std::to_string(code));
    }
    captured.commit();
    return finish(i, verdict, wall.count(), report);
}

Json Runner::finish(std::size_t i, const Verdict& verdict, double seconds,
                    const std::string& report_path) {
    const Step& step = recipe_.steps[i];
    Json outputs = Json::object();
    for (const StepCommand::Path& output : commands_[i].outputs) {
        std::error_code failed;
        if (!fs::exists(output.path, failed))
            throw Error(Exit::kFailure, recipe_.at(output.line),
                        "step '" + step.id + "' did not write '" + output.path + "'");
        outputs.set(output.option, store_.hash(output.path));
    }
    Json record = Json::object();
    record.set("schema", "thimble.record/1");
    record.set("id", step.id);
    record.set("key", verdict.key);
    record.set("parts", verdict.parts);
    record.set("outputs", outputs);
    record.set("date", cli::utc_now());
    record.set("machine", cli::machine_json());
    record.set("wall_seconds", seconds);
    std::string line = step.id + ": done in " + seconds_text(seconds);
    std::error_code failed;
    if (fs::exists(report_path, failed)) {
        const Json report = read_json_file(report_path);
        const std::int64_t peak = bytes_at(report, {"measured", "peak_rss_bytes"});
        const std::int64_t predicted = bytes_at(report, {"plan", "tiers", "ram", "peak_bytes"});
        record.set("peak_rss_bytes", peak);
        record.set("predicted_ram_bytes", predicted);
        line += ", peak " + format_bytes(static_cast<std::uint64_t>(peak));
        if (predicted > 0)
            line += " (predicted " + format_bytes(static_cast<std::uint64_t>(predicted)) + ")";
    }
    store_.put_record(step.id, verdict.key, record);
    store_.save_hashes();
    log_info(line);
    return record;
}

void Runner::replay(const Verdict& verdict) const {
    const std::string path = store_.stdout_path(verdict.key);
    std::error_code failed;
    if (!host_.show || !fs::exists(path, failed)) return;
    host_.show(read_text_file(path, std::uint64_t{256} << 20));
}

Json Runner::predict(std::size_t i) const {
    std::vector<std::string> argv = commands_[i].argv;
    argv.insert(argv.end(), {"--dry-run", "--quiet", "--json", "-"});
    std::string text;
    const int code = run_child(argv, {.on_stdout = [&](std::string_view part) { text += part; },
                                      .pending_signal = host_.pending_signal,
                                      .quiet_stderr = false});
    const int refused = static_cast<int>(Exit::kOverBudget);
    if (code != 0 && code != refused)
        throw Error(static_cast<Exit>(code), recipe_.at(recipe_.steps[i].line),
                    "step '" + recipe_.steps[i].id + "' refuses its options, see above");
    Json plan = parse_json(text, "--dry-run");
    Json result = Json::object();
    result.set("over_budget", code == refused);
    result.set("ram_peak_bytes", bytes_at(plan, {"plan", "tiers", "ram", "peak_bytes"}));
    result.set("output_bytes", bytes_at(plan, {"plan", "output_bytes"}));
    const Json* seconds = dig(plan, {"plan", "seconds"});
    result.set("seconds", seconds == nullptr ? Json() : *seconds);
    return result;
}

Json Runner::plan() {
    check_inputs();
    Json steps = Json::array();
    std::vector<bool> stale(recipe_.steps.size(), false);
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        if (!selected_[i]) continue;
        Verdict verdict = judge(i);
        for (const std::size_t need : recipe_.steps[i].needs) {
            if (!stale[need] || (!verdict.up_to_date && verdict.key.empty())) continue;
            verdict.up_to_date = false;
            verdict.reason = "'" + recipe_.steps[need].id + "' runs before it";
        }
        stale[i] = !verdict.up_to_date;
        Json entry = Json::object();
        entry.set("id", recipe_.steps[i].id);
        entry.set("runs", !verdict.up_to_date);
        entry.set("reason", verdict.reason);
        entry.set("command", shell_line(commands_[i].argv));
        if (!verdict.up_to_date && !verdict.key.empty()) entry.set("predicted", predict(i));
        steps.push(entry);
    }
    return steps;
}

std::string Runner::script() const {
    std::string out;
    std::set<std::string> made;
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        if (!selected_[i]) continue;
        out += "# " + recipe_.steps[i].id + "\n";
        for (const StepCommand::Path& output : commands_[i].outputs) {
            const std::string parent = parent_of(output.path);
            if (!parent.empty() && made.insert(parent).second)
                out += "mkdir -p " + shell_quoted(parent) + "\n";
        }
        out += shell_line(commands_[i].argv) + "\n";
    }
    return out;
}

}  // namespace thimble::recipe
