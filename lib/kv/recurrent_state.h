// SPDX-License-Identifier: Apache-2.0
// What the recurrent layers of one sequence remember: of each a state of fixed size, however long
// the text, and the states after each of the last tokens, so that these can be taken back. The
// state after p tokens lies in slot p mod (kRevocable + 1).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kv/sequence_state.h"
#include "tensor/buffer.h"

namespace thimble {

class RecurrentState {
  public:
    // As many as a sliding window keeps at least.
    static constexpr std::int64_t kRevocable = 64;

    RecurrentState() = default;
    RecurrentState(const std::vector<RecurrentLayer>& layers, DType dtype);
    [[nodiscard]] RecurrentState clone() const;

    // A step of a layer, from the state after `first` tokens on; ops::recurrence says the rest.
    void step(const Exec& exec, std::size_t layer, std::int64_t first, View keep, View take,
              View out);
    // Least count of tokens to go back to (besides 0) when `written` have been seen since the
    // start.
    [[nodiscard]] std::int64_t rollback_floor(std::int64_t written) const noexcept;

    // The state of a layer after `tokens` tokens, for files.
    [[nodiscard]] std::span<std::byte> state(std::size_t layer, std::int64_t tokens) const noexcept;
    [[nodiscard]] std::size_t layers() const noexcept { return layers_.size(); }
    [[nodiscard]] std::uint64_t bytes() const noexcept;
    [[nodiscard]] static std::uint64_t predict_bytes(const std::vector<RecurrentLayer>& layers,
                                                     DType dtype);

  private:
    struct Layer {
        std::size_t offset = 0;  // bytes
        std::int64_t channels = 0;
    };
    [[nodiscard]] View view(std::size_t layer, std::int64_t tokens) const noexcept;

    DType dtype_ = DType::kF32;
    std::vector<Layer> layers_;
    Buffer memory_;
};

}  // namespace thimble
