// SPDX-License-Identifier: Apache-2.0
// offload-train: fine-tunes a model, or adapters for it, inside a memory budget.
#include "core/error.h"
#include "pipeline.h"
#include "ranks.h"

using namespace thimble;

namespace {

constexpr const char* kExamples = R"(Examples:
  offload-train -m model.gguf --data train.jsonl -o adapter --method lora:rank=16 --epochs 2
  offload-train -m q4_k_m.gguf --data chats.jsonl -o adapter.gguf --max-memory ram=2GiB   (QLoRA)
  offload-train -m model.gguf --data notes.txt -o tuned.gguf --method full --optimizer adamw8bit
  mpirun -n 4 offload-train ... -b 2 --grad-accumulation 8
      (four processes share the 16 rows of each step; --max-memory is that of each; SIGUSR1 to
      mpirun stops them and saves the state)
  offload-train ... --dry-run                    (what it would hold, and how long it would take)
)";

Json names() {
    Json json = Json::object(), methods = Json::array(), optimizers = Json::array();
    for (const std::string& name : train::methods().names()) methods.push(name);
    for (const std::string& name : train::optimizers().names()) optimizers.push(name);
    json.set("methods", methods);
    json.set("optimizers", optimizers);
    return json;
}

}  // namespace

int main(int argc, char** argv) {
    const std::unique_ptr<dist::Communicator> ranks = train::join_ranks();
    if (!ranks) return static_cast<int>(Exit::kUsage);
    std::vector<char*> arguments = train::arguments_of(*ranks, argc, argv);
    train::Pipeline pipeline;
    pipeline.options.loop.trainer.ranks = ranks.get();
    std::vector<cli::Command> commands;
    commands.push_back({.name = "",
                        .help = "train a model or adapters for it",
                        .options = [&](OptionVisitor& v) { pipeline.options.visit(v); },
                        .plan = [&](const cli::CommonOptions& c) { return pipeline.plan(c); },
                        .run = [&](cli::Context& context) { pipeline.run(context); },
                        .list = names,
                        .on_cuda = true});
    const int code =
        cli::run_tool({.name = train::kTool,
                       .summary = "fine-tunes language models where memory is short",
                       .epilog = kExamples,
                       .baseline_bytes = train::kBaselineBytes,
                       .threads = dist::default_threads_of(*ranks),
                       .failing = [&](std::string& line) { train::tell_rank(*ranks, line); }},
                      std::move(commands), static_cast<int>(arguments.size()), arguments.data());
    return train::leave_together(*ranks, code);
}
