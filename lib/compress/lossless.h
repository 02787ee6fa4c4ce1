// SPDX-License-Identifier: Apache-2.0
// A model in less room, from which the same files come back, byte for byte: exponents of float
// tensors are coded (kernels/layout/exponent_code.h has the paper and the layout), all else is kept
// as it is. The architecture need not be known; of a GGUF model that is, the result runs as it
// lies.
//
// Of a file the result is a GGUF file: the source's metadata (of safetensors: only
// general.architecture, an archive's), key "thimble.lossless" with the source's container, size and
// SHA-256, the source's bytes before its first tensor as tensor thimble.shared.source_header, then
// its tensors. Those of safetensors are called t0, t1, ... in the order of the header.
// Of a directory it is a directory: "<name>.gguf" for each .safetensors file, the other files as
// they are, and thimble.lossless.json with every file's size and SHA-256.
// With layout "reference" it is a Hugging Face directory in the layout of DFloat11's authors
// (codec/dfloat11.h), which holds the weights' bits and not the files'.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/plan.h"
#include "core/team.h"
#include "kernels/layout/isa.h"

namespace thimble {

struct LosslessOptions {
    std::string model, output, layout = "thimble";
    bool overwrite = false;
    void visit(OptionVisitor& v);         // of both ways
    void visit_layout(OptionVisitor& v);  // of writing
};

// What became of one tensor.
struct LosslessReport {
    std::string name;
    std::uint64_t numbers = 0;  // elements
    std::uint64_t bytes = 0;    // in the source
    std::uint64_t stored = 0;   // in the output
    bool coded = false;
    // Of a number, where they were counted: what is not coded, and the exponents' entropy.
    double entropy_bits = 0;
};

using LosslessProgress = std::function<bool(std::uint64_t bytes, std::uint64_t total)>;

class LosslessJob {
  public:
    virtual ~LosslessJob() = default;
    [[nodiscard]] virtual Plan plan() = 0;
    // False when `progress` stopped it; then there is no output.
    [[nodiscard]] virtual bool run(Team& team, Isa isa, const LosslessProgress& progress) = 0;
    [[nodiscard]] virtual std::uint64_t input_bytes() const noexcept = 0;
    // After run():
    [[nodiscard]] virtual std::uint64_t output_bytes() const noexcept = 0;
    [[nodiscard]] virtual std::string sha256() const { return {}; }  // of a file's source
    [[nodiscard]] const std::vector<LosslessReport>& reports() const noexcept { return reports_; }

  protected:
    std::vector<LosslessReport> reports_;
};

// Both read headers only. Every chunk is decoded again and compared before it is written.
[[nodiscard]] std::unique_ptr<LosslessJob> compress_job(const LosslessOptions& options);
// run() is Error(kBadData) where the bytes are not the source's by its SHA-256; then there is no
// output.
[[nodiscard]] std::unique_ptr<LosslessJob> decompress_job(const LosslessOptions& options);

// The kinds that these choose from.
[[nodiscard]] std::unique_ptr<LosslessJob> compress_file(const LosslessOptions& options);
[[nodiscard]] std::unique_ptr<LosslessJob> compress_directory(const LosslessOptions& options);
[[nodiscard]] std::unique_ptr<LosslessJob> write_reference(const LosslessOptions& options);
[[nodiscard]] std::unique_ptr<LosslessJob> decompress_file(const LosslessOptions& options);
[[nodiscard]] std::unique_ptr<LosslessJob> decompress_directory(const LosslessOptions& options);
[[nodiscard]] std::unique_ptr<LosslessJob> read_reference(const LosslessOptions& options);
// Whether a directory's config.json is that of a model in the reference layout.
[[nodiscard]] bool is_reference(const std::string& directory);
inline constexpr const char* kManifest = "thimble.lossless.json";

}  // namespace thimble
