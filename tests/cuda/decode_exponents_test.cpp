// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "codec/exponent_coder.h"
#include "harness.h"
#include "kernels/layout/half.h"

namespace thimble::cuda_test {

namespace {

struct Coded {
    Coded(std::int64_t rows, std::int64_t cols, std::uint32_t seed) : chunks{rows, cols} {
        for (const float x : values(static_cast<std::size_t>(rows * cols), seed, 0.02f))
            numbers.push_back(static_cast<std::uint16_t>(float_to_bits(x) >> 16));
        // Some exponents without a code.
        for (std::size_t i = 0; i < numbers.size(); i += 611)
            numbers[i] = static_cast<std::uint16_t>((i * 7) % 65536);
        ExponentCounts counts{};
        count_exponents(numbers, counts);
        code = best_code(counts);
        const ExponentCoder coder(code);
        std::vector<std::uint16_t> woven(static_cast<std::size_t>(chunks.strip_numbers())), some;
        for (std::int64_t s = 0; s < chunks.strips(); ++s) {
            chunks.weave(s, numbers.data() + s * chunks.strip_numbers(), woven.data());
            for (std::int64_t c = 0; c < chunks.chunks_of_strip(); ++c) {
                const auto from = static_cast<std::size_t>(chunks.start(s, c));
                const auto until = static_cast<std::size_t>(chunks.start(s, c + 1));
                const auto part = std::span(woven).subspan(from, until - from);
                coder.encode(part, some);
                words.insert(words.end(), some.begin(), some.end());
                starts.push_back(static_cast<std::uint32_t>(words.size()));
                for (const std::uint16_t x : part) rest.push_back(rest_of_bf16(x));
            }
        }
    }
    // Strips [first, end), as the device decodes them; empty where it tells of damage.
    [[nodiscard]] std::vector<float> decode(std::int64_t first, std::int64_t end) const {
        const std::int64_t parts = chunks.chunks_of_strip();
        const std::int64_t number = first * chunks.strip_numbers();
        const std::int64_t last = std::min(end * chunks.strip_numbers(), chunks.numbers());
        const std::uint32_t from = starts[static_cast<std::size_t>(first * parts)];
        const std::uint32_t until = starts[static_cast<std::size_t>(end * parts)];
        std::vector<std::uint8_t> table(ExponentCode::kTable);
        code.table(table.data());
        const auto piece = [](const auto& all, std::int64_t b, std::int64_t e) {
            return std::vector(all.begin() + b, all.begin() + e);
        };
        const Array<std::uint8_t> dtable(table), drest(piece(rest, number, last)),
            dexponents(std::vector(std::begin(code.exponents), std::end(code.exponents)));
        const Array<std::uint16_t> dwords(piece(words, from, until)),
            out(static_cast<std::size_t>(last - number));
        const Array<std::uint32_t> dstarts(piece(starts, first * parts, end * parts + 1));
        const Array<std::int32_t> damaged(std::vector<std::int32_t>{0});
        cuda::DecodeExponents p{};
        p.chunks = chunks;
        p.first_chunk = first * parts, p.end_chunk = end * parts;
        p.table = dtable.data(), p.exponents = dexponents.data();
        p.words = dwords.data(), p.rest = drest.data(), p.starts = dstarts.data();
        p.out = out.data(), p.damaged = damaged.data();
        REQUIRE(cuda::supports_decode_exponents(p));
        cuda::decode_exponents(p, stream());
        const auto bits = out.get();
        if (damaged.get()[0] != 0) return {};
        return {bits.begin(), bits.end()};
    }
    ExponentChunks chunks;
    ExponentCode code;
    std::vector<std::uint16_t> numbers, words;
    std::vector<std::uint32_t> starts = {0};
    std::vector<std::uint8_t> rest;
};

}  // namespace

void check_decode_exponents() {
    for (const auto& [rows, cols] : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 40}, {16, 64}, {37, 576}, {150, 576}, {21, 4096}, {3, 20000}}) {
        CAPTURE(rows);
        CAPTURE(cols);
        const Coded coded(rows, cols, static_cast<std::uint32_t>(rows));
        const std::int64_t strips = coded.chunks.strips();
        for (const auto& [first, end] : std::vector<std::pair<std::int64_t, std::int64_t>>{
                 {0, strips}, {strips / 2, strips}}) {
            const auto got =
                run_all_orders([&, &f = first, &e = end] { return coded.decode(f, e); });
            const std::int64_t number = first * coded.chunks.strip_numbers();
            const std::vector<float> want(coded.numbers.begin() + number, coded.numbers.end());
            REQUIRE(got == want);
        }
    }
    // Changed words are told, or lead to no harm.
    const Coded whole(48, 576, 9);
    int told = 0;
    for (std::size_t at = 0; at < whole.words.size(); at += whole.words.size() / 16) {
        Coded changed = whole;
        changed.words[at] ^= 0x1248;
        told += changed.decode(0, changed.chunks.strips()).empty();
    }
    CHECK(told > 3);
    cuda::DecodeExponents none{};
    none.end_chunk = 2;  // of one
    CHECK_FALSE(cuda::supports_decode_exponents(none));
}

}  // namespace thimble::cuda_test
