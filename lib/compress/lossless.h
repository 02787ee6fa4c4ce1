// SPDX-License-Identifier: Apache-2.0
// A GGUF or safetensors file in less room, from which the same file comes back, byte for byte:
// exponents of bfloat16 tensors are coded (kernels/layout/exponent_code.h has the paper and the
// layout), all else is kept as it is. The architecture need not be known; of a GGUF model that is,
// the result runs as it lies.
//
// The result is a GGUF file: the source's metadata (of safetensors: only general.architecture, an
// archive's), key "thimble.lossless" with the source's container, size and SHA-256, the source's
// bytes before its first tensor as tensor thimble.shared.source_header, then its tensors. Those of
// safetensors are called t0, t1, ... in the order of the header.
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
    std::string model, output;
    bool overwrite = false;
    void visit(OptionVisitor& v);
};

// What became of one tensor.
struct LosslessReport {
    std::string name;
    std::uint64_t numbers = 0;  // elements
    std::uint64_t bytes = 0;    // in the source
    std::uint64_t stored = 0;   // in the output
    bool coded = false;
    // Of a number, where they were counted: sign, mantissa and the exponents' entropy.
    double entropy_bits = 0;
};

using LosslessProgress = std::function<bool(std::uint64_t bytes, std::uint64_t total)>;

class CompressJob {
  public:
    // Reads headers only.
    explicit CompressJob(const LosslessOptions& options);
    ~CompressJob();
    [[nodiscard]] Plan plan();
    // Every chunk is decoded again and compared before it is written. False when `progress` stopped
    // it; then there is no output.
    [[nodiscard]] bool run(Team& team, Isa isa, const LosslessProgress& progress);
    [[nodiscard]] const std::vector<LosslessReport>& reports() const noexcept;
    [[nodiscard]] const std::string& source_sha256() const noexcept;
    [[nodiscard]] std::uint64_t input_bytes() const noexcept;
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;  // after run()

  private:
    struct State;
    std::unique_ptr<State> state_;
};

class DecompressJob {
  public:
    explicit DecompressJob(const LosslessOptions& options);
    ~DecompressJob();
    [[nodiscard]] Plan plan();
    // Error(kBadData) where the bytes are not the source's by its SHA-256; then there is no output.
    [[nodiscard]] bool run(const LosslessProgress& progress);
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;
    [[nodiscard]] const std::string& sha256() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
