// SPDX-License-Identifier: Apache-2.0
#include "prune_command.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "baseline.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/figures.h"
#include "core/log.h"
#include "core/strings.h"
#include "prune/job.h"
#include "prune/pruner.h"

namespace thimble {
namespace {

Json kept_json(const prune::PruneReport& r) {
    Json layers = Json::array();
    for (const std::int64_t layer : r.cut.layers) layers.push(layer);
    return layers;
}

class Prune {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }
    Plan plan(const cli::CommonOptions& common) {
        if (common.device != "cpu")
            throw Error(Exit::kUsage, "--device", "prune works on the CPU only");
        job_ = std::make_unique<prune::PruneJob>(options_, cli::version());
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
        if (!context.stdout_is_json()) context.print(job_->output_path() + "\n");
    }

  private:
    void report(cli::Context& context) const {
        const prune::PruneReport& r = job_->report();
        context.report.set("output", job_->output_path());
        context.report.set("input_bytes", r.input_bytes);
        context.report.set("output_bytes", r.output_bytes);
        if (r.plain_bytes > 0) context.report.set("plain_bytes", r.plain_bytes);
        context.report.set("calibration_tokens", r.calibration_tokens);
        context.report.set("kept_layers", kept_json(r));
        context.report.set("heads", r.after.heads);
        context.report.set("kv_heads", r.after.kv_heads);
        context.report.set("ffn", r.after.ffn);
        context.report.set("vocab", r.after.vocab);
        if (!r.zeros.empty()) {
            Json zeros = Json::array();
            for (const prune::Zeros& z : r.zeros) {
                Json one = Json::object();
                one.set("name", z.tensor);
                one.set("weights", z.weights);
                one.set("zeros", z.zeros);
                zeros.push(std::move(one));
            }
            context.report.set("zeros", std::move(zeros));
        }
        if (r.quality) context.report.set("quality", r.quality->json());
    }

    void tell() const {
        const prune::PruneReport& r = job_->report();
        log_info(format_bytes(r.input_bytes) + " -> " + format_bytes(r.output_bytes) + ": " +
                 difference(r));
        if (r.plain_bytes > 0) {
            const bool less = r.output_bytes <= r.plain_bytes;
            log_info("zeros of sparse matrices are not stored: " +
                     format_bytes(less ? r.plain_bytes - r.output_bytes
                                       : r.output_bytes - r.plain_bytes) +
                     (less ? " less" : " more") + " than with them");
        }
        const auto stored = [](const prune::Zeros& z) { return z.stored && z.zeros > 0; };
        const auto plain = std::count_if(r.zeros.begin(), r.zeros.end(), stored);
        if (plain > 0 && r.plain_bytes > 0) {
            log_info(
                "zeros of " + std::to_string(plain) +
                " matrices are stored as any other weight: they are not to be sparse, or their "
                "fullest row keeps too many");
        } else if (plain > 0) {
            log_info(
                "the zeros are stored as any other weight: the file is no smaller for them, nor is "
                "it faster; give --format sparse, or quantize --format sparse the output");
        }
        log_info(r.quality ? r.quality->text()
                           : "quality was not measured: give -f FILE or --check-file FILE");
    }
    static std::string difference(const prune::PruneReport& r) {
        std::string out;
        const auto add = [&](const char* what, std::int64_t before, std::int64_t after) {
            if (before == after) return;
            out += (out.empty() ? "" : ", ") + std::string(what) + " " + std::to_string(before) +
                   " -> " + std::to_string(after);
        };
        add("layers", r.before.layers, r.after.layers);
        add("heads", r.before.heads, r.after.heads);
        add("key-value heads", r.before.kv_heads, r.after.kv_heads);
        add("feed-forward channels", r.before.ffn, r.after.ffn);
        add("tokens", r.before.vocab, r.after.vocab);
        std::uint64_t weights = 0, zeros = 0;
        for (const prune::Zeros& z : r.zeros) weights += z.weights, zeros += z.zeros;
        if (weights > 0) {
            out += (out.empty() ? "" : ", ") +
                   fixed(100 * static_cast<double>(zeros) / static_cast<double>(weights), 2) +
                   " % of the layers' weights are zero";
        }
        return out.empty() ? "nothing was left out" : out;
    }

    prune::PruneOptions options_;
    std::unique_ptr<prune::PruneJob> job_;
};

}  // namespace

cli::Command prune_command() {
    const auto work = std::make_shared<Prune>();
    cli::Command c;
    c.help = "write a model with parts left out";
    c.options = [work](OptionVisitor& v) { work->visit(v); };
    c.plan = [work](const cli::CommonOptions& common) { return work->plan(common); };
    c.run = [work](cli::Context& context) { work->run(context); };
    c.list = [] {
        Json methods = Json::array();
        for (const std::string& name : prune::pruners().names()) methods.push(name);
        Json out = Json::object();
        out.set("methods", std::move(methods));
        return out;
    };
    return c;
}

}  // namespace thimble
