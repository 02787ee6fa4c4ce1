// SPDX-License-Identifier: Apache-2.0
// evaluate: perplexity, divergence from a reference model, speed; and tables of such results.
#include "pipeline.h"

using namespace thimble;

namespace {

constexpr std::uint64_t kBaselineBytes = std::uint64_t{10} << 20;

constexpr const char* kExamples = R"(Examples:
  evaluate -m model.gguf -f text.txt -o model.json
  evaluate -m model-q4_0.gguf --reference model-f16.gguf -f text.txt --bench -o q4.json
  evaluate report f16.json q4.json
)";

}  // namespace

int main(int argc, char** argv) {
    evaluate::Pipeline pipeline(kBaselineBytes);
    evaluate::ReportOptions report;
    std::vector<cli::Command> commands;
    commands.push_back(
        {.name = "",
         .help = "perplexity, divergence from a reference, speed of one model",
         .options = [&](OptionVisitor& v) { pipeline.options.visit(v); },
         .plan = [&](const cli::CommonOptions& common) { return pipeline.plan(common); },
         .run = [&](cli::Context& context) { pipeline.run(context); }});
    commands.push_back({.name = "report",
                        .help = "one table of several results",
                        .options = [&](OptionVisitor& v) { report.visit(v); },
                        .run = [&](cli::Context& context) { run_report(report, context); }});
    return cli::run_tool({.name = "evaluate",
                          .summary = "measures a model's quality, speed and memory",
                          .epilog = kExamples,
                          .baseline_bytes = kBaselineBytes},
                         std::move(commands), argc, argv);
}
