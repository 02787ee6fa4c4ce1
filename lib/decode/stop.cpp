// SPDX-License-Identifier: Apache-2.0
#include "decode/stop.h"

#include <algorithm>
#include <utility>

namespace thimble {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {
    std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
    std::stable_sort(stops_.begin(), stops_.end(),
                     [](const auto& a, const auto& b) { return a.size() > b.size(); });
}

std::string StopMatcher::push(std::string_view piece) {
    std::string out;
    for (const char c : piece) {
        if (matched_) break;
        held_ += c;
        for (const std::string& stop : stops_) {
            if (!held_.ends_with(stop)) continue;
            matched_ = true;
            out.append(held_, 0, held_.size() - stop.size());
            held_.clear();
            break;
        }
        // Let go of what can no longer be the beginning of a stop string.
        const auto may_begin = [&](std::string_view tail) {
            return std::any_of(stops_.begin(), stops_.end(),
                               [&](const std::string& s) { return s.starts_with(tail); });
        };
        std::size_t free = 0;
        while (free < held_.size() && !may_begin(std::string_view(held_).substr(free))) ++free;
        out.append(held_, 0, free);
        held_.erase(0, free);
    }
    return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace thimble
