// SPDX-License-Identifier: Apache-2.0
// compress: models in less room without losing a bit, and back, or in as much as there is;
// embedding vectors in less.
#include "bitstack_command.h"
#include "cli/tool.h"
#include "embeddings_command.h"
#include "lossless_command.h"
#include "low_rank_command.h"

using namespace thimble;

namespace {

constexpr const char* kEpilog = R"(Examples:
  compress model-bf16.gguf -o model-df11.gguf
  run -m model-df11.gguf -p "Why is the sky blue?"
  compress --decompress model-df11.gguf -o model-bf16.gguf
  compress HF_DIR -o CODED_DIR
  compress --method bitstack model.gguf -o model-any.gguf --imatrix imatrix.gguf
  run -m model-any.gguf -p "Why is the sky blue?" --max-memory ram=200MiB
  compress --method low-rank model-bf16.gguf -o model-thin.gguf -f text.txt --ratio 0.8
  compress embeddings vectors.npy -o store.safetensors --format e4m3 --pca 0.5
  compress embeddings vectors.npy --queries queries.npy --qrels pairs.tsv --frontier
  compress embeddings vectors.npy --frontier --budget 200MiB -o store.safetensors
  compress embeddings --decompress store.safetensors -o vectors.npy
)";

// Before a file is opened, and what the heap keeps: measured.
constexpr std::uint64_t kBaselineBytes = std::uint64_t{12} << 20;

}  // namespace

int main(int argc, char** argv) {
    return cli::run_tool(
        {.name = "compress",
         .summary =
             "makes models smaller, without losing a bit or to any size, and stores of embeddings",
         .epilog = kEpilog,
         .baseline_bytes = kBaselineBytes},
        {lossless_command(), decompress_command(), bitstack_command(), low_rank_command(),
         embeddings_command()},
        argc, argv);
}
