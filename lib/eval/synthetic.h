// SPDX-License-Identifier: Apache-2.0
// Texts made of a seed alone, for tasks that ask about them, after "RULER: What's the Real Context
// Size of Your Long-Context Language Models?" (2024): sentences that say nothing, among them what
// is asked for. The same seed gives the same text on every machine, as far as a tokenizer decides
// where it ends.
// differs: the filler is made of word lists of our own instead of essays.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/context_task.h"

namespace thimble::eval {

// What all tasks of made texts have for options. A text is made for each repetition, length and
// depth, in this order from the outside, so that the first samples already cover the grid.
struct SyntheticOptions {
    std::vector<std::string> lengths = {"4096"};
    std::int64_t count = 10;
    std::int64_t seed = 1;
    ContextOptions context;
    void visit(OptionVisitor& v);
};
// Error(kUsage) naming `where`.
[[nodiscard]] std::vector<std::int64_t> lengths_of(const SyntheticOptions& options,
                                                   std::string_view where);

// Random numbers of one text: draw `n` of purpose `purpose`, whatever was drawn before.
class Draws {
  public:
    Draws(std::int64_t seed, std::int64_t text)
        : seed_(static_cast<std::uint64_t>(seed)), text_(static_cast<std::uint64_t>(text)) {}
    enum class Purpose : std::uint8_t { kFiller, kChoice, kValue, kOrder };
    // Below `bound`, which is at most 2^32.
    [[nodiscard]] std::uint64_t below(Purpose purpose, std::int64_t n, std::uint64_t bound) const;
    // 0 to count - 1 in random order.
    [[nodiscard]] std::vector<std::int64_t> order(std::int64_t n, std::int64_t count) const;

  private:
    std::uint64_t seed_, text_;
};

// "The quiet baker painted the wide door near the river."
[[nodiscard]] std::string filler_sentence(const Draws& draws, std::int64_t n);
// Names that things are told apart by: different ones for different n < city_count().
[[nodiscard]] const std::string& city(std::int64_t n);
[[nodiscard]] std::int64_t city_count() noexcept;
// `digits` digits, no 0 in front.
[[nodiscard]] std::string digits(const Draws& draws, std::int64_t n, int digits);

// A text of `parts` filler sentences with others put in: each before the filler sentence whose
// number it has (`parts`: after the last), in the order given where these are equal.
struct Inserted {
    std::int64_t before = 0;
    std::string sentence;
};
[[nodiscard]] std::string text_with(const Draws& draws, std::int64_t parts,
                                    std::vector<Inserted> sentences);
// Place of a depth among so many parts.
[[nodiscard]] constexpr std::int64_t place_of(std::int64_t depth_percent, std::int64_t parts) {
    return parts * depth_percent / 100;
}
// 0, 25, 50, 75, 100 for five; 50 for one.
[[nodiscard]] std::int64_t depth_of(std::int64_t n, std::int64_t count);

// The largest number of parts, `least` or more, with which the text stays within `length` tokens.
// Error(kUsage) naming `where` if there is none.
using TextOfParts = std::function<std::string(std::int64_t parts)>;
[[nodiscard]] std::int64_t fit_parts(const TextOfParts& text, const CountTokens& count,
                                     std::int64_t length, std::int64_t least,
                                     std::string_view where);

// A source that makes an item for each repetition, length and depth. `make`: of one.
struct SyntheticCase {
    Draws draws;
    std::int64_t length = 0, depth = 0;  // depth: percent
    const CountTokens& count;
    std::string where;
};
using MakeItem = std::function<ContextItem(const SyntheticCase& one)>;
[[nodiscard]] ContextSource synthetic_source(const SyntheticOptions& options, std::string kind,
                                             std::int64_t depths, MakeItem make);

// A text that gives the pass number of a city at each of these depths (percent), city_count() at
// most; the numbers are asked for one by one in random order.
[[nodiscard]] ContextItem pass_number_item(const SyntheticCase& one,
                                           std::span<const std::int64_t> depths);

// A leaf's TaskType of {kName, kHelp, Options with a SyntheticOptions `all`, static depths() and
// make()}.
template <class Leaf>
[[nodiscard]] std::unique_ptr<TaskType> make_synthetic_task_type() {
    return make_task_type<Leaf>([](const typename Leaf::Options& options) {
        return make_context_task({.kind = Leaf::kName,
                                  .common = options.all.context,
                                  .options = options_without_files(options)},
                                 synthetic_source(options.all, Leaf::kName, Leaf::depths(options),
                                                  [options](const SyntheticCase& one) {
                                                      return Leaf::make(options, one);
                                                  }));
    });
}

}  // namespace thimble::eval
