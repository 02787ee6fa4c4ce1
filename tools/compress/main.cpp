// SPDX-License-Identifier: Apache-2.0
// compress: models in less room without losing a bit, and back.
#include "bitstack_command.h"
#include "cli/tool.h"
#include "lossless_command.h"

using namespace thimble;

namespace {

constexpr const char* kEpilog = R"(Examples:
  compress model-bf16.gguf -o model-df11.gguf
  run -m model-df11.gguf -p "Why is the sky blue?"
  compress --decompress model-df11.gguf -o model-bf16.gguf
  compress model.safetensors -o model.df11.gguf
  compress --method bitstack model.gguf -o model-any.gguf --imatrix imatrix.gguf
  run -m model-any.gguf -p "Why is the sky blue?" --max-memory ram=200MiB
)";

// Before a file is opened, and what the heap keeps: measured.
constexpr std::uint64_t kBaselineBytes = std::uint64_t{12} << 20;

}  // namespace

int main(int argc, char** argv) {
    return cli::run_tool({.name = "compress",
                          .summary = "makes models smaller without losing a bit",
                          .epilog = kEpilog,
                          .baseline_bytes = kBaselineBytes},
                         {lossless_command(), decompress_command(), bitstack_command()}, argc,
                         argv);
}
