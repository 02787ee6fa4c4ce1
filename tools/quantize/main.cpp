// SPDX-License-Identifier: Apache-2.0
// quantize: a GGUF file or Hugging Face directory in, a GGUF file of another format out.
#include <chrono>
#include <memory>

#include "cli/tool.h"
#include "core/cpu.h"
#include "core/log.h"
#include "core/strings.h"
#include "quant/job.h"

namespace {

using namespace thimble;

// Resident memory of the process before it opens a model.
constexpr std::uint64_t kBaselineBytes = std::uint64_t{9} << 20;

constexpr const char* kEpilog = R"(Examples:
  quantize -m model.gguf -o model-q8_0.gguf --format q8_0
  quantize -m ./hf-model --format q4_k --tensor-type 'ffn_down=q6_k' --tensor-type 'attn_v=q8_0'
  quantize -m model.gguf --format q4_0 --pure --dry-run
)";

class Quantize {
  public:
    cli::Command command() {
        cli::Command c;
        c.options = [this](OptionVisitor& v) { options_.visit(v); };
        c.plan = [this](const cli::CommonOptions& common) { return plan(common); };
        c.run = [this](cli::Context& context) { run(context); };
        c.list = [] {
            Json formats = Json::array();
            for (const std::string& name : weight_formats().names()) formats.push(name);
            Json lists = Json::object();
            lists.set("formats", std::move(formats));
            return lists;
        };
        return c;
    }

  private:
    Plan plan(const cli::CommonOptions& common) {
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
        const bool done = job_->run(
            context.team, [&](std::string_view, std::uint64_t bytes, std::uint64_t total) {
                context.progress("quantize", static_cast<std::int64_t>(bytes >> 20),
                                 static_cast<std::int64_t>(total >> 20),
                                 static_cast<double>(bytes) / 1e6 / seconds(), "MB/s");
                return !context.interrupted();
            });
        if (!done) return;
        report(context, seconds());
        if (!context.stdout_is_json()) context.print(job_->output_path() + "\n");
    }

    void report(cli::Context& context, double seconds) const {
        Json tensors = Json::array();
        for (const TensorReport& r : job_->reports()) {
            Json t = Json::object();
            t.set("name", r.choice->tensor->name);
            t.set("from", find_tensor_type(r.choice->tensor->type())->name);
            t.set("to", layout_info(r.choice->layout).name);
            t.set("bytes", r.bytes_out);
            if (r.choice->copied) t.set("copied", true);
            if (!r.choice->reason.empty()) t.set("reason", r.choice->reason);
            if (r.relative_error >= 0) t.set("relative_rmse", r.relative_error);
            tensors.push(std::move(t));
        }
        context.report.set("output", job_->output_path());
        context.report.set("output_bytes", job_->output_bytes());
        context.report.set("input_bytes", job_->input_bytes());
        context.report.set("seconds", seconds);
        context.report.set("tensors", std::move(tensors));
        const double rate = static_cast<double>(job_->input_bytes()) / seconds / 1e6;
        log_info(format_bytes(job_->input_bytes()) + " -> " + format_bytes(job_->output_bytes()) +
                 " at " + std::to_string(static_cast<int>(rate)) + " MB/s of input");
    }

    QuantizeOptions options_;
    std::unique_ptr<QuantizeJob> job_;
};

}  // namespace

int main(int argc, char** argv) {
    Quantize quantize;
    cli::ToolInfo info;
    info.name = "quantize";
    info.summary = "writes a model in another weight format";
    info.epilog = kEpilog;
    info.baseline_bytes = kBaselineBytes;
    return cli::run_tool(info, {quantize.command()}, argc, argv);
}
