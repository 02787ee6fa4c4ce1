// SPDX-License-Identifier: Apache-2.0
#include "low_rank_command.h"

#include <memory>

#include "command.h"
#include "compress/factor_job.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"

namespace thimble {
namespace {

// Before a file is opened, and what the heap keeps: measured.
constexpr std::uint64_t kBaselineBytes = std::uint64_t{12} << 20;

class LowRankMethod {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }
    Plan plan(const cli::CommonOptions& common) {
        if (common.device != "cpu")
            throw Error(Exit::kUsage, "--device", "compress works on the CPU only");
        job_ = std::make_unique<FactorJob>(options_, cli::version());
        const auto limit = Budget::parse(common.max_memory, "--max-memory")
                               .limit_bytes[static_cast<std::size_t>(Tier::kRam)];
        const int threads =
            common.threads > 0 ? static_cast<int>(common.threads) : default_threads();
        return job_->plan(threads, parse_isa(common.cpu_isa, "--cpu-isa"), kBaselineBytes, limit);
    }
    void run(cli::Context& context) {
        const auto go_on = [&](const char* what, std::int64_t done, std::int64_t total) {
            context.progress(what, done, total);
            return !context.interrupted();
        };
        try {
            if (!job_->run(context.team, context.isa, go_on)) return;
        } catch (...) {
            report(context);
            throw;
        }
        report(context);
        tell();
        if (!context.stdout_is_json()) context.print(options_.output + "\n");
    }

  private:
    void report(cli::Context& context) const {
        Json matrices = Json::array();
        for (const FactorReport& r : job_->reports()) {
            Json one = Json::object();
            one.set("name", r.name);
            one.set("rank", r.rank);
            one.set("bytes_before", r.bytes_before);
            one.set("bytes", r.bytes);
            one.set("loss", r.loss);
            matrices.push(std::move(one));
        }
        context.report.set("output", options_.output);
        context.report.set("input_bytes", job_->input_bytes());
        context.report.set("output_bytes", job_->output_bytes());
        context.report.set("matrices", std::move(matrices));
        if (job_->quality()) context.report.set("quality", job_->quality()->json());
    }
    void tell() const {
        std::size_t factored = 0;
        for (const FactorReport& r : job_->reports()) factored += r.rank > 0 ? 1 : 0;
        log_info(format_bytes(job_->input_bytes()) + " -> " + format_bytes(job_->output_bytes()) +
                 ": " + std::to_string(factored) + " of " + std::to_string(job_->reports().size()) +
                 " matrices in factors");
        log_info(job_->quality() ? job_->quality()->text()
                                 : "quality was not measured: give -f FILE or --check-file FILE");
    }

    FactorOptions options_;
    std::unique_ptr<FactorJob> job_;
};

}  // namespace

cli::Command low_rank_command() {
    const auto work = std::make_shared<LowRankMethod>();
    cli::Command c;
    c.name = "low-rank";
    c.flag = "--method low-rank";
    c.help = "write the model with matrices as products of two thinner ones, nearest on a text";
    c.options = [work](OptionVisitor& v) { work->visit(v); };
    c.plan = [work](const cli::CommonOptions& common) { return work->plan(common); };
    c.run = [work](cli::Context& context) { work->run(context); };
    return c;
}

}  // namespace thimble
