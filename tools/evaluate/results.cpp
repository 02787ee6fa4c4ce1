// SPDX-License-Identifier: Apache-2.0
// What evaluate does with figures: files, tables, gates, comparisons and reports.
#include <ctime>

#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "eval/compare.h"
#include "eval/lm_eval.h"
#include "eval/report.h"
#include "eval/report_join.h"
#include "io/atomic_file.h"
#include "pipeline.h"

namespace thimble::evaluate {

void Pipeline::finish(cli::Context& context, eval::Record& record) {
    record.peak = {predicted_bytes_, process_memory().peak_resident_bytes};
    const Json json = eval::to_json(record);
    context.report.set("result", json);
    write_results(context, record, json);
    if (!context.stdout_is_json()) {
        context.print(eval::report_text({&record, 1}));
        if (baseline_) context.print("\n" + eval::beside_text(record, *baseline_));
    }
    check_gates(context, record);
}

void Pipeline::write_results(const cli::Context& context, const eval::Record& record,
                             const Json& json) {
    if (!options.output.empty())
        write_text_file(options.output, json.dump(2) + "\n", IfExists::kReplace);
    if (!options.lm_eval.empty()) {
        const Json shaped = eval::lm_eval_json(record, {.version = std::string(cli::version()),
                                                        .date = static_cast<double>(std::time({})),
                                                        .batch = options.batch,
                                                        .limit = options.limit,
                                                        .seed = context.common.seed,
                                                        .wall_seconds = record.seconds});
        write_text_file(options.lm_eval, shaped.dump(2) + "\n", IfExists::kReplace);
    }
    if (!journal_) return;
    if (options.samples.empty()) {
        journal_->remove();
    } else {
        journal_->keep_as(options.samples);
    }
}

void Pipeline::check_gates(cli::Context& context, const eval::Record& record) const {
    const auto figures = eval::figures_of(record, baseline_ ? &*baseline_ : nullptr);
    Json gates = Json::array();
    std::string failed;
    std::int64_t failures = 0;
    for (const Gate& gate : gates_) {
        const GateResult result = eval::check_gate(gate, figures);
        Json one = Json::object();
        one.set("assert", gate.text());
        one.set("left", result.left);
        one.set("right", result.right);
        one.set("holds", result.holds);
        gates.push(std::move(one));
        if (result.holds) continue;
        ++failures;
        failed += (failed.empty() ? "" : "; ") + describe(gate, result);
    }
    if (gates_.empty()) return;
    context.report.set("gates", std::move(gates));
    if (failures > 0) throw Error(Exit::kGateFailed, "--assert", failed);
    log_info("all " + std::to_string(gates_.size()) + " gates hold");
}

void run_compare(const CompareOptions& options, cli::Context& context) {
    if (options.results.size() != 2) {
        throw Error(Exit::kUsage, "compare",
                    std::to_string(options.results.size()) + " results given; it takes two");
    }
    std::vector<eval::Record> records;
    for (const std::string& path : options.results)
        records.push_back(eval::record_from_json(read_json_file(path), escaped(path, 1024)));
    const eval::Comparison comparison =
        eval::compare(records[0], records[1], options.results[0], options.results[1]);
    const Json json = eval::comparison_json(comparison);
    context.report.set("comparison", json);
    const std::string text = eval::comparison_text(comparison, records[0], records[1]);
    if (!options.output.empty()) {
        write_text_file(options.output,
                        options.output.ends_with(".json") ? json.dump(2) + "\n" : text,
                        IfExists::kReplace);
    } else if (!context.stdout_is_json()) {
        context.print(text);
    }
}

void run_report(const ReportOptions& options, cli::Context& context) {
    eval::ReportJoin join;
    for (const std::string& path : options.results)
        join.add(read_json_file(path), escaped(path, 1024));
    std::vector<eval::Record> records = std::move(join).records();
    if (!options.sort.empty()) eval::sort_records(records, options.sort, "--sort");
    context.report.set("report", eval::report_json(records));
    if (!options.output.empty()) {
        refuse_overwriting_inputs(options.output, options.results);
        write_text_file(options.output, eval::report_for(options.output, records),
                        IfExists::kReplace);
    } else if (!context.stdout_is_json()) {
        context.print(eval::report_text(records));
    }
}

}  // namespace thimble::evaluate
