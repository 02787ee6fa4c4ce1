// SPDX-License-Identifier: Apache-2.0
#include "cost/probe.h"
#include "core/cpu.h"
#include "io/atomic_file.h"
#include "pipeline.h"

namespace thimble::run {

Plan plan_probe(const RunOptions& options) {
    Plan plan;
    cost::add_probe_to_plan(plan, options.probing);
    return plan;
}

void run_probe(const RunOptions& options, cli::Context& context) {
    const cost::MachineProfile profile =
        cost::probe(options.probing, context.team.threads(), context.isa);
    const Json json = to_json(profile);
    write_text_file(options.probe, json.dump(2) + "\n", IfExists::kReplace);
    context.report.set("profile", json);
    if (!context.stdout_is_json()) context.print(describe(profile));
}

}  // namespace thimble::run
