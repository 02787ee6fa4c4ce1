// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "cli/yaml.h"
#include "core/error.h"

using namespace thimble;
using cli::parse_yaml;

namespace {
std::string failure(std::string_view text) {
    try {
        (void)parse_yaml(text, "f");
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kUsage);
        return e.what();
    }
    return "accepted";
}
}  // namespace

TEST_CASE("yaml: maps, lists, scalars and their lines") {
    const auto root = parse_yaml("a: 1\nb:\n  - x\n  - 'y: z'\nc: ~\nd: |\n  two\n  lines\n", "f");
    REQUIRE(root.is_map());
    CHECK(root.find("a")->text == "1");
    CHECK_FALSE(root.find("a")->quoted);
    CHECK(root.find("b")->items.size() == 2);
    CHECK(root.find("b")->items[1].text == "y: z");
    CHECK(root.find("b")->items[1].quoted);
    CHECK(root.find("b")->items[1].line == 4);
    CHECK(root.find("c")->kind == cli::YamlNode::Kind::kNull);
    CHECK(root.find("d")->text == "two\nlines\n");
    CHECK(root.find("e") == nullptr);
    CHECK(parse_yaml("", "f").kind == cli::YamlNode::Kind::kNull);
}

TEST_CASE("yaml: what is refused, and where") {
    CHECK(failure("a: 1\na: 2\n") == "f:2: key 'a' is given twice");
    CHECK(failure("a: [1\n").find("f:") == 0);
    CHECK(failure("a: !!int 3\n").find("is not supported") != std::string::npos);
    CHECK(failure("<<: {a: 1}\n").find("merge keys") != std::string::npos);
    CHECK(failure("[a]: b\n").find("key") != std::string::npos);
    CHECK(failure("a: 1\n---\nb: 2\n").find("more than one") != std::string::npos);
    CHECK(failure("\xff").find("UTF-8") != std::string::npos);
    CHECK(failure(std::string(200, '[') + std::string(200, ']')).find("nested deeper") !=
          std::string::npos);
    CHECK(failure("a: &x [*x]\n").find("alias") != std::string::npos);
    CHECK(failure(std::string((1 << 20) + 1, ' ')).find("larger than") != std::string::npos);
}

TEST_CASE("yaml: aliases copy, but cannot explode") {
    const auto root = parse_yaml("a: &x {k: v}\nb: *x\n", "f");
    CHECK(root.find("b")->find("k")->text == "v");
    std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n";
    for (int i = 1; i < 12; ++i) {
        bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
        for (int j = 0; j < 9; ++j) bomb += (j ? ", *a" : "*a") + std::to_string(i - 1);
        bomb += "]\n";
    }
    CHECK(failure(bomb).find("more than") != std::string::npos);
    std::string deep = "a0: &a0 [x]\n";
    for (int i = 1; i < 60; ++i)
        deep += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" +
                std::to_string(i - 1) + "]\n";
    CHECK(failure(deep).find("nested deeper") != std::string::npos);
}

TEST_CASE("yaml: a written scalar is read back as it was") {
    for (const std::string text :
         {"",      "plain", "-5", "-",  "--x", "a b", "null",      "~",           "true",
          "1e5",   "a: b",  "#x", "'",  "\"",  "\\",  "tab\there", "line\nbreak", "\x01\x7f",
          "grüße", "*x",    "&x", "!t", "[",   "{a",  "%d",        "@",           "`",
          "?",     "? x",   "|",  ">",  "---", "..."}) {
        const auto root = parse_yaml("k: " + cli::yaml_scalar(text) + "\n", "f");
        REQUIRE(root.find("k") != nullptr);
        CHECK(root.find("k")->is_scalar());
        CHECK(root.find("k")->text == text);
    }
}
