// SPDX-License-Identifier: Apache-2.0
// Codes the exponents of one tensor after the other (kernels/layout/exponent_code.h): a batch of
// whole strips at a time, on all threads.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/team.h"
#include "io/model_file.h"
#include "kernels/layout/exponent_code.h"
#include "kernels/layout/isa.h"
#include "model/coded_tensor.h"
#include "tensor/buffer.h"

namespace thimble {

// How a tensor's exponents are coded, if that makes it smaller.
struct CodedChoice {
    bool coded = false;
    bool low = false;  // whether there are low bits that are not zero
    ExponentCode code;
    std::vector<std::uint32_t> starts;
    double entropy_bits = 0;   // of a number: what is not coded, and the exponents' entropy
    std::uint64_t stored = 0;  // bytes of all planes
};

class TensorCoder {
  public:
    // Whether it may be coded: a matrix of floats of some size.
    [[nodiscard]] static bool takes(const TensorEntry& tensor) noexcept;
    // Bytes of it that are read at once, and what that takes in memory.
    [[nodiscard]] static std::size_t batch_bytes(const TensorEntry& tensor) noexcept;
    [[nodiscard]] static std::uint64_t memory_bytes(const TensorEntry& tensor) noexcept;

    // `most`: the largest batch_bytes() of those to come.
    TensorCoder(Team& team, Isa isa, std::size_t most)
        : team_(team), isa_(isa), memory_(most, Purpose::kIo) {}

    using Advance = std::function<bool(std::uint64_t bytes)>;  // read now; false stops
    using Put =
        std::function<void(CodedPlane plane, std::uint64_t at, std::span<const std::byte> bytes)>;
    // Both read the tensor, choose() up to twice. Every chunk is decoded again and compared before
    // it is put. False when `advance` stopped them.
    [[nodiscard]] bool choose(const ModelFile& file, const TensorEntry& tensor,
                              const Advance& advance, CodedChoice& choice);
    [[nodiscard]] bool write(const ModelFile& file, const TensorEntry& tensor,
                             const CodedChoice& choice, const Put& put, const Advance& advance);

  private:
    struct Batch {
        std::uint64_t first;  // number of the tensor
        std::span<const std::uint16_t> numbers;
        std::span<const std::uint8_t> low;
    };
    template <class Fn>
    bool each_batch(const ModelFile& file, const TensorEntry& tensor, const Advance& advance,
                    Fn&& fn);
    template <class Fn>
    std::span<const std::vector<std::uint16_t>> encode(const Batch& batch,
                                                       const ExponentChunks& chunks,
                                                       const ExponentCode& code, Fn&& also);

    Team& team_;
    Isa isa_;
    Buffer memory_;
    std::vector<std::uint16_t> numbers_;
    std::vector<std::uint8_t> low_;
    std::vector<std::vector<std::uint16_t>> words_;
};

}  // namespace thimble
