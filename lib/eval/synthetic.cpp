// SPDX-License-Identifier: Apache-2.0
#include "eval/synthetic.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>

#include "core/error.h"
#include "kernels/layout/rng.h"

namespace thimble::eval {
namespace {

constexpr std::int64_t kMostLength = std::int64_t{1} << 24;
constexpr std::int64_t kSentencesPerLine = 6;

constexpr std::array<const char*, 32> kAdjectives = {
    "quiet",  "old",   "green",  "small",  "bright", "heavy", "young",  "tall",
    "narrow", "plain", "warm",   "pale",   "busy",   "round", "slow",   "clever",
    "empty",  "loud",  "gentle", "broken", "clean",  "dark",  "early",  "famous",
    "grey",   "happy", "light",  "modern", "proud",  "rough", "simple", "wide"};
constexpr std::array<const char*, 32> kPeople = {
    "baker",   "sailor", "teacher",  "farmer",  "painter", "doctor", "singer",  "miller",
    "student", "clerk",  "hunter",   "tailor",  "driver",  "nurse",  "mason",   "judge",
    "porter",  "writer", "gardener", "captain", "weaver",  "smith",  "guard",   "cook",
    "pilot",   "dancer", "barber",   "printer", "potter",  "fisher", "plumber", "guide"};
constexpr std::array<const char*, 16> kVerbs = {
    "painted", "carried", "found",   "moved",    "watched", "repaired", "sold",   "borrowed",
    "cleaned", "counted", "dropped", "followed", "hid",     "measured", "opened", "wrapped"};
constexpr std::array<const char*, 32> kThings = {
    "door",   "basket", "lamp",   "table",  "letter", "bottle", "ladder", "carpet",
    "bell",   "chair",  "drum",   "mirror", "rope",   "kettle", "clock",  "boat",
    "pillow", "hammer", "candle", "bucket", "coat",   "flute",  "plate",  "wagon",
    "barrel", "button", "fence",  "glove",  "saddle", "shovel", "trunk",  "violin"};
constexpr std::array<const char*, 16> kPlaces = {
    "river", "market", "church", "bridge", "harbour", "mill",   "station", "forest",
    "well",  "castle", "school", "garden", "meadow",  "square", "tower",   "orchard"};
const std::array<std::string, 48> kCities = {
    "Lisbon",   "Oslo",     "Cairo",   "Quito",    "Hanoi",   "Turin",    "Denver",  "Kyoto",
    "Lagos",    "Malmo",    "Bergen",  "Havana",   "Nairobi", "Tallinn",  "Geneva",  "Perth",
    "Dakar",    "Porto",    "Seville", "Riga",     "Ankara",  "Boston",   "Leipzig", "Osaka",
    "Tunis",    "Zagreb",   "Warsaw",  "Vienna",   "Utrecht", "Toronto",  "Sofia",   "Santiago",
    "Rome",     "Prague",   "Paris",   "Munich",   "Madrid",  "London",   "Lima",    "Krakow",
    "Istanbul", "Helsinki", "Glasgow", "Florence", "Dublin",  "Budapest", "Athens",  "Amsterdam"};

template <std::size_t N>
std::string pick(const std::array<const char*, N>& words, std::uint32_t bits) {
    static_assert((N & (N - 1)) == 0);
    return words[bits % N];
}

}  // namespace

void SyntheticOptions::visit(OptionVisitor& v) {
    v.option({.name = "length",
              .help = "tokens of a text, within one sentence; repeated: one after another",
              .value = "N"},
             lengths);
    v.option({.name = "count", .help = "texts of each length and depth", .least = 1, .most = 1e6},
             count);
    v.option({.name = "seed", .help = "of the texts", .least = 0}, seed);
    context.visit(v);
}

std::vector<std::int64_t> lengths_of(const SyntheticOptions& options, std::string_view where) {
    std::vector<std::int64_t> out;
    for (const std::string& text : options.lengths) {
        std::int64_t length = 0;
        const auto read = std::from_chars(text.data(), text.data() + text.size(), length);
        const bool whole = read.ec == std::errc{} && read.ptr == text.data() + text.size();
        if (!whole || length < 1 || length > kMostLength) {
            throw Error(Exit::kUsage, std::string(where),
                        "length=" + escaped(text) + " is no number from 1 to " +
                            std::to_string(kMostLength));
        }
        if (std::find(out.begin(), out.end(), length) != out.end())
            throw Error(Exit::kUsage, std::string(where), "length=" + text + " is given twice");
        out.push_back(length);
    }
    return out;
}

std::uint64_t Draws::below(Purpose purpose, std::int64_t n, std::uint64_t bound) const {
    const auto counter = (static_cast<std::uint64_t>(n) << 8) | static_cast<std::uint64_t>(purpose);
    const Philox4 bits = philox(seed_, counter, text_);
    // The product's upper half: unbiased enough for bounds far below 2^64.
    const std::uint64_t wide = (static_cast<std::uint64_t>(bits.v[1]) << 32) | bits.v[0];
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(wide) * bound) >> 64);
}

std::vector<std::int64_t> Draws::order(std::int64_t n, std::int64_t count) const {
    std::vector<std::int64_t> out(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) out[static_cast<std::size_t>(i)] = i;
    for (std::int64_t i = count - 1; i > 0; --i) {
        const std::uint64_t j =
            below(Purpose::kOrder, (n << 24) | i, static_cast<std::uint64_t>(i) + 1);
        std::swap(out[static_cast<std::size_t>(i)], out[j]);
    }
    return out;
}

