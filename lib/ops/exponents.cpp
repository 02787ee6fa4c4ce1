// SPDX-License-Identifier: Apache-2.0
#include "ops/exponents.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "ops/dispatch.h"

namespace thimble::ops {

ExponentDecoder::ExponentDecoder(const ExponentCode& code, Isa isa) : code_(code), isa_(isa) {
    if (!code.sound()) throw Error(Exit::kFailure, "ExponentDecoder", "the code is not complete");
    code_.table(table_.data());
}

bool ExponentDecoder::decode(std::span<const std::uint16_t> words,
                             const std::uint16_t* readable_end, std::span<const std::uint8_t> rest,
                             std::span<std::uint16_t> out) const {
    bool sound = false;
    kernels(isa_).decode_exponents(problem({words, rest, out.data()}, readable_end, sound));
    return sound;
}

bool ExponentDecoder::decode(const Chunk& one, const Chunk& other,
                             const std::uint16_t* readable_end) const {
    bool sound = false, other_sound = false;
    const cpu::DecodeExponents with = problem(other, readable_end, other_sound);
    cpu::DecodeExponents both = problem(one, readable_end, sound);
    both.with = &with;
    kernels(isa_).decode_exponents(both);
    return sound && other_sound;
}

cpu::DecodeExponents ExponentDecoder::problem(const Chunk& chunk, const std::uint16_t* readable_end,
                                              bool& sound) const noexcept {
    return {table_.data(),
            code_.exponents,
            chunk.words.data(),
            chunk.words.data() + chunk.words.size(),
            readable_end,
            chunk.rest.data(),
            static_cast<std::int64_t>(chunk.rest.size()),
            chunk.out,
            &sound};
}

bool decode_strip(const ExponentDecoder& decoder, const ExponentChunks& chunks, std::int64_t strip,
                  const CodedStrip& from, std::uint16_t* out) {
    for (std::int64_t c = 0; c < chunks.chunks_of_strip(); ++c) {
        const std::int64_t at = chunks.start(strip, c);
        const auto count = static_cast<std::size_t>(chunks.start(strip, c + 1) - at);
        const std::uint16_t* words = from.words + (from.starts[c] - from.starts[0]);
        const std::size_t size = from.starts[c + 1] - from.starts[c];
        if (!decoder.decode({words, size}, from.readable_end, {from.rest + at, count},
                            {out + at, count}))
            return false;
    }
    return true;
}

CodedStrip CodedMatrix::strip(std::int64_t s) const noexcept {
    CodedStrip one = all_;
    one.starts += s * chunks_.chunks_of_strip();
    one.words += one.starts[0] - all_.starts[0];
    one.rest += s * chunks_.strip_numbers();
    return one;
}

std::size_t CodedMatrix::strip_bytes() const noexcept {
    const std::int64_t groups =
        (chunks_.strip_rows() + ExponentChunks::kGroup - 1) / ExponentChunks::kGroup;
    return sizeof(std::uint16_t) *
           static_cast<std::size_t>(groups * ExponentChunks::kGroup * chunks_.cols);
}

ExponentDecoder::Chunk CodedMatrix::chunk(std::int64_t s, std::int64_t c,
                                          std::uint16_t* out) const {
    const CodedStrip from = strip(s);
    const std::int64_t at = chunks_.start(s, c);
    const auto count = static_cast<std::size_t>(chunks_.start(s, c + 1) - at);
    return {{from.words + (from.starts[c] - from.starts[0]), from.starts[c + 1] - from.starts[c]},
            {from.rest + at, count},
            out + at};
}

bool CodedMatrix::decode_groups(std::int64_t strip, std::int64_t count, std::uint16_t* out) const {
    const std::int64_t parts = chunks_.chunks_of_strip(), all = count * parts;
    const auto room = static_cast<std::int64_t>(strip_bytes() / sizeof *out);
    const auto at = [&](std::int64_t i) {
        return chunk(strip + i / parts, i % parts, out + i / parts * room);
    };
    for (std::int64_t i = 0; i < all; i += 2) {
        const bool sound = i + 1 < all ? decoder_.decode(at(i), at(i + 1), all_.readable_end)
                                       : decoder_.decode(at(i).words, all_.readable_end, at(i).rest,
                                                         {at(i).out, at(i).rest.size()});
        if (!sound) return false;
    }
    // Only the last strip's last group may be smaller.
    const std::int64_t s = strip + count - 1;
    out += (count - 1) * room;
    const std::int64_t rows = chunks_.rows_of(s), left = rows % ExponentChunks::kGroup;
    if (left == 0) return true;
    // Rows that pad the last group are zero.
    std::uint16_t* group = out + (rows - left) * chunks_.cols;
    for (std::int64_t k = chunks_.cols; k-- > 0;) {
        std::uint16_t* to = group + k * ExponentChunks::kGroup;
        std::memmove(to, group + k * left, static_cast<std::size_t>(left) * sizeof *to);
        std::fill(to + left, to + ExponentChunks::kGroup, std::uint16_t{0});
    }
    return true;
}

void CodedMatrix::decode_rows(RowRange rows, std::uint16_t* out) const {
    std::vector<std::uint16_t> numbers(strip_bytes() / sizeof(std::uint16_t));
    const std::int64_t end = rows.first + rows.count, step = chunks_.strip_rows();
    for (std::int64_t s = rows.first / step; s * step < end; ++s) {
        if (!decode_strip(decoder_, chunks_, s, strip(s), numbers.data()))
            throw Error(Exit::kFailure, "decode_rows", "coded weights were damaged in memory");
        const std::int64_t first = std::max(rows.first, s * step),
                           last = std::min(end, (s + 1) * step);
        chunks_.unweave(s, first - s * step, last - s * step, numbers.data(),
                        out + (first - rows.first) * chunks_.cols);
    }
}

}  // namespace thimble::ops
