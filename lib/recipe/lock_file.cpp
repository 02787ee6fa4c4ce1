// SPDX-License-Identifier: Apache-2.0
#include "recipe/lock_file.h"

#include "core/error.h"
#include "core/strings.h"
#include "io/atomic_file.h"
#include "recipe/dig.h"
#include "recipe/runner.h"

namespace thimble::recipe {
namespace {

constexpr const char* kSchema = "thimble.lock/1";

// The parts of a cache key that hold on another machine, too.
Json portable(const Json& parts) {
    Json kept = Json::object();
    for (const char* key : {"tool", "command", "options", "inputs", "isa"})
        if (const Json* value = parts.find(key)) kept.set(key, *value);
    return kept;
}

std::string cut(const std::string& text) {
    return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

}  // namespace

LockFile LockFile::read(const std::string& path) {
    const Json json = read_json_file(path);
    const Json* schema = json.find("schema");
    const Json* steps = json.find("steps");
    if (schema == nullptr || !schema->is_string() || schema->as_string(path) != kSchema ||
        steps == nullptr || !steps->is_object())
        throw Error(Exit::kBadData, path, std::string("is not a lock file (") + kSchema + ")",
                    "recipe run without --locked writes one");
    LockFile lock;
    lock.path_ = path;
    for (const auto& [id, entry] : steps->as_members(path)) lock.steps_[id] = entry;
    return lock;
}

const Json& LockFile::entry(const Step& step) const {
    const auto found = steps_.find(step.id);
    if (found == steps_.end())
        throw Error(Exit::kUsage, path_, "does not know step '" + step.id + "'",
                    "run without --locked to write it anew");
    return found->second;
}

void LockFile::check_steps(const Recipe& recipe) const {
    std::map<std::string, bool> known;
    for (const Step& step : recipe.steps) {
        (void)entry(step);
        known[step.id] = true;
    }
    for (const auto& [id, locked] : steps_)
        if (!known.contains(id))
            throw Error(Exit::kUsage, path_,
                        "holds step '" + escaped(id) + "', which the recipe does not");
}

void LockFile::check(const Step& step, const Json& parts, const std::string& version,
                     bool all_inputs) const {
    const Json& locked = entry(step);
    const std::string then = text_at(locked, {"version"});
    if (then != version)
        throw Error(Exit::kUsage, path_,
                    "step '" + step.id + "' was made by " + escaped(then) + ", not by " + version);
    const Json before = portable(locked), now = portable(parts);
    for (const Change& change : changes(before, now)) {
        const bool input = change.group == "inputs";
        if (input && !all_inputs && change.now.empty()) continue;
        throw Error(input ? Exit::kBadData : Exit::kUsage, path_,
                    "step '" + step.id + "' differs: " + (input ? "input '" : "") + change.name +
                        (input ? "'" : "") + " was " +
                        (change.before.empty() ? "default" : escaped(cut(change.before))) +
                        ", is " + (change.now.empty() ? "default" : escaped(cut(change.now))));
    }
}

void LockFile::check_outputs(const Step& step, const Json& outputs) const {
    const Json* before = entry(step).find("outputs");
    if (before == nullptr) return;
    for (const auto& [path, hash] : outputs.as_members("outputs")) {
        if (text_at(*before, {path.c_str()}) == text_at(outputs, {path.c_str()})) continue;
        throw Error(Exit::kBadData, path_,
                    "step '" + step.id + "' gave other bytes in '" + escaped(path) + "' than then",
                    "the machine, the tool's build or the step itself is not the same");
    }
}

void LockFile::put(const Step& step, const Json& parts, const Json& outputs,
                   const std::string& version) {
    Json made = portable(parts);
    made.set("version", version);
    made.set("outputs", outputs);
    steps_[step.id] = made;
}

void LockFile::write(const std::string& path, const Recipe& recipe) const {
    Json steps = Json::object();
    for (const Step& step : recipe.steps)
        if (const auto found = steps_.find(step.id); found != steps_.end())
            steps.set(step.id, found->second);
    Json json = Json::object();
    json.set("schema", kSchema);
    json.set("steps", steps);
    write_text_file(path, json.dump(1) + "\n", IfExists::kReplace);
}

}  // namespace thimble::recipe
