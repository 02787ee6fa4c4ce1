// SPDX-License-Identifier: Apache-2.0
// Copying: the text's lines are numbered, and some that follow each other are to be repeated. The
// score is the share of their words that the answer has in the same order, so a copy that goes
// astray half way counts half.
#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

struct Copy {
    static constexpr const char* kName = "copy";
    static constexpr const char* kHelp = "lines of the text, to be repeated word by word";
    struct Options {
        SyntheticOptions all;
        std::int64_t questions = 3, lines = 4;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option({.name = "questions", .help = "passages to repeat", .least = 1, .most = 101},
                     questions);
            v.option({.name = "lines", .help = "of a passage", .least = 1, .most = 128}, lines);
        }
    };
    static std::int64_t depths(const Options&) { return 1; }

    static ContextItem make(const Options& options, const SyntheticCase& one) {
        const auto line = [&](std::int64_t n) {
            return std::to_string(n + 1) + ". " + filler_sentence(one.draws, n);
        };
        const auto text = [&](std::int64_t lines) {
            std::string out = "The lines of the text below are numbered.\n";
            for (std::int64_t n = 0; n < lines; ++n) out += "\n" + line(n);
            return out;
        };
        const std::int64_t lines = fit_parts(text, one.count, one.length, options.lines, one.where);
        ContextItem item;
        item.text = text(lines);
        for (const std::int64_t n : one.draws.order(0, options.questions)) {
            const std::int64_t depth = depth_of(n, options.questions);
            const std::int64_t first = place_of(depth, lines - options.lines);
            std::string passage;
            for (std::int64_t i = 0; i < options.lines; ++i)
                passage += (i == 0 ? "" : "\n") + line(first + i);
            const std::string from = std::to_string(first + 1);
            const std::string to = std::to_string(first + options.lines);
            item.turns.push_back(
                {.question = options.lines == 1
                                 ? "Repeat line " + from + " word by word."
                                 : "Repeat lines " + from + " to " + to + " word by word.",
                 .gold = {{std::move(passage)}},
                 .measure = Measure::kWordsInOrder,
                 .depth = depth});
        }
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_copy_task();
std::unique_ptr<TaskType> make_copy_task() { return make_synthetic_task_type<Copy>(); }

}  // namespace thimble::eval
