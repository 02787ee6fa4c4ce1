// SPDX-License-Identifier: Apache-2.0
#include "codec/exponent_coder.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/prefix_code.h"

namespace thimble {
namespace {

using Code = ExponentCode;

// A stream as it grows.
struct Stream {
    std::uint16_t* words = nullptr;
    std::size_t count = 0, taken = 0;
    std::uint32_t held = 0;  // its low `bits` are no word yet; old ones are above them
    int bits = 0;

    void add(std::uint32_t code, int length) {
        held = held << length | code;
        bits += length;
        if (bits < Code::kWordBits) return;
        bits -= Code::kWordBits;
        words[count++] = static_cast<std::uint16_t>(held >> bits);
    }
    [[nodiscard]] std::uint16_t next() { return taken < count ? words[taken++] : 0; }
};
// Words of a stream of the longest codes, and what ends it.
constexpr std::size_t kStreamWords =
    std::size_t{Code::kChunk} / Code::kStreams * Code::kLongest / Code::kWordBits + 1;

}  // namespace

void count_exponents(std::span<const std::uint16_t> numbers, ExponentCounts& counts) noexcept {
    // Equal exponents follow each other: four tables, so that sums do not wait for one another.
    std::array<std::array<std::uint32_t, 256>, 4> parts{};
    for (std::size_t first = 0; first < numbers.size(); first += std::size_t{1} << 30) {
        const std::size_t end = std::min(numbers.size(), first + (std::size_t{1} << 30));
        for (auto& part : parts) part.fill(0);
        for (std::size_t i = first; i < end; ++i) ++parts[i % 4][exponent_of_bf16(numbers[i])];
        for (const auto& part : parts)
            for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += part[e];
    }
}

double entropy_bits(const ExponentCounts& counts) noexcept {
    const auto total =
        static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}));
    double bits = 0;
    for (const std::uint64_t count : counts) {
        if (count == 0) continue;
        const double share = static_cast<double>(count) / total;
        bits -= share * std::log2(share);
    }
    return bits;
}

ExponentCode best_code(const ExponentCounts& counts) {
    std::array<std::uint8_t, 256> order;
    std::iota(order.begin(), order.end(), std::uint8_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint8_t a, std::uint8_t b) { return counts[a] > counts[b]; });
    ExponentCode best;
    std::uint64_t least = UINT64_MAX;
    for (std::size_t kept = 1; kept < Code::kSymbols; ++kept) {
        std::vector<std::uint64_t> of_symbol(Code::kSymbols, 0);
        for (std::size_t i = 0; i < order.size(); ++i)
            of_symbol[i < kept ? i : std::size_t{Code::kEscape}] += counts[order[i]];
        const std::vector<int> lengths = code_lengths(of_symbol, Code::kLongest);
        std::uint64_t bits = 8 * of_symbol[Code::kEscape];
        for (std::size_t s = 0; s < lengths.size(); ++s)
            bits += of_symbol[s] * static_cast<std::uint64_t>(lengths[s]);
        if (bits >= least) continue;
        least = bits;
        best = {};
        for (std::size_t s = 0; s < lengths.size(); ++s) {
            best.lengths[s] = static_cast<std::uint8_t>(lengths[s]);
            if (s < kept && lengths[s] > 0) best.exponents[s] = order[s];
        }
    }
    return best;
}

ExponentCoder::ExponentCoder(const ExponentCode& code) {
    symbols_.fill(Code::kEscape);
    for (int s = 0; s < Code::kEscape; ++s)
        if (code.lengths[s] > 0) symbols_[code.exponents[s]] = static_cast<std::uint8_t>(s);
    code.codes(codes_.data());
    std::copy(std::begin(code.lengths), std::end(code.lengths), lengths_.begin());
}

void ExponentCoder::encode(std::span<const std::uint16_t> numbers,
                           std::vector<std::uint16_t>& words) const {
    std::vector<std::uint16_t> room(Code::kStreams * kStreamWords);
    std::array<Stream, Code::kStreams> streams{};
    for (std::size_t l = 0; l < streams.size(); ++l) streams[l].words = &room[l * kStreamWords];
    std::vector<std::uint8_t> symbols(numbers.size()), escaped;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        const std::uint8_t exponent = exponent_of_bf16(numbers[i]);
        const std::uint8_t s = symbols[i] = symbols_[exponent];
        if (s == Code::kEscape) escaped.push_back(exponent);
        streams[i % Code::kStreams].add(codes_[s], lengths_[s]);
    }
    for (Stream& stream : streams)
        if (stream.bits > 0) stream.add(0, Code::kWordBits - stream.bits);
    words.assign(1, static_cast<std::uint16_t>(escaped.size()));
    for (std::size_t i = 0; i < escaped.size(); i += 2) {
        const unsigned second = i + 1 < escaped.size() ? escaped[i + 1] : 0u;
        words.push_back(static_cast<std::uint16_t>(escaped[i] | second << 8));
    }
    // As the reader wants them.
    std::array<int, Code::kStreams> bits{};
    for (std::size_t first = 0; first < numbers.size(); first += Code::kStep) {
        for (std::size_t l = 0; l < bits.size(); ++l) {
            if (bits[l] >= Code::kWordBits) continue;
            words.push_back(streams[l].next());
            bits[l] += Code::kWordBits;
        }
        // Past the last number the reader takes codes, too, of zeros.
        for (std::size_t k = 0; k < Code::kStep && first + k < numbers.size(); ++k)
            bits[k % bits.size()] -= lengths_[symbols[first + k]];
    }
}

}  // namespace thimble
