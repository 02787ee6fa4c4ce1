// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "cli/arguments.h"
#include "cli/describe.h"
#include "cli/settings.h"
#include "core/error.h"
#include "core/options.h"

using namespace thimble;

namespace {

struct Sample {
    bool flag = false, on = true;
    std::int64_t count = 4;
    double rate = 0.25;
    std::string text = "plain", kind = "a";
    std::vector<std::string> rules, files;
    void visit(OptionVisitor& v) {
        v.option({.name = "flag", .letter = 'g', .help = "a flag"}, flag);
        v.option({.name = "on", .help = "on by default"}, on);
        v.group("Numbers");
        v.option({.name = "count", .letter = 'n', .help = "a count", .least = -1, .most = 9},
                 count);
        v.option({.name = "rate", .help = "a rate"}, rate);
        v.group("Texts");
        v.option({.name = "text", .help = "a text", .also = "tx,words"}, text);
        v.option({.name = "kind", .help = "a choice", .choices = {"a", "b", "gamma"}}, kind);
        v.option({.name = "rule", .help = "rules"}, rules);
        v.option({.name = "files", .help = "files", .is_input = true, .positional = true}, files);
    }
    Visitable all() {
        return [this](OptionVisitor& v) { visit(v); };
    }
};

std::string failure(const auto& call) {
    try {
        call();
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kUsage);
        return e.what();
    }
    FAIL("no error");
    return {};
}

void apply(Sample& s, std::vector<std::string> arguments) {
    cli::Sources sources;
    const auto given = cli::parse_arguments(list_options(s.all()), std::move(arguments), {});
    cli::apply_flags(given, s.all(), sources);
}

}  // namespace

TEST_CASE("inline options: parse, format, parse again") {
    Sample s, defaults;
    parse_inline_options("count=7,flag,rate=1e-3,text=a\\,b\\\\c=d,rule=x,rule=y", s.all(), "p");
    CHECK(s.count == 7);
    CHECK(s.flag);
    CHECK(s.rate == 1e-3);
    CHECK(s.text == "a,b\\c=d");
    CHECK(s.rules == std::vector<std::string>{"x", "y"});
    const std::string text = format_inline_options(s.all(), defaults.all());
    Sample again;
    parse_inline_options(text, again.all(), "p");
    CHECK(format_inline_options(again.all(), defaults.all()) == text);
    CHECK(again.text == s.text);
    CHECK(format_inline_options(defaults.all(), Sample().all()).empty());
}

TEST_CASE("inline options: errors name the place and the nearest key") {
    Sample s;
    CHECK(failure([&] { parse_inline_options("cuont=7", s.all(), "p"); }) ==
          "p: cuont: unknown option 'cuont' (did you mean 'count'?)");
    CHECK(failure([&] { parse_inline_options("count=1,count=2", s.all(), "p"); }) ==
          "p: count: is given twice");
    CHECK(failure([&] { parse_inline_options("count=x", s.all(), "p"); }) ==
          "p: count: 'x' is not a whole number");
    CHECK(failure([&] { parse_inline_options("count=10", s.all(), "p"); }) ==
          "p: count: '10' is more than 9");
    CHECK(failure([&] { parse_inline_options("kind=gama", s.all(), "p"); }) ==
          "p: kind: 'gama' is not one of a, b, gamma (did you mean 'gamma'?)");
    CHECK(failure([&] { parse_inline_options("rate=nan", s.all(), "p"); }) ==
          "p: rate: 'nan' is not a number");
    CHECK(failure([&] { parse_inline_options(",", s.all(), "p"); }).find("unknown option") !=
          std::string::npos);
    CHECK(s.count == 4);
}

TEST_CASE("arguments: flags, aliases, positionals, lists") {
    Sample s;
    apply(s, {"-g", "--no-on", "-n", "-1", "one", "--rule", "a=b", "two", "--rule=c", "-tx", "x y",
              "--", "--three"});
    CHECK(s.flag);
    CHECK_FALSE(s.on);
    CHECK(s.count == -1);
    CHECK(s.rules == std::vector<std::string>{"a=b", "c"});
    CHECK(s.files == std::vector<std::string>{"one", "two", "--three"});
    CHECK(s.text == "x y");
    Sample t;
    apply(t, {"--words=-1,5", "-n3", "--flag=false", "--on=false", "--rate", "2", "--rate=3"});
    CHECK(t.text == "-1,5");
    CHECK(t.count == 3);
    CHECK_FALSE(t.flag);
    CHECK_FALSE(t.on);
    CHECK(t.rate == 3);
    Sample u;
    apply(u, {"--text", "", "--files", "a", "b"});
    CHECK(u.text.empty());
    CHECK(u.files == std::vector<std::string>{"a", "b"});
}

