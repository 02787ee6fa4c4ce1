// SPDX-License-Identifier: Apache-2.0
#include "imatrix_command.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <memory>

#include "calib/importance_statistics.h"
#include "common_options.h"
#include "core/error.h"
#include "core/figures.h"
#include "core/log.h"
#include "eval/report.h"
#include "io/file.h"

namespace thimble {
namespace {

struct ImatrixOptions {
    std::vector<std::string> files;
    ImatrixOutput output;
    std::vector<std::string> include_weights, exclude_weights;
    std::int64_t chunk_tokens = kDefaultChunkTokens;
    bool show_statistics = false;

    void visit(OptionVisitor& v) {
        v.option({.name = "in-file",
                  .help = "importance matrices, GGUF or .dat; several are added up",
                  .value = "FILE",
                  .required = true,
                  .is_input = true,
                  .positional = true},
                 files);
        output.visit(v, "importance matrix to write; without it the statistics are shown");
        v.option({.name = "ctx-size",
                  .letter = 'c',
                  .help = "tokens that a .dat file means by a chunk",
                  .value = "N",
                  .least = 1,
                  .most = 1 << 20},
                 chunk_tokens);
        v.option({.name = "include-weights",
                  .help = "take only entries whose name contains this",
                  .value = "TEXT"},
                 include_weights);
        v.option({.name = "exclude-weights",
                  .help = "leave out entries whose name contains this",
                  .value = "TEXT"},
                 exclude_weights);
        v.option(
            {.name = "show-statistics",
             .help = "one line per tensor: sums, spread, entropy, likeness to the layer before",
             .changes_output = false},
            show_statistics);
    }
};

// "blk.3.attn_q.weight" -> "attn_q"
std::string role_of(const ImportanceStatistics& s) {
    std::string name = s.tensor;
    if (name.ends_with(".weight")) name.resize(name.size() - 7);
    return s.layer ? name.substr(name.find('.', 4) + 1) : name;
}

std::string table(const std::vector<ImportanceStatistics>& all) {
    std::vector<std::vector<std::string>> rows = {
        {"tensor", "layer", "sum of mean squares", "least", "most", "mean", "deviation", "active %",
         "columns", "entropy", "of most %", "above 1 sd %", "cosine to layer before"}};
    for (const ImportanceStatistics& s : all) {
        const double top = std::log2(static_cast<double>(s.columns));
        rows.push_back({escaped(role_of(s)), s.layer ? std::to_string(*s.layer) : "-",
                        fixed(s.total, 2), fixed(s.least, 4), fixed(s.most, 4), fixed(s.mean, 4),
                        fixed(s.deviation, 4), fixed(100 * s.active, 2), std::to_string(s.columns),
                        fixed(s.entropy, 4), top > 0 ? fixed(100 * s.entropy / top, 2) : "-",
                        fixed(100 * s.above, 2), s.cosine ? fixed(*s.cosine, 4) : "-"});
    }
    return eval::text_table(rows);
}

Json json_of(const std::vector<ImportanceStatistics>& all) {
    Json tensors = Json::array();
    for (const ImportanceStatistics& s : all) {
        Json t = Json::object();
        t.set("name", s.tensor);
        t.set("columns", s.columns);
        t.set("total", s.total);
        t.set("least", s.least);
        t.set("most", s.most);
        t.set("mean", s.mean);
        t.set("deviation", s.deviation);
        t.set("active", s.active);
        t.set("entropy", s.entropy);
        t.set("above_one_deviation", s.above);
        if (s.cosine) t.set("cosine_to_layer_before", *s.cosine);
        tensors.push(std::move(t));
    }
    return tensors;
}

void warn_of_faults(const ImportanceMatrix& matrix) {
    for (const auto& [name, entry] : matrix.entries) {
        const std::string what = "entry '" + escaped(name) + "': ";
        if (const std::size_t bad = unusable_sums(entry); bad > 0)
            log_warning(what + std::to_string(bad) + " sums are negative or not finite");
        std::size_t idle = 0;
        for (const std::int64_t count : entry.counts) idle += count == 0 ? 1 : 0;
        if (idle > 0) {
            log_warning(what + "no token reached " + std::to_string(idle) + " of " +
                        std::to_string(entry.counts.size()) + " matrices");
        }
    }
}

ImportanceMatrix read_all(const ImatrixOptions& options) {
    ImportanceMatrix sum = read_importance(options.files.front(), options.chunk_tokens);
    for (std::size_t i = 1; i < options.files.size(); ++i)
        sum.merge(read_importance(options.files[i], options.chunk_tokens), options.files[i]);
    sum.select(options.include_weights, options.exclude_weights);
    return sum;
}

void run(const ImatrixOptions& options, cli::Context& context) {
    const std::string& output = options.output.path;
    if (!output.empty()) refuse_overwriting_inputs(output, options.files);
    const ImportanceMatrix matrix = read_all(options);
    warn_of_faults(matrix);
    const auto statistics = importance_statistics(matrix);
    context.report.set("chunks", matrix.chunk_count);
    context.report.set("chunk_tokens", matrix.chunk_tokens);
    context.report.set("entries", matrix.entries.size());
    context.report.set("tensors", json_of(statistics));
    const bool show = options.show_statistics || output.empty();
    if (show && !context.stdout_is_json()) context.print(table(statistics));
    if (output.empty()) return;
    options.output.write(matrix);
    context.report.set("output", output);
    if (!show && !context.stdout_is_json()) context.print(output + "\n");
}

// The sum is held while one more file is added to it.
Plan plan(const ImatrixOptions& options) {
    std::uint64_t most = 0;
    for (const std::string& path : options.files) most = std::max(most, File(path).bytes());
    Plan plan;
    plan.at(Tier::kRam, Purpose::kOther) = options.files.size() > 1 ? 2 * most : most;
    return plan;
}

}  // namespace

cli::Command imatrix_command() {
    const auto options = std::make_shared<ImatrixOptions>();
    cli::Command c;
    c.name = "imatrix";
    c.help = "show, convert and add up importance matrices";
    c.options = [options](OptionVisitor& v) { options->visit(v); };
    c.plan = [options](const cli::CommonOptions&) { return plan(*options); };
    c.run = [options](cli::Context& context) { run(*options, context); };
    return c;
}

}  // namespace thimble
