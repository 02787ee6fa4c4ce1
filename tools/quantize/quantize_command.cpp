// SPDX-License-Identifier: Apache-2.0
#include "quantize_command.h"

#include <chrono>
#include <memory>

#include "baseline.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "error_report.h"
#include "io/json_lines.h"
#include "quant/job.h"

namespace thimble {
namespace {

constexpr const char* kErrorSchema = "thimble.tensor-error/1";  // of --error-report's lines

class Quantize {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }

    Plan plan(const cli::CommonOptions& common) {
        if (options_.error_report == "-" && common.json == "-") {
            throw Error(Exit::kUsage, "--error-report", "--json - has standard output already",
                        "give one of them a file");
        }
        job_ = std::make_unique<QuantizeJob>(options_, cli::version());
        const int threads =
            common.threads > 0 ? static_cast<int>(common.threads) : default_threads();
        const Budget budget = Budget::parse(common.max_memory, "--max-memory");
        return job_->plan(threads, kBaselineBytes,
                          budget.limit_bytes[static_cast<std::size_t>(Tier::kRam)]);
    }

    void run(cli::Context& context) {
        const auto start = std::chrono::steady_clock::now();
        const auto seconds = [&] {
            return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        };
        JsonLines errors(options_.error_report,
                         [&](std::string_view line) { context.print(line); });
        QuantizeEvents events;
        events.progress = [&](std::uint64_t bytes, std::uint64_t total) {
            context.progress("quantize", static_cast<std::int64_t>(bytes >> 20),
                             static_cast<std::int64_t>(total >> 20),
                             static_cast<double>(bytes) / 1e6 / seconds(), "MB/s");
            return !context.interrupted();
        };
        events.stored = [&](const TensorReport& report) {
            Json line = Json::object();
            line.set("schema", kErrorSchema);
            const Json tensor = tensor_json(report);
            for (const auto& [key, value] : tensor.as_members(kErrorSchema)) line.set(key, value);
            errors.write(line);
        };
        if (!job_->run(context.team, context.isa, events)) return;
        report(context, seconds());
        if (!context.stdout_is_json() && options_.error_report != "-")
            context.print(job_->output_path() + "\n");
    }

  private:
    void report(cli::Context& context, double seconds) const {
        Json tensors = Json::array();
        for (const TensorReport& r : job_->reports()) tensors.push(tensor_json(r));
        context.report.set("output", job_->output_path());
        context.report.set("output_bytes", job_->output_bytes());
        context.report.set("input_bytes", job_->input_bytes());
        context.report.set("resumed_bytes", job_->resumed_bytes());
        context.report.set("seconds", seconds);
        context.report.set("tensors", std::move(tensors));
        TensorError change, error;
        for (const TensorReport& r : job_->reports()) {
            if (r.change) change.add(*r.change);
            if (r.error && r.choice->tensor->is_matrix) error.add(*r.error);
        }
        if (error.count > 0) context.report.set("relative_rmse", error.relative_rmse());
        if (change.count > 0) {
            context.report.set("relative_change", change.relative_rmse());
            log_info("merged: weights moved by " + std::to_string(100 * change.relative_rmse()) +
                     " % of their size");
        }
        const double rate = static_cast<double>(job_->input_bytes()) / seconds / 1e6;
        log_info(format_bytes(job_->input_bytes()) + " -> " + format_bytes(job_->output_bytes()) +
                 " at " + std::to_string(static_cast<int>(rate)) + " MB/s of input");
    }

    QuantizeOptions options_;
    std::unique_ptr<QuantizeJob> job_;
};

Json names() {
    Json formats = Json::array(), targets = Json::array();
    for (const std::string& name : weight_formats().names()) formats.push(name);
    for (const InlineForm& form : target_forms()) targets.push(form.name);
    Json lists = Json::object();
    lists.set("formats", std::move(formats));
    lists.set("targets", std::move(targets));
    return lists;
}

}  // namespace

cli::Command quantize_command() {
    const auto quantize = std::make_shared<Quantize>();
    cli::Command c;
    c.help = "write the model in another weight format";
    c.options = [quantize](OptionVisitor& v) { quantize->visit(v); };
    c.plan = [quantize](const cli::CommonOptions& common) { return quantize->plan(common); };
    c.run = [quantize](cli::Context& context) { quantize->run(context); };
    c.list = names;
    return c;
}

}  // namespace thimble
