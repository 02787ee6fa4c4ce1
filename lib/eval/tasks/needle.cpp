// SPDX-License-Identifier: Apache-2.0
// A needle in a haystack: one sentence with a number stands at a stated depth of a text that is
// about other things, and the number is asked for.
#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

struct Needle {
    static constexpr const char* kName = "needle";
    static constexpr const char* kHelp =
        "a number that stands at each of several depths of a long text, asked for";
    struct Options {
        SyntheticOptions all;
        std::int64_t depths = 5;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option({.name = "depths",
                      .help = "places in the text, from its beginning to its end",
                      .least = 1,
                      .most = 101},
                     depths);
        }
    };
    static std::int64_t depths(const Options& options) { return options.depths; }

    static ContextItem make(const Options&, const SyntheticCase& one) {
        const auto which =
            one.draws.below(Draws::Purpose::kChoice, 0, static_cast<std::uint64_t>(city_count()));
        const std::string& name = city(static_cast<std::int64_t>(which));
        const std::string number = digits(one.draws, 0, 7);
        const auto text = [&](std::int64_t parts) {
            return "One sentence of the text below gives the pass number of a city.\n\n" +
                   text_with(one.draws, parts,
                             {{place_of(one.depth, parts),
                               "The pass number of " + name + " is " + number + "."}});
        };
        ContextItem item;
        item.text = text(fit_parts(text, one.count, one.length, 0, one.where));
        item.turns.push_back(
            {.question = "What is the pass number of " + name + "? Answer with the number only.",
             .gold = {{number}},
             .most_tokens = 24,
             .depth = one.depth});
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_needle_task();
std::unique_ptr<TaskType> make_needle_task() { return make_synthetic_task_type<Needle>(); }

}  // namespace thimble::eval
