// SPDX-License-Identifier: Apache-2.0
// prune: a model with parts left out, and what that cost.
#include "baseline.h"
#include "cli/tool.h"
#include "inspect_command.h"
#include "prune_command.h"

using namespace thimble;

namespace {

constexpr const char* kEpilog = R"(Examples:
  prune -m model.gguf -o short.gguf --method layers:count=4 -f text.txt
  prune -m model.gguf -o narrow.gguf --method channels:ratio=0.2 -f text.txt --max-kld 0.5
  prune -m model.gguf -o fewer.gguf --method heads:ratio=0.33,unit=query -f text.txt
  prune -m model.gguf -o sparse.gguf --method sparsegpt:nm=2:4 -f text.txt
  prune -m model.gguf -o sparse.gguf --method wanda:sparsity=0.5 -f text.txt --only ffn
  prune -m model.gguf -o english.gguf --method vocabulary:keep=16000 -f text.txt --chunks 9999
  prune -m model.gguf -o skipping.gguf --method chess:sparsity=0.5 -f text.txt --max-kld 0.1
  prune -m model.gguf --method layers:drop=20-23 --dry-run
  prune inspect -m model.gguf -f text.txt
)";

}  // namespace

int main(int argc, char** argv) {
    return cli::run_tool({.name = "prune",
                          .summary = "leaves out what a model needs least",
                          .epilog = kEpilog,
                          .baseline_bytes = kBaselineBytes},
                         {prune_command(), inspect_command()}, argc, argv);
}
