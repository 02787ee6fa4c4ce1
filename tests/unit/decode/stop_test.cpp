// SPDX-License-Identifier: Apache-2.0
#include "decode/stop.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace thimble;

namespace {

// Text before the stop string that ends first (the longest of those), found by trying every end.
std::string cut(const std::string& text, const std::vector<std::string>& stops, bool& matched) {
    for (std::size_t end = 1; end <= text.size(); ++end) {
        std::size_t longest = 0;
        for (const std::string& stop : stops)
            if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
        if (longest > 0) return matched = true, text.substr(0, end - longest);
    }
    return matched = false, text;
}

}  // namespace

TEST_CASE("stop strings: every text of 9 letters, every border between pieces") {
    const std::vector<std::vector<std::string>> cases{{"ab"},         {"aab", "b"}, {"aaa", "ba"},
                                                      {"abab", "bb"}, {"", "bbb"},  {}};
    for (const auto& stops : cases) {
        std::vector<std::string> real;
        for (const auto& s : stops)
            if (!s.empty()) real.push_back(s);
        for (int bits = 0; bits < 512; ++bits) {
            std::string text;
            for (int i = 0; i < 9; ++i) text += bits >> i & 1 ? 'b' : 'a';
            bool matched = false;
            const std::string expected = cut(text, real, matched);
            for (std::size_t border = 0; border <= text.size(); ++border) {
                StopMatcher stop(stops);
                std::string shown = stop.push(text.substr(0, border));
                REQUIRE(expected.starts_with(shown));
                shown += stop.push(text.substr(border));
                CHECK(stop.matched() == matched);
                shown += stop.finish();
                CHECK(shown == expected);
            }
        }
    }
}

TEST_CASE("stop strings: only what may begin one is held back") {
    StopMatcher stop({"User:"});
    CHECK(stop.push("Hello Us") == "Hello ");
    CHECK(stop.push("a! User") == "Usa! ");
    CHECK(stop.push(": hi") == "");
    CHECK(stop.matched());
    CHECK(stop.push("more") == "");
    CHECK(stop.finish() == "");
}
