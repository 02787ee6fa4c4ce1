// SPDX-License-Identifier: Apache-2.0
// run: generates text from a model, once or in a conversation; measures the machine with --probe.
#include "kv/policy.h"
#include "pipeline.h"

using namespace thimble;

namespace {

constexpr const char* kExamples = R"(Examples:
  run -m model.gguf -p "The capital of France is" -n 16 --temp 0
  run -m model.gguf --chat -p "Name three rivers." --system "Be brief."
  run -m model.gguf --chat                       (a conversation on a terminal)
  echo "Once upon a time" | run -m model.gguf -n 64 > story.txt
  run -m model.gguf -f long.txt --kv-policy streaming:sink=4,budget=512 -ctk q8_0 -ctv q8_0
  run -m model.gguf -f task.txt -n 9000 --subtask-open "<subtask>" --subtask-close "</subtask>"
  run -m model.gguf --lora adapter --lora-scale 0.8 -p "Once upon a time"
  run -m model.gguf -p "Once upon a time" --profile     (where a token's time goes)
  run --probe machine.json                       (measures this machine, for predicted times)
)";

Json names() {
    Json json = Json::object(), policies = Json::array(), forms = Json::array();
    for (const std::string& name : kv_policies().names()) policies.push(name);
    for (const std::string& name : chat_forms()) forms.push(name);
    json.set("KV policies", policies);
    json.set("chat templates", forms);
    return json;
}

}  // namespace

int main(int argc, char** argv) {
    run::Pipeline pipeline;
    std::vector<cli::Command> commands;
    commands.push_back(
        {.name = "",
         .help = "generate text from a prompt or in a conversation",
         .options = [&](OptionVisitor& v) { pipeline.options.visit(v); },
         .plan = [&](const cli::CommonOptions& common) { return pipeline.plan(common); },
         .run = [&](cli::Context& context) { pipeline.run(context); },
         .list = names,
         .on_cuda = true});
    return cli::run_tool({.name = "run",
                          .summary = "generates text from a language model",
                          .epilog = kExamples,
                          .baseline_bytes = run::kBaselineBytes},
                         std::move(commands), argc, argv);
}
