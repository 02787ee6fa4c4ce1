// SPDX-License-Identifier: Apache-2.0
// quantize: a GGUF file or Hugging Face directory in, a GGUF file of another format out.
#include "baseline.h"
#include "cli/tool.h"
#include "collect_command.h"
#include "imatrix_command.h"
#include "inspect_command.h"
#include "quantize_command.h"
#include "reshard_command.h"
#include "verify_command.h"

using namespace thimble;

namespace {

constexpr const char* kEpilog = R"(Examples:
  quantize -m model.gguf -o model-q8_0.gguf --format q8_0
  quantize -m ./hf-model --format Q4_K_M --tensor-type 'ffn_down=q6_k' --tensor-type 'attn_v=q8_0'
  quantize -m model.gguf --format q4_0 --pure --dry-run
  quantize -m model.gguf --format q4_k --imatrix model.imatrix.gguf
  quantize -m model.gguf --lora adapter -o merged.gguf --format f16
  quantize verify model-q8_0.gguf --manifest model-q8_0.sha256
  quantize -m model.gguf --collect-imatrix text.txt -o model.imatrix.gguf
  quantize imatrix a.gguf b.dat -o sum.gguf
  quantize split -m model.gguf -o parts/model --split-max-size 2GB
  quantize merge -m parts/model-00001-of-00003.gguf -o model.gguf
  quantize inspect model-q8_0.gguf --reference model.gguf
)";

}  // namespace

int main(int argc, char** argv) {
    return cli::run_tool({.name = "quantize",
                          .summary = "writes a model in another weight format",
                          .epilog = kEpilog,
                          .baseline_bytes = kBaselineBytes},
                         {quantize_command(), inspect_command(), verify_command(),
                          imatrix_command(), collect_command(), split_command(), merge_command()},
                         argc, argv);
}
