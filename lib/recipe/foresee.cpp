// SPDX-License-Identifier: Apache-2.0
// What a run would do, told without doing it.
#include "core/error.h"
#include "recipe/child.h"
#include "recipe/dig.h"
#include "recipe/runner.h"

namespace thimble::recipe {

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

std::vector<Verdict> Runner::foresee() {
    std::vector<Verdict> verdicts(recipe_.steps.size());
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        verdicts[i].up_to_date = true;  // of steps left alone
        if (!selected_[i]) continue;
        Verdict& verdict = verdicts[i] = judge(i);
        if (!verdict.up_to_date && verdict.key.empty()) continue;
        for (const std::size_t need : recipe_.steps[i].needs) {
            if (verdicts[need].up_to_date) continue;
            verdict.up_to_date = false;
            verdict.reason = "'" + recipe_.steps[need].id + "' runs before it";
        }
    }
    return verdicts;
}

Json Runner::plan() {
    check_inputs();
    Json steps = Json::array();
    std::vector<Verdict> verdicts = foresee();
    for (std::size_t i = 0; i < recipe_.steps.size(); ++i) {
        if (!selected_[i]) continue;
        Verdict& verdict = verdicts[i];
        if (verdict.up_to_date) {
            const Json gates = check_gates(i, verdict.key);
            for (const Json& gate : gates.as_array("gates"))
                if (!gate.find("holds")->as_bool("holds"))
                    verdict.reason = "gate " + text_at(gate, {"line"});
        }
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

}  // namespace thimble::recipe
