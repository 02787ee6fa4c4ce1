// SPDX-License-Identifier: Apache-2.0
#include "bitstack_command.h"

#include <memory>

#include "command.h"
#include "compress/stack_job.h"
#include "core/log.h"
#include "core/strings.h"

namespace thimble {
namespace {

class Bitstack {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }
    Plan plan() {
        job_ = std::make_unique<StackJob>(options_, cli::version());
        return job_->plan();
    }
    void run(cli::Context& context) {
        const auto progress = [&](const char* what, std::int64_t done, std::int64_t total) {
            context.progress(what, done, total);
            return !context.interrupted();
        };
        if (!job_->run(context.team, context.isa, progress)) return;
        report(context);
        if (!context.stdout_is_json()) context.print(options_.output + "\n");
    }

  private:
    void report(cli::Context& context) const {
        Json matrices = Json::array();
        for (const StackReport& r : job_->reports()) {
            Json one = Json::object(), errors = Json::array();
            one.set("name", r.name);
            one.set("weights", r.weights);
            one.set("block_bytes", r.block_bytes);
            one.set("scaled", r.scaled);
            for (const double e : r.errors) errors.push(e);
            one.set("errors", std::move(errors));
            matrices.push(std::move(one));
        }
        context.report.set("output", options_.output);
        context.report.set("input_bytes", job_->input_bytes());
        context.report.set("output_bytes", job_->output_bytes());
        context.report.set("least_bytes", job_->least_bytes());
        context.report.set("matrices", std::move(matrices));
        log_info(format_bytes(job_->input_bytes()) + " -> " + format_bytes(job_->output_bytes()) +
                 " in " + std::to_string(job_->reports().size()) + " matrices of " +
                 std::to_string(options_.levels) + " blocks; runs from " +
                 format_bytes(job_->least_bytes()) + " on");
    }

    StackOptions options_;
    std::unique_ptr<StackJob> job_;
};

}  // namespace

cli::Command bitstack_command() {
    cli::Command c = command<Bitstack>(
        "bitstack", "write the model in blocks, of which run loads as many as memory has room for");
    c.flag = "--method bitstack";
    return c;
}

}  // namespace thimble
