// SPDX-License-Identifier: Apache-2.0
// The codes of DFloat11 as its authors store them ("70% Size, 100% Accuracy: Lossless LLM
// Compression for Efficient GPU Inference via Dynamic-Length Float (DFloat11)", 2025): exponents of
// bfloat16 as prefix codes of at most 32 bits, one after the other, the first bit in a byte's top
// bit. For parallel readers:
//   luts              tables of 256: of a byte the exponent, or from 240 on, 256 - the table for
//   the
//                     byte after it; the last has each exponent's bits
//   gaps              of every 8 bytes, 5 bits: where the first code begins in them; the first on
//   top output_positions  of every 4096 bytes the number whose code begins there first; then the
//   count
// differs: code lengths are the best that 32 bits allow (prefix_code.h), codes canonical, and the
// last byte ends in zeros, where the authors write the beginning of a code for the end.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/exponent_coder.h"

namespace thimble {

struct Dfloat11 {
    static constexpr int kThreadBytes = 8, kThreads = 512, kLongest = 32, kJump = 240;
    static constexpr std::uint64_t kBlockBytes = std::uint64_t{kThreadBytes} * kThreads;
    [[nodiscard]] static constexpr std::uint64_t blocks(std::uint64_t bytes) noexcept {
        return (bytes + kBlockBytes - 1) / kBlockBytes;
    }
    [[nodiscard]] static constexpr std::uint64_t gap_bytes(std::uint64_t bytes) noexcept {
        return blocks(bytes) * kThreads * 5 / 8;
    }
};

class Dfloat11Code {
  public:
    // Of at least one exponent; nullopt where the tables cannot hold them: from 240 on, or too many
    // long codes.
    [[nodiscard]] static std::optional<Dfloat11Code> best(const ExponentCounts& counts);
    [[nodiscard]] const std::vector<std::uint8_t>& luts() const noexcept { return luts_; }
    [[nodiscard]] std::uint64_t bytes(const ExponentCounts& counts) const noexcept;

  private:
    friend class Dfloat11Encoder;
    bool make_luts();
    std::array<std::uint32_t, 256> codes_{};
    std::array<std::uint8_t, 256> lengths_{};
    std::vector<std::uint8_t> luts_;
};

class Dfloat11Encoder {
  public:
    explicit Dfloat11Encoder(const Dfloat11Code& code) : code_(code) {}
    // Numbers go on where the last ended; whole bytes are appended.
    void encode(std::span<const std::uint16_t> numbers, std::vector<std::uint8_t>& bytes);
    // The last byte; then gaps() and output_positions() are whole.
    void finish(std::vector<std::uint8_t>& bytes);
    [[nodiscard]] const std::vector<std::uint8_t>& gaps() const noexcept { return gaps_; }
    [[nodiscard]] const std::vector<std::uint32_t>& output_positions() const noexcept {
        return positions_;
    }

  private:
    const Dfloat11Code& code_;
    std::uint64_t held_ = 0, bits_ = 0, numbers_ = 0;  // bits: in all
    int held_bits_ = 0;
    std::uint64_t threads_ = 0;  // whose gap is known
    std::vector<std::uint8_t> gaps_;
    std::vector<std::uint32_t> positions_;
};

// Blocks of codes, each for itself.
class Dfloat11Decoder {
  public:
    struct Parts {
        std::span<const std::uint8_t> luts, codes, gaps;
        std::span<const std::uint32_t> positions;
    };
    explicit Dfloat11Decoder(const Parts& parts) : p_(parts) {}
    // What does not fit together, for `numbers` of them; empty: all does. To be asked first.
    [[nodiscard]] std::string problem(std::uint64_t numbers) const;
    [[nodiscard]] std::int64_t blocks() const noexcept { return std::ssize(p_.positions) - 1; }
    // The exponents of block `b`, positions[b + 1] - positions[b] of them; false where the codes do
    // not end where the next block's begin.
    [[nodiscard]] bool decode(std::int64_t b, std::uint8_t* exponents) const;

  private:
    [[nodiscard]] std::uint64_t gap(std::uint64_t thread) const noexcept;
    Parts p_;
};

}  // namespace thimble
