// SPDX-License-Identifier: Apache-2.0
// Numbers whose exponents are coded, back to bfloat16 (kernels/layout/exponent_code.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "format/packed.h"
#include "kernels/cuda/stream.h"
#include "kernels/layout/exponent_code.h"
#include "kernels/layout/isa.h"

namespace thimble::cpu {
struct DecodeExponents;
}

namespace thimble::ops {

// Of one code; the same bits on every level.
class ExponentDecoder {
  public:
    // `code` is sound().
    ExponentDecoder(const ExponentCode& code, Isa isa);
    // A chunk of rest.size() <= kChunk numbers into `out`. Memory up to `readable_end`, at or
    // behind the words' end, may be read; where it ends near them that costs speed. False when the
    // words are damaged; nothing outside them is then read either, and `out` holds anything.
    [[nodiscard]] bool decode(std::span<const std::uint16_t> words,
                              const std::uint16_t* readable_end, std::span<const std::uint8_t> rest,
                              std::span<std::uint16_t> out) const;
    struct Chunk {
        std::span<const std::uint16_t> words;
        std::span<const std::uint8_t> rest;
        std::uint16_t* out;
    };
    // Two at once.
    [[nodiscard]] bool decode(const Chunk& one, const Chunk& other,
                              const std::uint16_t* readable_end) const;
    [[nodiscard]] const ExponentCode& code() const noexcept { return code_; }

  private:
    [[nodiscard]] cpu::DecodeExponents problem(const Chunk& chunk,
                                               const std::uint16_t* readable_end,
                                               bool& sound) const noexcept;
    ExponentCode code_;
    std::array<std::uint8_t, ExponentCode::kTable> table_{};
    Isa isa_;
};

// A strip's codes.
struct CodedStrip {
    const std::uint16_t *words, *readable_end;
    const std::uint8_t* rest;
    const std::uint32_t* starts;  // of its chunks' words and their end; words begin at the first
};
// Its numbers, in their coded order, into `out`; false when they are damaged.
[[nodiscard]] bool decode_strip(const ExponentDecoder& decoder, const ExponentChunks& chunks,
                                std::int64_t strip, const CodedStrip& from, std::uint16_t* out);

// A whole matrix in memory, which is decoded strip by strip as it is wanted. Borrows its bytes.
class CodedMatrix {
  public:
    CodedMatrix(const ExponentCode& code, const ExponentChunks& chunks, const CodedStrip& all,
                Isa isa)
        : decoder_(code, isa), chunks_(chunks), all_(all) {}
    [[nodiscard]] const ExponentChunks& chunks() const noexcept { return chunks_; }
    [[nodiscard]] const ExponentCode& code() const noexcept { return decoder_.code(); }
    [[nodiscard]] const CodedStrip& all() const noexcept { return all_; }
    // Room for a strip in either form.
    [[nodiscard]] std::size_t strip_bytes() const noexcept;
    // Groups of 16 rows of `count` strips as LayoutId::k_bf16_x16 has them, into `out`, where whole
    // strips lie strip_bytes() apart; false when they are damaged. strips_at_once() are fastest.
    [[nodiscard]] bool decode_groups(std::int64_t strip, std::int64_t count,
                                     std::uint16_t* out) const;
    [[nodiscard]] std::int64_t strips_at_once() const noexcept {
        return chunks_.chunks_of_strip() == 1 ? 2 : 1;
    }
    // Rows one after the other into `out`; Error(kFailure) when they are damaged.
    void decode_rows(RowRange rows, std::uint16_t* out) const;

  private:
    [[nodiscard]] CodedStrip strip(std::int64_t s) const noexcept;
    [[nodiscard]] ExponentDecoder::Chunk chunk(std::int64_t strip, std::int64_t c,
                                               std::uint16_t* out) const;

    ExponentDecoder decoder_;
    ExponentChunks chunks_;
    CodedStrip all_;
};

// The same in device memory, where `words` begins the matrix's.
struct DeviceCodes {
    ExponentChunks chunks;
    const std::uint8_t *table, *exponents;  // of the code
    CodedStrip all;
    std::int32_t* damaged;  // becomes 1 where the words are
};
// Queues the decoding of all rows, one after the other, into `out`; throws cuda::Failure.
void decode_on_device(cuda::Stream& stream, const DeviceCodes& from, std::uint16_t* out);

}  // namespace thimble::ops
