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

Json sizes_json(const ModelConfig& config) {
    Json layers = Json::array();
    for (const LayerSizes& sizes : config.sizes) {
        Json one = Json::object();
        one.set("heads", sizes.heads);
        one.set("kv_heads", sizes.kv_heads);
        one.set("ffn", sizes.ffn);
        layers.push(std::move(one));
    }
    return layers;
}

// "9", or "3 to 9" where layers differ.
std::string range(const ModelConfig& config, std::int64_t LayerSizes::*field) {
    const auto sizes = [&](std::int64_t layer) { return config.sizes_of(layer).*field; };
    std::int64_t least = sizes(0), most = least;
    for (std::int64_t layer = 1; layer < config.layers; ++layer) {
        least = std::min(least, sizes(layer));
        most = std::max(most, sizes(layer));
    }
    return least == most ? std::to_string(most)
                         : std::to_string(least) + " to " + std::to_string(most);
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
        if (!r.after.sizes.empty()) context.report.set("layer_sizes", sizes_json(r.after));
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
        if (!r.dropped.empty()) {
            Json dropped = Json::array();
            for (const double share : r.dropped) dropped.push(share);
            context.report.set("dropped_activations", std::move(dropped));
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
        if (!r.dropped.empty()) log_info(dropped(r));
        log_info(r.quality ? r.quality->text()
                           : "quality was not measured: give -f FILE or --check-file FILE");
    }
    static std::string dropped(const prune::PruneReport& r) {
        double sum = 0, least = 1, most = 0;
        for (const double share : r.dropped) {
            sum += share, least = std::min(least, share), most = std::max(most, share);
        }
        return fixed(100 * sum / static_cast<double>(r.dropped.size()), 2) +
               " % of feed-forward activations are dropped, " + fixed(100 * least, 2) + " to " +
               fixed(100 * most, 2) + " % by layer; weights are as they were";
    }
    static std::string difference(const prune::PruneReport& r) {
        std::string out;
        const auto add = [&](const char* what, const std::string& before,
                             const std::string& after) {
            if (before == after) return;
            out += (out.empty() ? "" : ", ") + std::string(what) + " " + before + " -> " + after;
        };
        const auto sizes = [&](const char* what, std::int64_t LayerSizes::*field) {
            add(what, range(r.before, field), range(r.after, field));
        };
        add("layers", std::to_string(r.before.layers), std::to_string(r.after.layers));
        sizes("heads", &LayerSizes::heads);
        sizes("key-value heads", &LayerSizes::kv_heads);
        sizes("feed-forward channels", &LayerSizes::ffn);
        add("tokens", std::to_string(r.before.vocab), std::to_string(r.after.vocab));
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
