// SPDX-License-Identifier: Apache-2.0
#include "reshard_command.h"

#include <memory>

#include "baseline.h"
#include "quant/reshard.h"

namespace thimble {
namespace {

template <class Options>
class Reshard {
  public:
    explicit Reshard(const char* name) : name_(name) {}
    void visit(OptionVisitor& v) { options_.visit(v); }

    Plan plan(const cli::CommonOptions& common) {
        job_ = std::make_unique<ReshardJob>(options_);
        const Budget budget = Budget::parse(common.max_memory, "--max-memory");
        return job_->plan(kBaselineBytes, budget.limit_bytes[static_cast<std::size_t>(Tier::kRam)]);
    }

    void run(cli::Context& context) {
        const bool done = job_->run([&](std::uint64_t bytes, std::uint64_t total) {
            context.progress(name_, static_cast<std::int64_t>(bytes >> 20),
                             static_cast<std::int64_t>(total >> 20), 0, "MiB");
            return !context.interrupted();
        });
        if (!done) return;
        Json files = Json::array();
        for (const std::string& path : job_->output_files()) files.push(path);
        context.report.set("output", job_->output_path());
        context.report.set("output_files", std::move(files));
        context.report.set("output_bytes", job_->output_bytes());
        if (context.stdout_is_json()) return;
        for (const std::string& path : job_->output_files()) context.print(path + "\n");
    }

  private:
    const char* name_;
    Options options_;
    std::unique_ptr<ReshardJob> job_;
};

template <class Options>
cli::Command command(const char* name, std::string help) {
    const auto reshard = std::make_shared<Reshard<Options>>(name);
    cli::Command c;
    c.name = name;
    c.help = std::move(help);
    c.options = [reshard](OptionVisitor& v) { reshard->visit(v); };
    c.plan = [reshard](const cli::CommonOptions& common) { return reshard->plan(common); };
    c.run = [reshard](cli::Context& context) { reshard->run(context); };
    return c;
}

}  // namespace

cli::Command split_command() {
    return command<SplitOptions>("split", "write the model in several files of bounded size");
}

cli::Command merge_command() {
    return command<MergeOptions>("merge", "write a model of several files in one");
}

}  // namespace thimble
