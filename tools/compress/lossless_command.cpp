// SPDX-License-Identifier: Apache-2.0
#include "lossless_command.h"

#include <memory>

#include "command.h"
#include "compress/lossless.h"
#include "core/figures.h"
#include "core/log.h"
#include "core/strings.h"

namespace thimble {
namespace {

LosslessProgress progress_of(cli::Context& context, const char* what) {
    return [&context, what](std::uint64_t done, std::uint64_t total) {
        context.progress(what, static_cast<std::int64_t>(done >> 20),
                         static_cast<std::int64_t>(total >> 20), 0, "MiB");
        return !context.interrupted();
    };
}

class Compress {
  public:
    void visit(OptionVisitor& v) {
        options_.visit(v);
        options_.visit_layout(v);
        v.option(
            {.name = "method",
             .help = "dfloat11: exponents of float tensors as prefix codes; what it does not make "
                     "smaller is kept as it is; bitstack, low-rank: compress bitstack --help, "
                     "compress low-rank --help",
             .choices = {"dfloat11"}},
            method_);
    }
    Plan plan() {
        job_ = compress_job(options_);
        return job_->plan();
    }
    void run(cli::Context& context) {
        if (!job_->run(context.team, context.isa, progress_of(context, "compress"))) return;
        report(context);
        if (!context.stdout_is_json()) context.print(options_.output + "\n");
    }

  private:
    void report(cli::Context& context) const {
        Json tensors = Json::array();
        std::uint64_t numbers = 0, stored = 0;
        double bound = 0;
        for (const LosslessReport& r : job_->reports()) {
            Json one = Json::object();
            one.set("name", r.name);
            one.set("numbers", r.numbers);
            one.set("bytes", r.bytes);
            one.set("stored_bytes", r.stored);
            one.set("coded", r.coded);
            if (r.entropy_bits > 0) one.set("entropy_bits", r.entropy_bits);
            tensors.push(std::move(one));
            if (!r.coded) continue;
            numbers += r.numbers, stored += r.stored;
            bound += r.entropy_bits * static_cast<double>(r.numbers);
        }
        context.report.set("output", options_.output);
        context.report.set("input_bytes", job_->input_bytes());
        context.report.set("output_bytes", job_->output_bytes());
        if (!job_->sha256().empty()) context.report.set("source_sha256", job_->sha256());
        context.report.set("tensors", std::move(tensors));
        log_info(format_bytes(job_->input_bytes()) + " -> " + format_bytes(job_->output_bytes()) +
                 ", every number decoded and compared");
        if (numbers == 0) {
            log_warning("no tensor is of floats and two dimensions or more: nothing was coded");
            return;
        }
        const double bits = 8.0 * static_cast<double>(stored) / static_cast<double>(numbers);
        const double least = bound / static_cast<double>(numbers);
        context.report.set("bits_per_weight", bits);
        context.report.set("entropy_bits_per_weight", least);
        log_info("coded tensors: " + fixed(bits, 3) + " bits a weight, " +
                 fixed(100 * (bits / least - 1), 2) + " % above the entropy of " + fixed(least, 3));
    }

    LosslessOptions options_;
    std::string method_ = "dfloat11";
    std::unique_ptr<LosslessJob> job_;
};

class Decompress {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }
    Plan plan() {
        job_ = decompress_job(options_);
        return job_->plan();
    }
    void run(cli::Context& context) {
        if (!job_->run(context.team, context.isa, progress_of(context, "decompress"))) return;
        context.report.set("output", options_.output);
        const std::string sha256 = job_->sha256(), size = format_bytes(job_->output_bytes());
        if (!sha256.empty()) context.report.set("sha256", sha256);
        log_info(sha256.empty() ? size : size + ", the source's SHA-256 " + sha256);
        if (!context.stdout_is_json()) context.print(options_.output + "\n");
    }

  private:
    LosslessOptions options_;
    std::unique_ptr<LosslessJob> job_;
};

}  // namespace

cli::Command lossless_command() {
    return command<Compress>("",
                             "write the file in less room, so that it comes back byte for byte");
}

cli::Command decompress_command() {
    return command<Decompress>("decompress",
                               "write the file that was compressed, and check its SHA-256");
}

}  // namespace thimble