TEST_CASE("arguments: what does not fit is named") {
    Sample s;
    CHECK(failure([&] {
              apply(s, {"--cuont", "3"});
          }) == "--cuont: unknown option (did you mean '--count'?)");
    CHECK(failure([&] {
              apply(s, {"--count", "many"});
          }) == "--count: 'many' is not a whole number");
    CHECK(failure([&] { apply(s, {"--count"}); }).find("--count") != std::string::npos);
    CHECK(failure([&] { apply(s, {"-z"}); }) == "-z: unknown option (see --help)");
    CHECK(failure([&] { apply(s, {"--flag=maybe"}); }).find("flag") != std::string::npos);
}

TEST_CASE("settings: flags beat the file, the file beats the environment") {
    Sample s;
    cli::Sources sources;
    const char* environment[] = {"THIMBLE_TOY_COUNT=1",
                                 "THIMBLE_TOY_RATE=1",
                                 "THIMBLE_TOY_TEXT=e",
                                 "THIMBLE_TOY_RULE=a,b",
                                 "OTHER=1",
                                 nullptr};
    const std::vector<std::string> known = {"THIMBLE_TOY_COUNT", "THIMBLE_TOY_RATE"};
    cli::apply_environment("toy", s.all(), known, environment, sources);
    const auto file =
        cli::parse_yaml("# a comment\ncount: 2\nrate: 2.5\nfiles: [x, y]\nflag: yes\n", "c.yaml");
    cli::apply_config(file, "c.yaml", s.all(), sources);
    cli::apply_flags(std::vector<cli::GivenOption>{{"count", {"3"}}}, s.all(), sources);
    CHECK(s.count == 3);
    CHECK(s.rate == 2.5);
    CHECK(s.text == "e");
    CHECK(s.rules == std::vector<std::string>{"a", "b"});
    CHECK(s.files == std::vector<std::string>{"x", "y"});
    CHECK(s.flag);
    CHECK(sources["count"] == "flag");
    CHECK(sources["rate"] == "c.yaml:3");
    CHECK(sources["text"] == "environment THIMBLE_TOY_TEXT");
    CHECK_FALSE(sources.contains("kind"));

    Sample again;
    cli::Sources from_file;
    const std::string printed = cli::config_text(list_options(s.all()), sources);
    cli::apply_config(cli::parse_yaml(printed, "p"), "p", again.all(), from_file);
    CHECK(cli::config_text(list_options(again.all()), sources) == printed);
}

TEST_CASE("settings: unknown names and bad values say where") {
    Sample s;
    cli::Sources sources;
    const auto config = [&](const char* text) {
        return failure([&] {
            cli::apply_config(cli::parse_yaml(text, "c.yaml"), "c.yaml", s.all(), sources);
        });
    };
    CHECK(config("count: 1\n\ncuont: 2\n") ==
          "c.yaml:3: unknown option 'cuont' (did you mean 'count'?)");
    CHECK(config("count: 99\n") == "c.yaml:1: '99' is more than 9");
    CHECK(config("- 1\n").find("c.yaml:1: is not a map") == 0);
    CHECK(config("text: {a: b}\n").find("c.yaml:1: text: is not a value") == 0);
    const char* environment[] = {"THIMBLE_TOY_CUONT=1", nullptr};
    const std::vector<std::string> known = {"THIMBLE_TOY_COUNT"};
    CHECK(failure([&] { cli::apply_environment("toy", s.all(), known, environment, sources); }) ==
          "THIMBLE_TOY_CUONT: no such option of toy (did you mean 'THIMBLE_TOY_COUNT'?)");
    CHECK(cli::environment_name("offload-train", "ctx-size") == "THIMBLE_OFFLOAD_TRAIN_CTX_SIZE");
}

TEST_CASE("settings: a map with a name is the inline form") {
    const auto node = cli::parse_yaml("{name: snap, window: 32, text: 'a,b'}", "c");
    CHECK(cli::option_texts(node, "c") == std::vector<std::string>{"snap:window=32,text=a\\,b"});
}

TEST_CASE("schema: types, bounds, choices and defaults of every option") {
    Sample s;
    cli::ToolInfo tool{.name = "toy", .summary = "s"};
    cli::Command command{.name = "", .help = "h"};
    const Json schema = cli::option_schema(tool, command, list_options(s.all()));
    const Json again = parse_json(schema.dump(2), "schema");
    CHECK(again.dump() == schema.dump());
    const Json* properties = schema.find("properties");
    REQUIRE(properties != nullptr);
    const auto text = [&](const char* option) { return properties->find(option)->dump(); };
    CHECK(text("count") == R"({"description":"a count","type":"integer","minimum":-1.0,)"
                           R"("maximum":9.0,"default":4,"x-changes-output":true})");
    CHECK(properties->find("files")->find("x-input")->as_bool("t"));
    CHECK(properties->find("kind")->find("enum")->dump() == R"(["a","b","gamma"])");
    CHECK(properties->find("on")->find("default")->as_bool("t"));
}
