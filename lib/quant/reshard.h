// SPDX-License-Identifier: Apache-2.0
// The same model in more or fewer files: every tensor's bytes and every key as they are, whatever
// the architecture, through one small buffer. GGUF stays GGUF; a Hugging Face directory stays one,
// with the files beside its weights. Nothing is recorded in the metadata, so that what was split
// here and merged again is the original, byte for byte.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/options.h"
#include "core/plan.h"

namespace thimble {

struct SplitOptions {
    std::string model, output, split_max_size;
    std::int64_t split_max_tensors = 0;
    bool no_tensor_first_split = false;
    bool overwrite = false;
    void visit(OptionVisitor& v);
};

struct MergeOptions {
    std::string model, output;
    bool overwrite = false;
    void visit(OptionVisitor& v);
};

// A size as llama-gguf-split and transformers take it: "2G" and "2GB" are both 2 * 10^9.
[[nodiscard]] std::uint64_t parse_shard_size(const std::string& text, const std::string& where);

class ReshardJob {
  public:
    // Reads headers only.
    explicit ReshardJob(const SplitOptions& options);
    explicit ReshardJob(const MergeOptions& options);
    ~ReshardJob();

    // The buffer shrinks to what `ram_limit_bytes` leaves after `baseline_bytes`.
    [[nodiscard]] Plan plan(std::uint64_t baseline_bytes,
                            std::optional<std::uint64_t> ram_limit_bytes);
    // False when `progress` (bytes done, of how many) stopped it; then there is no output.
    [[nodiscard]] bool run(const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

    // The file or directory to open: of a split model its first file.
    [[nodiscard]] const std::string& output_path() const noexcept;
    [[nodiscard]] const std::vector<std::string>& output_files() const noexcept;
    [[nodiscard]] std::uint64_t output_bytes() const noexcept;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
