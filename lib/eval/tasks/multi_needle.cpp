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
        std::vector<std::int64_t> depths;
        for (std::int64_t i = 0; i < options.needles; ++i)
            depths.push_back(depth_of(i, options.needles));
        return pass_number_item(one, depths);
    }
};

}  // namespace

std::unique_ptr<TaskType> make_multi_needle_task();
std::unique_ptr<TaskType> make_multi_needle_task() {
    return make_synthetic_task_type<MultiNeedle>();
}

}  // namespace thimble::eval
