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
        return pass_number_item(one, {&one.depth, 1});
    }
};

}  // namespace

std::unique_ptr<TaskType> make_needle_task();
std::unique_ptr<TaskType> make_needle_task() { return make_synthetic_task_type<Needle>(); }

}  // namespace thimble::eval
