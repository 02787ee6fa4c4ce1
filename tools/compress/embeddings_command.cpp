// SPDX-License-Identifier: Apache-2.0
#include "embeddings_command.h"

#include <array>
#include <cstdio>
#include <memory>

#include "command.h"
#include "compress/embeddings.h"
#include "core/log.h"
#include "core/strings.h"

namespace thimble {
namespace {

template <class... Values>
std::string text(const char* format, Values... values) {
    std::array<char, 256> out{};
    std::snprintf(out.data(), out.size(), format, values...);
    return out.data();
}

Json quality_json(const RetrievalQuality& quality) {
    Json json = Json::object();
    json.set("ndcg_at_10", quality.ndcg);
    json.set("recall_at_10", quality.recall);
    json.set("queries", quality.queries);
    return json;
}

Json point_json(const FrontierPoint& point) {
    Json json = quality_json(point.quality);
    json.set("format", name_of(point.candidate.code));
    json.set("pca", point.candidate.kept > 0);
    json.set("dims", point.dims);
    json.set("explained_variance", point.explained);
    json.set("code_bytes", point.code_bytes);
    json.set("file_bytes", point.file_bytes);
    json.set("best_of_its_size", point.best);
    return json;
}

std::string table(const EmbeddingReport& report) {
    std::string out = text("%-7s %5s %4s %8s %11s %8s %9s\n", "format", "dims", "pca", "variance",
                           "size", "nDCG@10", "recall@10");
    for (const FrontierPoint& p : report.frontier) {
        out += text("%-7s %5lld %4s %7.1f%% %11s %8.4f %9.4f%s\n",
                    std::string(name_of(p.candidate.code)).c_str(), static_cast<long long>(p.dims),
                    p.candidate.kept > 0 ? "yes" : "no", 100 * p.explained,
                    format_bytes(p.file_bytes).c_str(), p.quality.ndcg, p.quality.recall,
                    p.best ? "  best of its size" : "");
    }
    return out;
}

class Embeddings {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }
    Plan plan() {
        if (options_.decompress) {
            restore_ = std::make_unique<RestoreJob>(options_);
            return restore_->plan();
        }
        job_ = std::make_unique<EmbeddingJob>(options_, std::string(cli::version()));
        return job_->plan();
    }
    void run(cli::Context& context) {
        const VectorProgress progress = [&](std::int64_t done, std::int64_t total) {
            context.progress("embeddings", done, total, 0, "rows");
            return !context.interrupted();
        };
        if (restore_) {
            if (!restore_->run(context.team, progress)) return;
            context.report.set("rows", restore_->facts().rows);
            context.report.set("dims", restore_->facts().source_dims);
            context.report.set("output_bytes", restore_->output_bytes());
        } else {
            if (!job_->run(context.team, context.isa, progress)) return;
            report(context);
        }
        if (options_.output.empty()) return;
        context.report.set("output", options_.output);
        if (!context.stdout_is_json()) context.print(options_.output + "\n");
    }

  private:
    void report(cli::Context& context) const {
        const EmbeddingReport& r = job_->report();
        context.report.set("input_bytes", r.input_bytes);
        if (r.as_is) {
            context.report.set("queries", r.queries);
            context.report.set("as_is", quality_json(*r.as_is));
        }
        if (!r.frontier.empty()) {
            Json points = Json::array();
            for (const FrontierPoint& point : r.frontier) points.push(point_json(point));
            context.report.set("frontier", std::move(points));
            log_info(text("as they are: nDCG@10 %.4f, recall@10 %.4f, of %lld queries",
                          r.as_is->ndcg, r.as_is->recall,
                          static_cast<long long>(r.as_is->queries)));
            if (!context.stdout_is_json()) context.print(table(r));
        }
        if (options_.output.empty()) return;
        context.report.set("format", name_of(r.facts.code));
        context.report.set("rows", r.facts.rows);
        context.report.set("dims", r.facts.dims);
        context.report.set("source_dims", r.facts.source_dims);
        context.report.set("code_bytes", r.code_bytes);
        context.report.set("output_bytes", r.file_bytes);
        context.report.set("relative_error", r.errors.relative);
        context.report.set("became_zero", r.errors.lost);
        context.report.set("explained_variance", r.explained);
        if (r.quality) context.report.set("quality", quality_json(*r.quality));
        log_info(std::string(name_of(r.facts.code)) +
                 text(", %lld of %lld dimensions: ", static_cast<long long>(r.facts.dims),
                      static_cast<long long>(r.facts.source_dims)) +
                 format_bytes(r.input_bytes) + " -> " + format_bytes(r.file_bytes) +
                 text(", relative error of the codes %.3g", r.errors.relative));
        if (r.quality) {
            log_info(text("nDCG@10 %.4f (as they are %.4f), recall@10 %.4f (%.4f)", r.quality->ndcg,
                          r.as_is->ndcg, r.quality->recall, r.as_is->recall));
        }
        const double lost = static_cast<double>(r.errors.lost) /
                            static_cast<double>(std::max<std::int64_t>(1, r.errors.numbers));
        if (lost > 0.25) {
            log_warning(
                text("%.0f %% of the numbers became 0 as codes; --prescale N casts 2^N "
                     "times them",
                     100 * lost));
        }
    }

    EmbeddingOptions options_;
    std::unique_ptr<EmbeddingJob> job_;
    std::unique_ptr<RestoreJob> restore_;
};

}  // namespace

cli::Command embeddings_command() {
    return command<Embeddings>("embeddings",
                               "store embedding vectors in fewer bytes, and say what that costs");
}

}  // namespace thimble
