// SPDX-License-Identifier: Apache-2.0
// evaluate: perplexity, divergence from a reference model, speed; and tables of such results.
#include "cost.h"
#include "eval/task.h"
#include "kv_sweep.h"
#include "pipeline.h"
#include "profile.h"
#include "retrieval_heads.h"

using namespace thimble;

namespace {

constexpr std::uint64_t kBaselineBytes = std::uint64_t{10} << 20;

constexpr const char* kExamples = R"(Examples:
  evaluate -m model.gguf -f text.txt -o model.json
  evaluate -m model-q4_0.gguf --reference model-f16.gguf -f text.txt --bench -o q4.json
  evaluate -m model.gguf --task hellaswag:file=hellaswag_val.jsonl --limit 400 -o hs.json
  evaluate -m model-q4_0.gguf -f text.txt --baseline f16.json --assert 'ppl<=baseline.ppl*1.02'
  evaluate --kv-sweep -m model.gguf -f text.txt --prompt 4096 -o sweep.json --svg sweep.svg
  evaluate -m model.gguf --task needle:length=4096,depths=5 --task kv:length=4096,mode=multi-turn
  evaluate -m model.gguf --cost-model a100.yaml --context 4096 --context 50000
  evaluate --profile -o kernels.json             (every weight format on this machine)
  evaluate compare f16.json q4.json
  evaluate report f16.json q4.json
  evaluate find-retrieval-heads -m model.gguf -f text.txt -o heads.json
)";

// The kinds of tasks with their options, as --help shows them.
std::string tasks_text() {
    std::string out = "Tasks:\n";
    for (const auto& type : eval::task_types().items()) {
        out += "  " + std::string(type->name()) + ": " + std::string(type->help()) + "\n";
        for (const OptionRecord& record :
             list_options([&](OptionVisitor& v) { type->visit_options(v); })) {
            std::string value = record.values.empty() ? "" : record.values.front();
            if (value.empty()) value = record.info.value;
            out += "      " + std::string(record.info.name) + "=" + value + "  " +
                   record.info.help + "\n";
        }
    }
    return out + "\n";
}

Json list_names() {
    Json names = Json::array();
    for (const std::string& name : eval::task_types().names()) names.push(name);
    Json out = Json::object();
    out.set("tasks", std::move(names));
    return out;
}

}  // namespace

int main(int argc, char** argv) {
    evaluate::Pipeline pipeline(kBaselineBytes);
    evaluate::ReportOptions report;
    evaluate::CompareOptions compare;
    evaluate::KvSweepPipeline kv_sweep;
    evaluate::CostOptions cost;
    evaluate::RetrievalHeads heads;
    evaluate::ProfileOptions profile;
    std::vector<cli::Command> commands;
    commands.push_back(
        {.name = "",
         .help = "perplexity, divergence from a reference, tasks, speed of one model",
         .options = [&](OptionVisitor& v) { pipeline.options.visit(v); },
         .plan = [&](const cli::CommonOptions& common) { return pipeline.plan(common); },
         .run = [&](cli::Context& context) { pipeline.run(context); },
         .list = list_names,
         .on_cuda = true});
    commands.push_back({.name = "report",
                        .help = "one table of several results",
                        .options = [&](OptionVisitor& v) { report.visit(v); },
                        .run = [&](cli::Context& context) { run_report(report, context); }});
    commands.push_back({.name = "compare",
                        .flag = "--compare",
                        .help = "two results sample by sample, with paired tests",
                        .options = [&](OptionVisitor& v) { compare.visit(v); },
                        .run = [&](cli::Context& context) { run_compare(compare, context); }});
    commands.push_back(
        {.name = "kv-sweep",
         .flag = "--kv-sweep",
         .help = "policies of the KV cache at several budgets, against the full cache",
         .options = [&](OptionVisitor& v) { kv_sweep.options.visit(v); },
         .plan = [&](const cli::CommonOptions& common) { return kv_sweep.plan(common); },
         .run = [&](cli::Context& context) { kv_sweep.run(context); }});
    commands.push_back({.name = "cost-model",
                        .flag = "--cost-model",
                        .help = "what a model would cost at long context on given hardware",
                        .options = [&](OptionVisitor& v) { cost.visit(v); },
                        .run = [&](cli::Context& context) { run_cost(cost, context); }});
    commands.push_back(
        {.name = "profile",
         .flag = "--profile",
         .help = "every weight format on this machine: bandwidth, dequantisation, what binds",
         .options = [&](OptionVisitor& v) { profile.visit(v); },
         .plan = [&](const cli::CommonOptions&) { return evaluate::plan_profile(profile); },
         .run = [&](cli::Context& context) { run_profile(profile, context); }});
    commands.push_back(
        {.name = "find-retrieval-heads",
         .flag = "--find-retrieval-heads",
         .help = "which heads find things in a text: for --kv-policy compresskv",
         .options = [&](OptionVisitor& v) { heads.visit(v); },
         .plan = [&](const cli::CommonOptions& common) { return heads.plan(common); },
         .run = [&](cli::Context& context) { heads.run(context); }});
    return cli::run_tool({.name = "evaluate",
                          .summary = "measures a model's quality, speed and memory",
                          .epilog = tasks_text() + kExamples,
                          .baseline_bytes = kBaselineBytes},
                         std::move(commands), argc, argv);
}
