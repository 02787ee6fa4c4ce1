// SPDX-License-Identifier: Apache-2.0
#include "recipe/graph.h"

#include <algorithm>
#include <functional>
#include <queue>

namespace thimble::recipe {

Order topological_order(const std::vector<std::vector<std::size_t>>& needs) {
    const std::size_t n = needs.size();
    std::vector<std::size_t> open(n);
    std::vector<std::vector<std::size_t>> users(n);
    std::priority_queue<std::size_t, std::vector<std::size_t>, std::greater<>> ready;
    for (std::size_t i = 0; i < n; ++i) {
        open[i] = needs[i].size();
        for (const std::size_t need : needs[i]) users[need].push_back(i);
        if (open[i] == 0) ready.push(i);
    }
    Order result;
    while (!ready.empty()) {
        const std::size_t i = ready.top();
        ready.pop();
        result.order.push_back(i);
        for (const std::size_t user : users[i])
            if (--open[user] == 0) ready.push(user);
    }
    if (result.order.size() == n) return result;

    // Every step left needs another one left: walking along needs must come back to where it was.
    const auto left = [&](std::size_t i) { return open[i] > 0; };
    std::size_t at = 0;
    while (!left(at)) ++at;
    std::vector<std::size_t> walk;
    while (std::find(walk.begin(), walk.end(), at) == walk.end()) {
        walk.push_back(at);
        at = *std::find_if(needs[at].begin(), needs[at].end(), left);
    }
    walk.erase(walk.begin(), std::find(walk.begin(), walk.end(), at));
    return {{}, walk};
}

}  // namespace thimble::recipe
