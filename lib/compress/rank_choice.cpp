// SPDX-License-Identifier: Apache-2.0
#include "compress/rank_choice.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

double price(const RankChoice& from, const RankChoice& to) {
    return (to.loss - from.loss) / static_cast<double>(from.bytes - to.bytes);
}

// A step of one matrix along its hull.
struct Step {
    std::size_t matrix = 0, to = 0;
    double price = 0;
};

void add_steps(const RankChoices& choices, std::size_t matrix, std::vector<Step>& steps) {
    for (std::size_t at = 0; at + 1 < choices.size();) {
        std::size_t best = at + 1;
        for (std::size_t to = at + 2; to < choices.size(); ++to)
            if (price(choices[at], choices[to]) <= price(choices[at], choices[best])) best = to;
        steps.push_back({matrix, best, price(choices[at], choices[best])});
        at = best;
    }
}

}  // namespace

std::vector<std::size_t> choose_ranks(const std::vector<RankChoices>& matrices, std::uint64_t bytes,
                                      std::string_view where) {
    std::vector<std::size_t> chosen(matrices.size());
    std::vector<Step> steps;
    std::uint64_t all = 0, least = 0;
    for (std::size_t m = 0; m < matrices.size(); ++m) {
        add_steps(matrices[m], m, steps);
        all += matrices[m].front().bytes;
        least += matrices[m].back().bytes;
    }
    if (least > bytes) {
        throw Error(Exit::kUsage, std::string(where),
                    "matrices of the least rank take " + format_bytes(least) + ", more than " +
                        format_bytes(bytes),
                    "give a larger one");
    }
    std::stable_sort(steps.begin(), steps.end(),
                     [](const Step& a, const Step& b) { return a.price < b.price; });
    for (const Step& step : steps) {
        if (all <= bytes) break;
        const RankChoices& choices = matrices[step.matrix];
        std::size_t& at = chosen[step.matrix];
        const std::uint64_t others = all - choices[at].bytes;
        // The first that is enough, if any of the step is.
        while (at < step.to && others + choices[at].bytes > bytes) ++at;
        all = others + choices[at].bytes;
    }
    for (;;) {  // what is left
        std::size_t best = matrices.size(), best_to = 0;
        double gain = 0;
        for (std::size_t m = 0; m < matrices.size(); ++m) {
            for (std::size_t to = chosen[m]; to-- > 0;) {
                const std::uint64_t more = matrices[m][to].bytes - matrices[m][chosen[m]].bytes;
                if (all + more > bytes) break;
                const double here = price(matrices[m][to], matrices[m][chosen[m]]);
                if (here > gain) gain = here, best = m, best_to = to;
            }
        }
        if (best == matrices.size()) return chosen;
        all += matrices[best][best_to].bytes - matrices[best][chosen[best]].bytes;
        chosen[best] = best_to;
    }
}

std::vector<std::size_t> choose_equal(const std::vector<RankChoices>& matrices, double share) {
    std::vector<std::size_t> chosen;
    for (const RankChoices& choices : matrices) {
        const double most = share * static_cast<double>(choices.front().bytes);
        std::size_t at = 0;
        while (at + 1 < choices.size() && static_cast<double>(choices[at].bytes) > most) ++at;
        chosen.push_back(at);
    }
    return chosen;
}

}  // namespace thimble
