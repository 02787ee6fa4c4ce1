// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/child.h"
#include "recipe/dig.h"
#include "recipe/tell.h"

namespace thimble::recipe {
namespace {

namespace fs = std::filesystem;

bool exists(const std::string& path) {
    std::error_code failed;
    return fs::exists(path, failed);
}

Json input_json(Runner& runner, const StepCommand::Path& input) {
    Json entry = Json::object();
    entry.set("option", input.option);
    entry.set("path", input.path);
    if (!exists(input.path)) return entry;
    std::error_code failed;
    const std::uintmax_t bytes = fs::file_size(input.path, failed);
    if (!failed) entry.set("bytes", static_cast<std::uint64_t>(bytes));
    entry.set("sha256", runner.store().hash(input.path));
    return entry;
}

Json output_json(Runner& runner, const StepCommand::Path& output) {
    Json entry = Json::object();
    entry.set("option", output.option);
    entry.set("path", output.path);
    if (!exists(output.path)) return entry;
    const std::string hash = runner.store().hash(output.path);
    const std::map<std::string, MadeFile> made = runner.store().made();
    const auto known = made.find(runner.shown(output.path));
    entry.set("sha256", hash);
    entry.set("made", known != made.end() &&
                          std::find(known->second.hashes.begin(), known->second.hashes.end(),
                                    hash) != known->second.hashes.end());
    return entry;
}

std::string file_line(const Json& file) {
    const std::string hash = text_at(file, {"sha256"});
    std::string line =
        "  " + text_at(file, {"option"}) + "  " + escaped(text_at(file, {"path"}), 300);
    if (hash.empty()) return line + "  (not there)\n";
    if (file.find("bytes") != nullptr)
        line += "  " + format_bytes(static_cast<std::uint64_t>(bytes_at(file, {"bytes"})));
    line += "  sha256 " + hash.substr(0, 16);
    const Json* made = file.find("made");
    if (made != nullptr && !made->as_bool("made")) line += "  (not as a step wrote it)";
    return line + "\n";
}

std::string change_line(const Json& change) {
    const auto side = [&](const char* key) {
        const std::string text = text_at(change, {key});
        return text.empty() ? "default" : escaped(text, 200);
    };
    const std::string group = text_at(change, {"group"}), name = text_at(change, {"name"});
    const bool hash = group == "inputs" || group == "executable";
    const auto cut = [&](const std::string& text) {
        return hash && text.size() > 18 ? text.substr(0, 18) + "..." : text;
    };
    return "  " + (group == "options" || group == "inputs" ? group + "." : "") + name + ": " +
           cut(side("before")) + " -> " + cut(side("now")) + "\n";
}

}  // namespace

Json explain(Runner& runner, std::size_t i, const Verdict& verdict) {
    const Step& step = runner.recipe().steps[i];
    Json out = Json::object();
    out.set("id", step.id);
    out.set("runs", !verdict.up_to_date);
    out.set("reason", verdict.reason);
    Json list = Json::array();
    for (const Change& change : verdict.changes) {
        Json entry = Json::object();
        entry.set("group", change.group);
        entry.set("name", change.name);
        entry.set("before", change.before);
        entry.set("now", change.now);
        list.push(entry);
    }
    out.set("changes", list);
    Json needs = Json::array(), inputs = Json::array(), outputs = Json::array();
    for (const std::size_t need : step.needs) needs.push(runner.recipe().steps[need].id);
    for (const auto& input : runner.command(i).inputs) inputs.push(input_json(runner, input));
    for (const auto& output : runner.command(i).outputs) outputs.push(output_json(runner, output));
    out.set("needs", needs);
    out.set("command", shell_line(runner.command(i).argv));
    out.set("inputs", inputs);
    out.set("outputs", outputs);
    if (verdict.up_to_date && !step.gates.empty())
        out.set("gates", runner.check_gates(i, verdict.key));
    if (verdict.key.empty()) return out;
    out.set("key", verdict.key);
    out.set("record", runner.store().directory() + "/records/" + verdict.key + ".json");
    if (verdict.record) {
        out.set("date", text_at(*verdict.record, {"date"}));
        out.set("machine", text_at(*verdict.record, {"machine", "cpu"}));
        if (const Json* seconds = verdict.record->find("wall_seconds"))
            out.set("wall_seconds", *seconds);
    }
    return out;
}

std::string explanation_text(const Json& e) {
    std::string out = text_at(e, {"id"}) + ": " +
                      (e.find("runs")->as_bool("runs") ? "would run: " : "up to date: ") +
                      escaped(text_at(e, {"reason"}), 300) + "\n";
    const auto section = [&](const char* key, const char* title, const auto& line) {
        const Json* list = e.find(key);
        if (list == nullptr || list->as_array(key).empty()) return;
        out += std::string(title) + ":\n";
        for (const Json& entry : list->as_array(key)) out += line(entry);
    };
    section("changes", "changed since its last run", change_line);
    section("needs", "needs", [](const Json& id) { return "  " + id.as_string("needs") + "\n"; });
    section("inputs", "inputs", file_line);
    section("outputs", "outputs", file_line);
    section("gates", "gates",
            [](const Json& gate) { return "  " + text_at(gate, {"line"}) + "\n"; });
    out += "command:\n  " + text_at(e, {"command"}) + "\n";
    if (e.find("key") == nullptr) return out + "cached: not before its inputs exist\n";
    if (e.find("date") == nullptr)
        return out + "cached: no; it would be " + text_at(e, {"record"}) + "\n";
    return out + "cached: " + text_at(e, {"record"}) + "\n  on " + text_at(e, {"date"}) + " by " +
           text_at(e, {"machine"}) + ", " + text_at(e, {"wall_seconds"}) + " s\n";
}

}  // namespace thimble::recipe
