// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <numeric>

#include "core/error.h"
#include "eval/windows.h"

using namespace thimble;
using namespace thimble::eval;

namespace {
std::vector<Token> counting(int n) {
    std::vector<Token> tokens(static_cast<std::size_t>(n));
    std::iota(tokens.begin(), tokens.end(), 100);
    return tokens;
}
}  // namespace

TEST_CASE("eval windows: whole windows, second half scored, BOS in place of the first token") {
    const Windows windows(counting(27), 8, 0, Token{1}, "text");
    CHECK(windows.count() == 3);
    CHECK(windows.first_row() == 4);
    CHECK(windows.rows() == 3);
    CHECK(windows.text_tokens() == 27);
    CHECK(windows.inputs(0).size() == 7);
    CHECK(windows.inputs(1)[0] == 1);
    CHECK(windows.inputs(1)[1] == 109);
    CHECK(windows.inputs(2).back() == 122);
    CHECK(windows.target(0, 4) == 105);
    CHECK(windows.target(2, 6) == 123);  // the window's last token is predicted, never fed
}

TEST_CASE("eval windows: odd context, no BOS, limit") {
    const Windows windows(counting(30), 7, 2, std::nullopt, "text");
    CHECK(windows.count() == 2);
    CHECK(windows.first_row() == 3);
    CHECK(windows.rows() == 3);
    CHECK(windows.inputs(1)[0] == 107);
}

TEST_CASE("eval windows: a text shorter than one window is refused with its length") {
    try {
        const Windows windows(counting(9), 10, 0, std::nullopt, "short.txt");
        FAIL("accepted");
    } catch (const Error& error) {
        CHECK(error.exit() == Exit::kUsage);
        CHECK(std::string(error.what()).find("short.txt: has 9 tokens") == 0);
    }
    CHECK_THROWS_AS(Windows(counting(9), 2, 0, std::nullopt, "x"), Error);
    CHECK_NOTHROW(Windows(counting(9), 4, 0, std::nullopt, "x"));
}