std::string filler_sentence(const Draws& draws, std::int64_t n) {
    const auto bits = draws.below(Draws::Purpose::kFiller, n, std::uint64_t{1} << 32);
    const auto at = [&](int shift) { return static_cast<std::uint32_t>(bits >> shift); };
    return "The " + pick(kAdjectives, at(0)) + " " + pick(kPeople, at(5)) + " " +
           pick(kVerbs, at(10)) + " the " + pick(kAdjectives, at(14)) + " " +
           pick(kThings, at(19)) + " near the " + pick(kPlaces, at(24)) + ".";
}

const std::string& city(std::int64_t n) { return kCities[static_cast<std::size_t>(n)]; }
std::int64_t city_count() noexcept { return std::ssize(kCities); }

std::string digits(const Draws& draws, std::int64_t n, int digits) {
    std::uint64_t low = 1;
    for (int i = 1; i < digits; ++i) low *= 10;
    return std::to_string(low + draws.below(Draws::Purpose::kValue, n, 9 * low));
}

std::string text_with(const Draws& draws, std::int64_t parts, std::vector<Inserted> sentences) {
    std::stable_sort(sentences.begin(), sentences.end(),
                     [](const Inserted& a, const Inserted& b) { return a.before < b.before; });
    std::string out;
    auto next = sentences.begin();
    for (std::int64_t n = 0; n <= parts; ++n) {
        const auto add = [&](const std::string& sentence) {
            if (!out.empty() && out.back() != '\n') out += ' ';
            out += sentence;
        };
        for (; next != sentences.end() && next->before <= n; ++next) add(next->sentence);
        if (n == parts) break;
        add(filler_sentence(draws, n));
        if (n % kSentencesPerLine == kSentencesPerLine - 1) out += '\n';
    }
    return out;
}

std::int64_t depth_of(std::int64_t n, std::int64_t count) {
    return count == 1 ? 50 : 100 * n / (count - 1);
}

std::int64_t fit_parts(const TextOfParts& text, const CountTokens& count, std::int64_t length,
                       std::int64_t least, std::string_view where) {
    // `low` fits and `high` does not; between them by the tokens that a part takes.
    std::int64_t low = least, high = 0;
    std::int64_t low_tokens = count(text(least));
    if (low_tokens > length) {
        throw Error(Exit::kUsage, std::string(where),
                    "length=" + std::to_string(length) + " is too short: the least text takes " +
                        std::to_string(low_tokens) + " tokens");
    }
    const std::int64_t more = count(text(least + 8)) - low_tokens;
    double per_part = std::max(static_cast<double>(more) / 8, 1.0);
    while (high == 0 || high - low > 1) {
        const double missing = static_cast<double>(length - low_tokens);
        std::int64_t next =
            low + std::max<std::int64_t>(static_cast<std::int64_t>(missing / per_part), 1);
        if (high > 0) next = std::min(next, high - 1);
        const std::int64_t tokens = count(text(next));
        if (tokens > length) {
            high = next;
            per_part = std::max(per_part, static_cast<double>(tokens - low_tokens) /
                                              static_cast<double>(next - low));
        } else {
            per_part = std::max(
                static_cast<double>(tokens - low_tokens) / static_cast<double>(next - low), 1.0);
            low = next;
            low_tokens = tokens;
        }
    }
    return low;
}

ContextItem pass_number_item(const SyntheticCase& one, std::span<const std::int64_t> depths) {
    const std::vector<std::int64_t> names = one.draws.order(0, city_count());
    const auto name = [&](std::int64_t i) { return city(names[static_cast<std::size_t>(i)]); };
    const auto number = [&](std::int64_t i) { return digits(one.draws, i, 7); };
    const auto text = [&](std::int64_t parts) {
        std::vector<Inserted> sentences;
        for (std::int64_t i = 0; i < std::ssize(depths); ++i) {
            sentences.push_back({place_of(depths[static_cast<std::size_t>(i)], parts),
                                 "The pass number of " + name(i) + " is " + number(i) + "."});
        }
        return "The text below gives the pass number of one city or several.\n\n" +
               text_with(one.draws, parts, std::move(sentences));
    };
    ContextItem item;
    item.text = text(fit_parts(text, one.count, one.length, 0, one.where));
    for (const std::int64_t i : one.draws.order(1, std::ssize(depths))) {
        item.turns.push_back(
            {.question = "What is the pass number of " + name(i) + "? Answer with the number only.",
             .gold = {{number(i)}},
             .most_tokens = 24,
             .depth = depths[static_cast<std::size_t>(i)]});
    }
    return item;
}

ContextSource synthetic_source(const SyntheticOptions& options, std::string kind,
                               std::int64_t depths, MakeItem make) {
    return [options, kind = std::move(kind), depths, make = std::move(make)](
               const CountTokens& count, const TakeContextItem& take) {
        const std::string where = "--task: " + kind;
        const std::vector<std::int64_t> lengths = lengths_of(options, where);
        std::int64_t text = 0;
        for (std::int64_t n = 0; n < options.count; ++n) {
            for (const std::int64_t length : lengths) {
                for (std::int64_t d = 0; d < depths; ++d) {
                    ContextItem item = make({.draws = Draws(options.seed, text++),
                                             .length = length,
                                             .depth = depth_of(d, depths),
                                             .count = count,
                                             .where = where});
                    item.length = length;
                    if (!take(item, where)) return;
                }
            }
        }
    };
}

}  // namespace thimble::eval
