// SPDX-License-Identifier: Apache-2.0
#include "codec/dfloat11.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "codec/prefix_code.h"

namespace thimble {
namespace {

constexpr int kThreadBits = 8 * Dfloat11::kThreadBytes;
constexpr std::size_t kMostTables = 256 - Dfloat11::kJump + 1;  // the first is never jumped to

// The 32 bits from `bit` on, zeros past the end.
std::uint32_t window_at(std::span<const std::uint8_t> bytes, std::uint64_t bit) {
    const auto first = static_cast<std::size_t>(bit / 8);
    std::uint64_t window = 0;
    if (bytes.size() - first >= sizeof window) {
        std::memcpy(&window, bytes.data() + first, sizeof window);
        window = __builtin_bswap64(window);
    } else {
        for (std::size_t i = first; i < first + sizeof window; ++i)
            window = window << 8 | (i < bytes.size() ? bytes[i] : 0u);
    }
    return static_cast<std::uint32_t>(window >> (32 - bit % 8));
}

}  // namespace

std::optional<Dfloat11Code> Dfloat11Code::best(const ExponentCounts& counts) {
    for (std::size_t e = Dfloat11::kJump; e < counts.size(); ++e)
        if (counts[e] > 0) return std::nullopt;
    const std::vector<int> lengths = code_lengths(counts, Dfloat11::kLongest);
    Dfloat11Code code;
    std::uint64_t next = 0;
    for (int length = 1; length <= Dfloat11::kLongest; ++length) {
        next <<= 1;
        for (std::size_t e = 0; e < lengths.size(); ++e) {
            if (lengths[e] != length) continue;
            code.codes_[e] = static_cast<std::uint32_t>(next++);
            code.lengths_[e] = static_cast<std::uint8_t>(length);
        }
    }
    if (!code.make_luts()) return std::nullopt;
    return code;
}

// False where there are more tables than a byte can name.
bool Dfloat11Code::make_luts() {
    // Tables by what comes before their byte: shorter ones first, each in the order of the codes.
    std::map<std::pair<int, std::uint32_t>, std::size_t> tables = {{{0, 0}, 0}};
    for (std::size_t e = 0; e < lengths_.size(); ++e) {
        for (int bits = 8; bits < lengths_[e]; bits += 8)
            tables.try_emplace({bits, codes_[e] >> (lengths_[e] - bits)});
    }
    if (tables.size() > kMostTables) return false;
    std::size_t place = 0;
    for (auto& [prefix, table] : tables) table = place++;
    luts_.assign((tables.size() + 1) * 256, 0);
    for (std::size_t e = 0; e < lengths_.size(); ++e) {
        const int length = lengths_[e];
        if (length == 0) continue;
        luts_[tables.size() * 256 + e] = static_cast<std::uint8_t>(length);
        int bits = 0;  // above this table's byte
        for (; length - bits > 8; bits += 8) {
            const auto above = bits == 0 ? 0 : codes_[e] >> (length - bits);
            const std::uint32_t below = codes_[e] >> (length - bits - 8);
            luts_[tables.at({bits, above}) * 256 + (below & 255)] =
                static_cast<std::uint8_t>(256 - tables.at({bits + 8, below}));
        }
        const auto above = bits == 0 ? 0 : codes_[e] >> (length - bits);
        const int free = 8 - (length - bits);
        std::uint8_t* first = &luts_[tables.at({bits, above}) * 256 + ((codes_[e] << free) & 255)];
        std::fill_n(first, 1 << free, static_cast<std::uint8_t>(e));
        // A code alone leaves half of its table, and every byte must say something.
        if (std::count(lengths_.begin(), lengths_.end(), 0) == 255) std::fill_n(first, 256, *first);
    }
    return true;
}

std::uint64_t Dfloat11Code::bytes(const ExponentCounts& counts) const noexcept {
    std::uint64_t bits = 0;
    for (std::size_t e = 0; e < counts.size(); ++e) bits += counts[e] * lengths_[e];
    return (bits + 7) / 8;
}

void Dfloat11Encoder::encode(std::span<const std::uint16_t> numbers,
                             std::vector<std::uint8_t>& bytes) {
    for (const std::uint16_t number : numbers) {
        const std::uint8_t exponent = exponent_of_bf16(number);
        if (bits_ / kThreadBits >= threads_) {  // codes are shorter than what a thread reads
            const std::uint64_t bit = threads_ * 5;
            gaps_.resize(static_cast<std::size_t>((bit + 5 + 7) / 8));
            const auto value = static_cast<unsigned>(bits_ % kThreadBits) << 11;
            const unsigned placed = value >> bit % 8;
            const auto at = static_cast<std::size_t>(bit / 8);
            gaps_[at] = static_cast<std::uint8_t>(gaps_[at] | placed >> 8);
            if ((placed & 255) != 0) gaps_[at + 1] = static_cast<std::uint8_t>(placed);
            if (threads_ % Dfloat11::kThreads == 0)
                positions_.push_back(static_cast<std::uint32_t>(numbers_));
            ++threads_;
        }
        const int length = code_.lengths_[exponent];
        held_ = held_ << length | code_.codes_[exponent];
        held_bits_ += length;
        bits_ += static_cast<std::uint64_t>(length);
        ++numbers_;
        while (held_bits_ >= 8) {
            held_bits_ -= 8;
            bytes.push_back(static_cast<std::uint8_t>(held_ >> held_bits_));
        }
    }
}

void Dfloat11Encoder::finish(std::vector<std::uint8_t>& bytes) {
    if (held_bits_ > 0) bytes.push_back(static_cast<std::uint8_t>(held_ << (8 - held_bits_)));
    held_bits_ = 0;
    const std::uint64_t all = (bits_ + 7) / 8;
    gaps_.resize(static_cast<std::size_t>(Dfloat11::gap_bytes(all)));
    positions_.resize(static_cast<std::size_t>(Dfloat11::blocks(all)),
                      static_cast<std::uint32_t>(numbers_));
    positions_.push_back(static_cast<std::uint32_t>(numbers_));
}

std::string Dfloat11Decoder::problem(std::uint64_t numbers) const {
    const std::size_t tables = p_.luts.size() / 256;
    if (p_.luts.size() % 256 != 0 || tables < 2 || tables > kMostTables + 1)
        return "has no luts of 256 entries";
    for (const std::uint8_t entry : p_.luts.first((tables - 1) * 256))
        if (entry >= Dfloat11::kJump && 256u - entry >= tables - 1)
            return "has luts that lead to none";
    if (p_.gaps.size() < Dfloat11::gap_bytes(p_.codes.size())) return "has too few gaps";
    if (p_.positions.size() != Dfloat11::blocks(p_.codes.size()) + 1)
        return "has another count of output_positions than blocks";
    if (p_.positions.front() != 0 || p_.positions.back() != numbers ||
        !std::is_sorted(p_.positions.begin(), p_.positions.end()))
        return "has output_positions that do not rise to the count of weights";
    return {};
}

std::uint64_t Dfloat11Decoder::gap(std::uint64_t thread) const noexcept {
    const std::uint64_t bit = thread * 5;
    const auto at = static_cast<std::size_t>(bit / 8);
    unsigned pair = static_cast<unsigned>(p_.gaps[at]) << 8;
    if (at + 1 < p_.gaps.size()) pair |= p_.gaps[at + 1];
    return pair >> (11 - bit % 8) & 31;
}

bool Dfloat11Decoder::decode(std::int64_t b, std::uint8_t* exponents) const {
    const auto block = static_cast<std::uint64_t>(b);
    const std::uint64_t bits = 8 * p_.codes.size(), block_bits = 8 * Dfloat11::kBlockBytes;
    const auto* const lengths = &p_.luts[p_.luts.size() - 256];
    std::uint64_t at = block * block_bits + gap(block * Dfloat11::kThreads);
    const std::uint32_t count = p_.positions[block + 1] - p_.positions[block];
    for (std::uint32_t i = 0; i < count; ++i) {
        if (at >= bits) return false;
        const std::uint32_t window = window_at(p_.codes, at);
        std::uint8_t found = p_.luts[window >> 24];
        for (int level = 1; level < 4 && found >= Dfloat11::kJump; ++level)
            found = p_.luts[256u * (256u - found) + (window >> (24 - 8 * level) & 255)];
        const std::uint8_t length = lengths[found];
        if (found >= Dfloat11::kJump || length == 0 || length > Dfloat11::kLongest) return false;
        exponents[i] = found;
        at += length;
    }
    if (b + 1 < blocks())
        return p_.positions[block + 1] == p_.positions.back() ||
               at == (block + 1) * block_bits + gap((block + 1) * Dfloat11::kThreads);
    return at <= bits && bits - at < 8;
}

}  // namespace thimble
