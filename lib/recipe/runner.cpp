// SPDX-License-Identifier: Apache-2.0
#include "recipe/runner.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "cli/console.h"
#include "cli/report.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "io/atomic_file.h"
#include "io/file.h"
#include "recipe/child.h"
#include "recipe/dig.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
    std::error_code failed;
    return fs::exists(path, failed);
}

void make_parent(const std::string& path) {
    const std::string parent = fs::path(path).parent_path().string();
    std::error_code failed;
    if (!parent.empty()) fs::create_directories(parent, failed);
    if (failed) throw Error(Exit::kCannotCreate, parent, failed.message());
}

std::string seconds_text(double seconds) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f s", seconds);
    return text;
}

}  // namespace

Runner::Runner(Recipe recipe, Toolbox& toolbox, const RunnerOptions& options, const Host& host)
    : recipe_(std::move(recipe)), host_(host), options_(options), store_(options.workdir) {
    const Surroundings surroundings{options_.workdir, "", host_.common};
    for (const Step& step : recipe_.steps)
        commands_.push_back(toolbox.command(recipe_, step, surroundings));
    note_outputs();
    select(options);
}

void Runner::note_outputs() {
    std::map<std::string, std::string> makers;
    for (std::size_t i = 0; i < commands_.size(); ++i) {
        const StepCommand& command = commands_[i];
        varies_.push_back(recipe_.steps[i].measure != Measure::kNone ||
                          std::any_of(command.inputs.begin(), command.inputs.end(),
                                      [&](const auto& p) { return varying_.contains(p.path); }));
        for (const StepCommand::Path& output : command.outputs) {
            const auto [first, fresh] = makers.emplace(output.path, recipe_.steps[i].id);
            if (!fresh)
                throw Error(
                    Exit::kUsage, output.where,
                    "'" + output.path + "' is written by step '" + first->second + "', too");
            made_.insert(output.path);
            if (varies_[i]) varying_.insert(output.path);
        }
    }
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
    for (const StepCommand& command : commands_)
        for (const StepCommand::Path& input : command.inputs)
            if (!made_.contains(input.path) && !exists(input.path))
                throw Error(Exit::kNoInput, input.where,
                            "'" + escaped(input.path) + "' does not exist and no step makes it");
}

std::string Runner::shown(const std::string& path) const {
    const fs::path inside = fs::path(path).lexically_relative(options_.workdir);
    const bool below = !inside.empty() && *inside.begin() != "..";
    return below ? inside.string() : path;
}

std::string Runner::lock_path() const {
    if (!options_.lock.empty()) return options_.lock;
    return (fs::path(options_.workdir) / "recipe.lock.json").string();
}

void Runner::open_lock_file() {
    if (!options_.locked && !exists(lock_path())) return;
    lock_ = LockFile::read(lock_path());
    if (!options_.locked) return;
    lock_.check_steps(recipe_);
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i)
        lock_.check(recipe_.steps[i], key_parts(i, made_), commands_[i].version, false);
}

void Runner::run(Json& steps) {
    steps = Json::array();
    check_inputs();
    const DirectoryLock lock(
        store_.directory() + "/lock",
        [] { log_info("another run holds this work directory; waiting"); },
        [] { return cli::seen_signal() != 0; });
    store_.create();
    open_lock_file();
    std::size_t ran = 0, considered = 0;
    std::vector<bool> failed(recipe_.steps.size(), false);
    std::optional<Error> first;
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        if (!selected_[i]) continue;
        if (host_.pending_signal && host_.pending_signal() != 0) break;
        const Step& step = recipe_.steps[i];
        failed[i] = std::any_of(step.needs.begin(), step.needs.end(),
                                [&](std::size_t need) { return failed[need]; });
        if (failed[i]) continue;
        ++considered;
        Json entry = Json::object();
        entry.set("id", step.id);
        entry.set("uses", step.tool + (step.command.empty() ? "" : " " + step.command));
        try {
            ran += carry_out(i, entry) ? 1 : 0;
        } catch (const Error& error) {
            entry.set("error", error.what());
            failed[i] = true;
            if (options_.keep_going) log_warning(error.what());
            if (!first) first = error;
        }
        steps.push(entry);
        if (first && !options_.keep_going) break;
    }
    store_.save_hashes();
    if (!options_.locked) lock_.write(lock_path(), recipe_);
    if (first) throw Error(*first);
    if (ran == 0)
        log_info("nothing to do: all " + std::to_string(considered) + " steps are up to date");
}

