// SPDX-License-Identifier: Apache-2.0
// Several needles in one haystack: sentences that give the numbers of different cities stand from
// the beginning to the end of a text, and each number is asked for in a turn of its own, in random
// order.
#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

struct MultiNeedle {
    static constexpr const char* kName = "multi_needle";
    static constexpr const char* kHelp =
        "several numbers in one long text, each asked for in a turn of its own";
    struct Options {
        SyntheticOptions all;
        std::int64_t needles = 5;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option({.name = "needles",
                      .help = "numbers in a text",
                      .least = 1,
                      .most = static_cast<double>(city_count())},
                     needles);
        }
    };
    static std::int64_t depths(const Options&) { return 1; }

    static ContextItem make(const Options& options, const SyntheticCase& one) {
        const std::vector<std::int64_t> names = one.draws.order(0, city_count());
        const auto name = [&](std::int64_t i) { return city(names[static_cast<std::size_t>(i)]); };
        const auto depth = [&](std::int64_t i) { return depth_of(i, options.needles); };
        const auto text = [&](std::int64_t parts) {
            std::vector<Inserted> sentences;
            for (std::int64_t i = 0; i < options.needles; ++i) {
                sentences.push_back(
                    {place_of(depth(i), parts),
                     "The pass number of " + name(i) + " is " + digits(one.draws, i, 7) + "."});
            }
            return "Some sentences of the text below give the pass numbers of cities.\n\n" +
                   text_with(one.draws, parts, std::move(sentences));
        };
        ContextItem item;
        item.text = text(fit_parts(text, one.count, one.length, 0, one.where));
        for (const std::int64_t i : one.draws.order(1, options.needles)) {
            item.turns.push_back({.question = "What is the pass number of " + name(i) +
                                              "? Answer with the number only.",
                                  .gold = {{digits(one.draws, i, 7)}},
                                  .most_tokens = 24,
                                  .depth = depth(i)});
        }
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_multi_needle_task();
std::unique_ptr<TaskType> make_multi_needle_task() {
    return make_synthetic_task_type<MultiNeedle>();
}

}  // namespace thimble::eval
