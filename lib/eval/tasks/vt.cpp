// SPDX-License-Identifier: Apache-2.0
// Variable tracking, after RULER (2024): a variable is set to a number and others to variables
// before them, spread over the text; all that hold the number are asked for. The score is the share
// of them that is named.
#include <algorithm>

#include "eval/synthetic.h"

namespace thimble::eval {
namespace {

struct Vt {
    static constexpr const char* kName = "vt";
    static constexpr const char* kHelp =
        "names of all variables that hold a number, directly or through others";
    struct Options {
        SyntheticOptions all;
        std::int64_t chains = 2, hops = 4;
        void visit(OptionVisitor& v) {
            all.visit(v);
            v.option({.name = "chains",
                      .help = "numbers, each with variables of its own and asked for in turn",
                      .least = 1,
                      .most = 16},
                     chains);
            v.option({.name = "hops",
                      .help = "variables that are set to the one before",
                      .least = 0,
                      .most = 64},
                     hops);
        }
    };
    static std::int64_t depths(const Options&) { return 1; }

    // Five capitals, different for different n: digits of a multiple of a number prime to 26^5.
    static std::string variable(const Draws& draws, std::int64_t n) {
        constexpr std::uint64_t kNames = 26 * 26 * 26 * 26 * 26;
        std::uint64_t x = (draws.below(Draws::Purpose::kChoice, 0, kNames) +
                           static_cast<std::uint64_t>(n) * 7368787) %
                          kNames;
        std::string out;
        for (int i = 0; i < 5; ++i, x /= 26) out += static_cast<char>('A' + x % 26);
        return out;
    }

    static ContextItem make(const Options& options, const SyntheticCase& one) {
        const std::int64_t names = options.hops + 1;  // of a chain
        const auto name = [&](std::int64_t chain, std::int64_t hop) {
            return variable(one.draws, chain * names + hop);
        };
        const auto text = [&](std::int64_t parts) {
            std::vector<Inserted> sentences;
            for (std::int64_t chain = 0; chain < options.chains; ++chain) {
                std::vector<std::int64_t> places;  // ascending, so that a chain stands in order
                for (std::int64_t hop = 0; hop < names; ++hop) {
                    const std::int64_t n = chain * names + hop + 1;
                    places.push_back(static_cast<std::int64_t>(
                        one.draws.below(Draws::Purpose::kChoice, n, 1000000)));
                }
                std::sort(places.begin(), places.end());
                for (std::int64_t hop = 0; hop < names; ++hop) {
                    const std::string source =
                        hop == 0 ? digits(one.draws, chain, 5) : "VAR " + name(chain, hop - 1);
                    sentences.push_back({places[static_cast<std::size_t>(hop)] * parts / 1000000,
                                         "VAR " + name(chain, hop) + " = " + source + "."});
                }
            }
            return "Some sentences of the text below set variables.\n\n" +
                   text_with(one.draws, parts, std::move(sentences));
        };
        ContextItem item;
        item.text = text(fit_parts(text, one.count, one.length, 0, one.where));
        for (std::int64_t chain = 0; chain < options.chains; ++chain) {
            ContextTurn turn{.question = "Which variables hold the number " +
                                         digits(one.draws, chain, 5) +
                                         ", directly or through other variables? There are " +
                                         std::to_string(names) + ". Answer with their names only.",
                             .gold = {},
                             .measure = Measure::kShareFound};
            for (std::int64_t hop = 0; hop < names; ++hop) {
                turn.gold.answers.push_back(name(chain, hop));
                turn.shown += (hop == 0 ? "" : ", ") + name(chain, hop);
            }
            item.turns.push_back(std::move(turn));
        }
        return item;
    }
};

}  // namespace

std::unique_ptr<TaskType> make_vt_task();
std::unique_ptr<TaskType> make_vt_task() { return make_synthetic_task_type<Vt>(); }

}  // namespace thimble::eval