bool Runner::carry_out(std::size_t i, Json& entry) {
    const Step& step = recipe_.steps[i];
    const Verdict verdict = judge(i);
    entry.set("ran", !verdict.up_to_date);
    entry.set("reason", verdict.reason);
    if (verdict.key.empty())
        throw Error(Exit::kNoInput, recipe_.at(step.line),
                    "step '" + step.id + "' " + verdict.reason);
    const Json fixed = key_parts(i, varying_);
    if (options_.locked) lock_.check(step, fixed, commands_[i].version, true);
    Json record;
    if (verdict.up_to_date) {
        log_info(step.id + ": up to date (" + verdict.reason + ")");
        if (step.show) replay(verdict);
        record = *verdict.record;
    } else {
        log_info(step.id + ": " + step.tool + " (" + verdict.reason + ")");
        record = execute(i, verdict);
    }
    entry.set("record", record);
    const Json none = Json::object(), *made = varies_[i] ? &none : record.find("outputs");
    if (options_.locked) lock_.check_outputs(step, *made);
    lock_.put(step, fixed, *made, commands_[i].version);
    pass_gates(i, verdict.key, entry);
    return !verdict.up_to_date;
}

void Runner::pass_gates(std::size_t i, const std::string& key, Json& entry) const {
    const Step& step = recipe_.steps[i];
    if (step.gates.empty()) return;
    const Json results = check_gates(i, key);
    entry.set("gates", results);
    std::string failed;
    for (const Json& result : results.as_array("gates")) {
        const std::string line = text_at(result, {"line"});
        if (result.find("holds")->as_bool("holds")) {
            log_info(step.id + ": gate " + line);
        } else {
            failed += (failed.empty() ? "" : "; ") + line;
        }
    }
    if (!failed.empty())
        throw Error(Exit::kGateFailed, step.gates.front().where(),
                    "step '" + step.id + "': gate " + failed);
}

bool Runner::replaces_own_files(std::size_t i) {
    if (!commands_[i].can_replace) return false;
    std::map<std::string, MadeFile> made;
    for (const StepCommand::Path& output : commands_[i].outputs) {
        if (!exists(output.path)) continue;
        if (made.empty()) made = store_.made();
        const auto known = made.find(shown(output.path));
        if (known == made.end()) return false;
        const std::vector<std::string>& hashes = known->second.hashes;
        if (!known->second.unfinished &&
            std::find(hashes.begin(), hashes.end(), store_.hash(output.path)) == hashes.end())
            return false;
    }
    return true;
}

Json Runner::execute(std::size_t i, const Verdict& verdict) {
    const Step& step = recipe_.steps[i];
    const StepCommand& command = commands_[i];
    std::vector<std::string> argv = command.argv;
    if (replaces_own_files(i)) argv.push_back("--overwrite");
    std::vector<std::string> outputs;
    for (const StepCommand::Path& output : command.outputs) {
        make_parent(output.path);
        if (!exists(output.path) || argv.size() > command.argv.size())
            outputs.push_back(shown(output.path));
    }
    store_.begin(step.id, outputs);
    const std::string report =
        command.report.empty() ? store_.report_path(verdict.key) : command.report;
    if (command.report.empty()) argv.insert(argv.end(), {"--json", report});
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
        const bool again = code == static_cast<int>(Exit::kAgain);
        if (!again && code < 128) store_.end(step.id);  // it has tidied up after itself
        throw Error(static_cast<Exit>(code), recipe_.at(step.line),
                    "step '" + step.id + "' (" + step.tool + ") ended with exit code " +
                        std::to_string(code),
                    again ? "run again to go on" : "");
    }
    captured.commit();
    return finish(i, verdict, wall.count(), report);
}

Json Runner::finish(std::size_t i, const Verdict& verdict, double seconds,
                    const std::string& report_path) {
    const Step& step = recipe_.steps[i];
    Json outputs = Json::object();
    for (const StepCommand::Path& output : commands_[i].outputs) {
        if (!exists(output.path))
            throw Error(Exit::kFailure, output.where,
                        "step '" + step.id + "' did not write '" + output.path + "'");
        outputs.set(shown(output.path), store_.hash(output.path));
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
    if (exists(report_path)) {
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
    store_.end(step.id);
    store_.save_hashes();
    log_info(line);
    return record;
}

void Runner::replay(const Verdict& verdict) const {
    const std::string path = store_.stdout_path(verdict.key);
    if (!host_.show || !exists(path)) return;
    host_.show(read_text_file(path, std::uint64_t{256} << 20));
}

}  // namespace thimble::recipe
