// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "io/json.h"

using namespace thimble;

namespace {
// The text of the error that parsing must end with, "" when it parsed.
std::string problem(std::string_view text, const JsonLimits& limits = {}) {
    try {
        (void)parse_json(text, "x.json", limits);
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where() == "x.json");
        return e.problem();
    }
    return "";
}
}  // namespace

TEST_CASE("json: values, exact integers, key order, text round trip") {
    const std::string text =
        R"({"z":[1,-2,2.5,1e3,"\u00e9\n\ud83d\ude00",null,true,false,{},[]],"a":9223372036854775807,"m":-9223372036854775808})";
    const Json value = parse_json(text, "x.json");
    CHECK(value.find("a")->as_int("a") == INT64_MAX);
    CHECK(value.find("m")->as_int("m") == INT64_MIN);
    CHECK(value.as_members("x")[0].first == "z");
    CHECK(value.find("z")->as_array("z")[4].as_string("s") == "\xc3\xa9\n\xf0\x9f\x98\x80");
    CHECK(value.find("z")->as_array("z")[3].is_number());
    CHECK_FALSE(value.find("z")->as_array("z")[3].is_int());
    const std::string once = value.dump();
    CHECK(parse_json(once, "x.json").dump() == once);
    CHECK(parse_json(value.dump(2), "x.json").dump() == once);
    // Past int64 a number is a double, never wrapped.
    CHECK(parse_json("18446744073709551615", "x").as_double("x") == 18446744073709551615.0);
    CHECK_FALSE(parse_json("9223372036854775808", "x").is_int());
}

TEST_CASE("json: strict and bounded") {
    for (const char* bad :
         {"",         " ",       "{",        "[1,]",         "{\"a\":1,}",  "{a:1}",
          "'a'",      "01",      "1.",       "+1",           "nan",         "NaN",
          "Infinity", "1e999",   "\"\xff\"", "\"\xc0\x80\"", "\"\\ud800\"", "\"\x01\"",
          "[1] x",    "// c\n1", "tru",      "\"\\x41\"",    "[1 2]",       "{\"a\" 1}",
          "\"abc",    "]"}) {
        CAPTURE(bad);
        CHECK(problem(bad) != "");
    }
    CHECK(problem(R"({"a":1,"b":{"c":1,"d":2,"c":3}})").find("'c' occurs twice") !=
          std::string::npos);
    CHECK(problem(R"({"a":1,"\u0061":2})").find("'a' occurs twice") != std::string::npos);
    CHECK(problem("[1, x").find("byte 5") != std::string::npos);

    JsonLimits limits;
    limits.max_depth = 3;
    CHECK(problem("[[[1]]]", limits) == "");
    CHECK(problem("[[[[1]]]]", limits).find("deeper than 3") != std::string::npos);
    limits.max_values = 4;
    CHECK(problem("[1,2,3]", limits) == "");
    CHECK(problem("[1,2,3,4]", limits) != "");
    limits.max_bytes = 5;
    CHECK(problem("[1,2]", limits) == "");
    CHECK(problem("[1, 2]", limits) != "");
    CHECK(problem(std::string(1'000'000, '[')) != "");
}

TEST_CASE("json: typed access names the place") {
    const Json value = parse_json(R"({"a":1.5})", "x.json");
    CHECK_THROWS_WITH_AS((void)value.find("a")->as_int("x.json: a"),
                         "x.json: a: expected an integer", Error);
    CHECK(value.find("b") == nullptr);
    CHECK(Json(1).find("b") == nullptr);
}

TEST_CASE("json: dump escapes, writes the shortest numbers and null for non-finite") {
    Json value;
    value.set("q\"\\\n", Json("a\x01\x7f\xff"));
    value.set("d", Json(0.1));
    value.set("whole", Json(3.0));
    value.set("inf", Json(1.0 / 0.0));
    value.set("d", Json(0.25));
    CHECK(value.dump() == R"({"q\"\\\n":"a\u0001\u007f\ufffd","d":0.25,"whole":3.0,"inf":null})");
}
