// SPDX-License-Identifier: Apache-2.0
// Gates, overrides, matrices with include and exclude.
#include <doctest/doctest.h>

#include <cmath>

#include "core/error.h"
#include "recipe/gate.h"
#include "recipe/recipe.h"
#include "recipe/tell.h"

using namespace thimble;
using recipe::Recipe;

namespace {

Recipe parse(const std::string& text, const std::vector<std::string>& sets = {},
             const std::string& overlay = "") {
    return recipe::parse_recipe(
        cli::parse_yaml(text, "r.yaml"), "r.yaml",
        recipe::read_overrides(sets, {{cli::parse_yaml(overlay, "o.yaml"), "o.yaml"}}));
}

std::string failure(const std::string& text, const std::vector<std::string>& sets = {},
                    const std::string& overlay = "") {
    try {
        (void)parse(text, sets, overlay);
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kUsage);
        return e.what();
    }
    return "accepted";
}

std::string ids(const Recipe& r) {
    std::string all;
    for (const auto& step : r.steps) all += (all.empty() ? "" : " ") + step.id;
    return all;
}

std::string with_matrix(const std::string& matrix) {
    return "recipe: 1\nsteps:\n  - {id: q, uses: x, matrix: {" + matrix +
           "}, with: {o: '${matrix.m}', f: '${matrix.m.file}'}}\n";
}

}  // namespace

TEST_CASE("recipe: a matrix less what is excluded, plus what is included") {
    const std::string axes = "m: [{name: a, file: 1}, {name: b, file: 2}], t: [x, y]";
    CHECK(ids(parse(with_matrix(axes))) == "q[a,x] q[a,y] q[b,x] q[b,y]");
    CHECK(ids(parse(with_matrix(axes + ", exclude: [{m: a, t: y}]"))) == "q[a,x] q[b,x] q[b,y]");
    CHECK(ids(parse(with_matrix(axes + ", exclude: [{t: y}]"))) == "q[a,x] q[b,x]");
    const Recipe more = parse(with_matrix(
        axes + ", exclude: [{m: a}], include: [{m: a, t: z}, {m: {name: c, file: 3}, t: x}]"));
    CHECK(ids(more) == "q[b,x] q[b,y] q[a,z] q[c,x]");
    CHECK(more.steps[2].find("f")->values[0].text == "1");  // the axis' own value of that name
    CHECK(more.steps[3].find("f")->values[0].text == "3");
    CHECK(ids(parse(with_matrix("include: [{m: {name: a, file: 1}, t: x}]"))) == "q[a,x]");

    CHECK(failure(with_matrix(axes + ", exclude: [{m: c}]")) ==
          "r.yaml:3: an entry of 'exclude' matches no instance of the matrix");
    CHECK(failure(with_matrix(axes + ", exclude: [{mm: a}]")) ==
          "r.yaml:3: unknown matrix axis 'mm' (did you mean 'm'?)");
    CHECK(failure(with_matrix(axes + ", include: [{m: a}]")) ==
          "r.yaml:3: an entry of 'include' lacks 't'");
    CHECK(failure(with_matrix(axes + ", include: [{m: a, t: x}]")) ==
          "r.yaml:3: step 'q[a,x]' is given twice");
    CHECK(failure(with_matrix(axes + ", exclude: [{t: x}, {t: y}]")) ==
          "r.yaml:3: 'matrix' leaves no instance");
    CHECK(failure(with_matrix("include: []")) == "r.yaml:3: 'matrix' leaves no instance");
}

TEST_CASE("recipe: overrides reach all instances or one, later ones win") {
    const std::string text =
        "recipe: 1\nvars: {v: one}\nsteps:\n"
        "  - {id: q, uses: x, matrix: {m: [a, b]}, with: {o: 'o${matrix.m}', l: '${vars.v}'}}\n";
    const auto value = [&](const Recipe& r, std::size_t step, const char* option) {
        const recipe::StepOption* found = r.steps[step].find(option);
        return found == nullptr ? std::string("none") : found->values[0].text;
    };
    const Recipe one = parse(text, {"steps.q.with.o=all", "steps.q[b].with.o=b-${matrix.m}"});
    CHECK(value(one, 0, "o") == "all");
    CHECK(value(one, 1, "o") == "b-b");
    const std::string overlay =
        "vars: {v: two}\nsteps: {q: {with: {o: ~, n: '${vars.v}'}, show: true}}";
    const Recipe laid = parse(text, {}, overlay);
    CHECK(value(laid, 0, "o") == "none");
    CHECK(value(laid, 1, "n") == "two");
    CHECK(value(laid, 0, "l") == "two");
    CHECK(laid.steps[0].show);
    CHECK(value(parse(text, {"vars.v=three"}, overlay), 0, "n") == "three");
    CHECK(parse(text, {"steps.q.measure=always"}).steps[1].measure == recipe::Measure::kAlways);
    CHECK(failure(text, {"steps.q[c].with.o=1"}) ==
          "--set steps.q[c].with.o: unknown step 'q[c]' (did you mean 'q[a]'?)");
    CHECK(failure(text, {}, "vars: {w: 1}") ==
          "o.yaml:1: r.yaml has no variable 'w' (did you mean 'v'?)");
    CHECK(failure(text, {}, "steps: {q: {uses: y}}").find("o.yaml:1: unknown key 'uses'") == 0);
    CHECK(failure(text, {"steps.q.measure=maybe"}).find("must be once or always") !=
          std::string::npos);
}

TEST_CASE("recipe: a text from --set is taken as it is, and its path is the user's") {
    const std::string text =
        "recipe: 1\nvars: {v: ~}\nsteps: [{id: q, uses: x, with: {o: '${vars.v}/f'}}]\n";
    const Recipe r = parse(text, {"v=../${x}"});
    CHECK(r.steps[0].find("o")->values[0].text == "../${x}/f");
    CHECK(r.steps[0].find("o")->values[0].user_bytes == 7);
    const Recipe direct = parse(text, {"v=1", "steps.q.with.o=../mine"});
    CHECK(direct.steps[0].find("o")->values[0].user_bytes == 7);
}

TEST_CASE("recipe: gates find their figures by key, path or name") {
    const Json result = parse_json(
        R"({"a": {"kld_mean": {"value": 0.02, "standard_error": 0.5}, "n": 3}, "b": {"n": 4},
            "figures": {"ppl": 7, "text_2.ppl": 8, "n": 5},
            "text": "x", "list": [1], "c": {"m": 1}, "d": {"m": 2}})",
        "r");
    const auto holds = [&](const std::string& text) {
        return recipe::check_gate(Gate(text, "here"), result).holds;
    };
    for (const char* text : {"kld_mean==0.02", "a.kld_mean==0.02", "a.n==3", "b.n==4", "n==5",
                             "ppl==7", "text_2.ppl==8", "c.m+d.m==a.n"})
        CHECK_MESSAGE(holds(text), text);
    const auto error = [&](const std::string& text) {
        try {
            (void)holds(text);
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            return std::string(e.what());
        }
        return std::string("accepted");
    };
    CHECK(error("kld<1") == "here: the result has no figure 'kld'");
    CHECK(error("kld_man<1") ==
          "here: the result has no figure 'kld_man' (did you mean 'kld_mean'?)");
    CHECK(error("m<1") == "here: 'm' names several figures (write c.m or d.m)");
    for (const char* text : {"text<1", "list<1", "standard_error<1", "value<1"})
        CHECK_MESSAGE(error(text) != "accepted", text);
}
