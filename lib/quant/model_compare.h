// SPDX-License-Identifier: Apache-2.0
// The error of each tensor of a model against a reference of the same model, whatever container and
// format either has. Rows pass through fixed buffers.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "core/team.h"
#include "io/model_file.h"
#include "quant/tensor_error.h"
#include "tensor/buffer.h"

namespace thimble {

// Elements and bits of a tensor as stored.
[[nodiscard]] std::uint64_t element_count(const TensorEntry& tensor) noexcept;
[[nodiscard]] double bits_per_weight(std::uint64_t bytes, std::uint64_t elements) noexcept;

class ModelCompare {
  public:
    // Reads headers. Tensors are paired by their names; where one is a GGUF file and the other a
    // Hugging Face directory, by the names of their architecture, which must be known then. Throws
    // kUsage when no tensor of `model` has a partner.
    ModelCompare(const std::string& model, const std::string& reference);
    ~ModelCompare();

    // What the buffers of `threads` workers and the reference's header take.
    [[nodiscard]] std::uint64_t buffer_bytes(int threads) const;
    [[nodiscard]] std::uint64_t header_bytes() const;

    struct Result {
        std::optional<TensorError> error;
        std::string reason;  // why there is none
    };
    // `name` as the model stores it. Sums are the same at any thread count.
    [[nodiscard]] Result compare(std::string_view name, Team& team);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
