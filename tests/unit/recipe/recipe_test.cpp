// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "recipe/child.h"
#include "recipe/expand.h"
#include "recipe/graph.h"
#include "recipe/recipe.h"
#include "recipe/toolbox.h"

using namespace thimble;
using recipe::Recipe;

namespace {

Recipe parse(const std::string& text, const std::vector<std::string>& sets = {}) {
    return recipe::parse_recipe(cli::parse_yaml(text, "r.yaml"), "r.yaml",
                                recipe::read_overrides(sets, {}));
}

std::string failure(const std::string& text, const std::vector<std::string>& sets = {}) {
    try {
        (void)parse(text, sets);
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

std::string value(const Recipe& r, std::size_t step, std::string_view option) {
    std::string all;
    for (const auto& v : r.steps.at(step).find(option)->values)
        all += (all.empty() ? "" : " ") + v.text;
    return all;
}

const std::string kHead = "recipe: 1\nsteps:\n";

}  // namespace

TEST_CASE("recipe: variables, references and the order they imply") {
    const Recipe r = parse(
        "recipe: 1\n"
        "vars: {models: m, one: '${vars.models}/a.gguf', two: x}\n"
        "steps:\n"
        "  - {id: late, uses: evaluate report, with: {files: ['${steps.q.output}', '$${y}']}}\n"
        "  - {id: q, uses: quantize, with: {model: '${vars.one}', output: '${vars.two}.gguf'}}\n"
        "  - {id: after, uses: run, needs: [late], measure: once, show: true}\n",
        {"two=/tmp/out"});
    CHECK(ids(r) == "q late after");
    CHECK(value(r, 0, "model") == "m/a.gguf");
    CHECK(value(r, 0, "output") == "/tmp/out.gguf");
    CHECK(r.steps[0].find("output")->values[0].user_bytes == 8);
    CHECK(r.steps[0].find("model")->values[0].user_bytes == 0);
    CHECK(value(r, 1, "files") == "/tmp/out.gguf ${y}");
    CHECK(r.steps[1].find("files")->values[0].user_bytes == 8);
    CHECK(r.steps[1].tool == "evaluate");
    CHECK(r.steps[1].command == "report");
    CHECK(r.steps[1].needs == std::vector<std::size_t>{0});
    CHECK(r.steps[2].needs == std::vector<std::size_t>{1});
    CHECK(r.steps[2].measure == recipe::Measure::kOnce);
    CHECK(r.steps[2].show);
}

TEST_CASE("recipe: a matrix makes instances, references pick one or all") {
    const Recipe r = parse(
        "recipe: 1\n"
        "vars: {d: dir}\n"
        "steps:\n"
        "  - id: q\n"
        "    matrix:\n"
        "      m: [{name: a, file: '${vars.d}/a.gguf'}, {name: b, file: b.gguf}]\n"
        "      t: [q4_0, f16]\n"
        "    uses: quantize\n"
        "    with: {model: '${matrix.m.file}', output: '${matrix.m}-${matrix.t}'}\n"
        "  - id: e\n"
        "    matrix: {m: [a, b]}\n"
        "    uses: evaluate\n"
        "    with: {model: '${steps.q[${matrix.m},f16].output}', out: 'e-${matrix.m}'}\n"
        "  - {id: t, uses: evaluate report, with: {files: '${steps.e[*].out}'}, needs: [q]}\n");
    CHECK(ids(r) == "q[a,q4_0] q[a,f16] q[b,q4_0] q[b,f16] e[a] e[b] t");
    CHECK(value(r, 1, "model") == "dir/a.gguf");
    CHECK(value(r, 2, "output") == "b-q4_0");
    CHECK(value(r, 4, "model") == "a-f16");
    CHECK(value(r, 5, "model") == "b-f16");
    CHECK(value(r, 6, "files") == "e-a e-b");
    CHECK(r.steps[6].needs == std::vector<std::size_t>{0, 1, 2, 3, 4, 5});
    CHECK(r.find("q", "x").size() == 4);
    CHECK(r.find("q[b,f16]", "x") == std::vector<std::size_t>{3});
}

TEST_CASE("recipe: a star stands for any value of one place of a matrix") {
    const auto recipe = [](const std::string& what) {
        return "recipe: 1\n"
               "steps:\n"
               "  - id: q\n"
               "    matrix: {m: [a, b], t: [x, y]}\n"
               "    uses: quantize\n"
               "    with: {model: in, output: '${matrix.m}-${matrix.t}'}\n"
               "  - {id: t, uses: evaluate report, with: {files: '" +
               what + "'}}\n";
    };
    CHECK(value(parse(recipe("${steps.q[b,*].output}")), 4, "files") == "b-x b-y");
    const Recipe columns = parse(recipe("${steps.q[*,y].output}"));
    CHECK(value(columns, 4, "files") == "a-y b-y");
    CHECK(columns.steps[4].needs == std::vector<std::size_t>{1, 3});
    CHECK(value(parse(recipe("${steps.q[*,*].output}")), 4, "files") == "a-x a-y b-x b-y");
    CHECK_THROWS_WITH(parse(recipe("${steps.q[c,*].output}")),
                      doctest::Contains("no step is 'q[c,*]' (one is 'q[a,x]')"));
    CHECK_THROWS_WITH(parse(recipe("${steps.q[*,*,*].output}")), doctest::Contains("no step is"));
    CHECK_THROWS_WITH(parse(recipe("p-${steps.q[b,*].output}")),
                      doctest::Contains("must stand alone"));
}

TEST_CASE("recipe: a user's path stays the user's through variables and a matrix") {
    const Recipe r = parse(
        "recipe: 1\n"
        "vars: {d: dir, file: '${vars.d}/a.gguf'}\n"
        "steps:\n"
        "  - id: q\n"
        "    matrix: {m: [{name: a, file: '${vars.file}', out: 'x${vars.d}'}]}\n"
        "    uses: quantize\n"
        "    with: {model: '${matrix.m.file}', output: '${matrix.m.out}'}\n",
        {"d=../mine"});
    CHECK(value(r, 0, "model") == "../mine/a.gguf");
    CHECK(r.steps[0].find("model")->values[0].user_bytes == 7);
    CHECK(r.steps[0].find("model")->values[0].user_at == 0);
    CHECK(r.steps[0].find("output")->values[0].user_bytes == 7);
    CHECK(r.steps[0].find("output")->values[0].user_at == 1);
}

TEST_CASE("recipe: where the user's text stands is known behind text, references and escapes") {
    const Recipe r = parse(
        "recipe: 1\n"
        "vars: {d: dir, e: more, step: a, fixed: x-}\n"
        "steps:\n"
        "  - {id: a, uses: x, with: {o: long/name, mine: m}}\n"
        "  - id: b\n"
        "    uses: x\n"
        "    with: {p: 't:f=${steps.a.o},g=${vars.d}', q: '$${x}${vars.e}${vars.d}',\n"
        "           r: '${steps.${vars.step}.o}', s: '${vars.fixed}${vars.d}',\n"
        "           t: '${steps.a.o}${vars.d}', u: 'x=${steps.a.o},${steps.a.mine}${vars.d}'}\n",
        {"d=../mine", "e=../more", "step=a", "steps.a.with.mine=../its"});
    const auto span = [&](const char* option) {
        const recipe::Value& v = r.steps[1].find(option)->values[0];
        return v.text.substr(v.user_at, v.user_bytes);
    };
    CHECK(value(r, 1, "p") == "t:f=long/name,g=../mine");
    CHECK(span("p") == "../mine");
    CHECK(value(r, 1, "q") == "${x}../more../mine");
    CHECK(span("q") == "../more");
    CHECK(span("r").empty());
    CHECK(span("s") == "../mine");
    CHECK(span("t") == "../mine");
    CHECK(value(r, 1, "u") == "x=long/name,../its../mine");
    CHECK(span("u") == "../its");
}

TEST_CASE("recipe: what is wrong is named with its line and the nearest name") {
    CHECK(failure("a: 1") == "r.yaml:1: unknown key 'a' in a recipe");
    CHECK(failure("recipe: 2\nsteps: []") ==
          "r.yaml:1: is not a recipe of format 1 (begin with 'recipe: 1')");
    CHECK(failure("recipe: 1\n") == "r.yaml:1: 'steps' must be a list of steps");
    CHECK(failure("recipe: 1\nstesp: []\n") ==
          "r.yaml:2: unknown key 'stesp' in a recipe (did you mean 'steps'?)");
    CHECK(failure(kHead + "  - {id: a, use: b}\n") ==
          "r.yaml:3: unknown key 'use' in a step (did you mean 'uses'?)");
    CHECK(failure(kHead + "  - {id: a}\n") == "r.yaml:3: a step lacks 'uses'");
    CHECK(failure(kHead + "  - {id: a, uses: ../x}\n").find("is not a tool") != std::string::npos);
    CHECK(failure(kHead + "  - {id: a, uses: x}\n  - {id: a, uses: x}\n") ==
          "r.yaml:4: id 'a' is given twice");
    CHECK(failure(kHead + "  - {id: a, uses: x, needs: [quant]}\n  - {id: quanz, uses: x}\n") ==
          "r.yaml:3: unknown step 'quant' (did you mean 'quanz'?)");
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {o: 1}}\n"
                          "  - {id: b, uses: x, with: {i: '${steps.a.p}'}}\n") ==
          "r.yaml:4: step 'a' has no 'p' (did you mean 'o'?)");
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {i: '${vers.x}'}}\n").find("r.yaml:3") == 0);
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {i: '${vars.x}'}}\n") ==
          "r.yaml:3: unknown variable 'x'");
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {i: '${vars.x'}}\n").find("without its") !=
          std::string::npos);
    CHECK(failure("recipe: 1\nvars: {text: t}\nsteps: [{id: a, uses: b}]\n", {"txet=1"}) ==
          "--set: r.yaml has no variable 'txet' (did you mean 'text'?)");
    CHECK(failure("recipe: 1\nvars: {t: ~}\nsteps: [{id: a, uses: b, with: {x: '${vars.t}'}}]\n") ==
          "r.yaml:3: variable 't' has no value (give one with --set t=...)");
    CHECK(failure(kHead + "  - {id: a, uses: x, measure: sometimes}\n").find("once or always") !=
          std::string::npos);
}

TEST_CASE("recipe: cycles are named") {
    CHECK(failure(kHead + "  - {id: z, uses: x}\n"
                          "  - {id: a, uses: x, needs: [b, z]}\n"
                          "  - {id: b, uses: x, needs: [c]}\n"
                          "  - {id: c, uses: x, needs: [a]}\n") ==
          "r.yaml:4: steps wait for each other: a needs b needs c needs a");
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {i: '${steps.a.i}'}}\n") ==
          "r.yaml:3: steps wait for each other: a needs a");
}

TEST_CASE("recipe: expansion cannot explode") {
    std::string vars = "recipe: 1\nvars:\n  a0: xxxxxxxxxxxxxxxx\n";
    for (int i = 1; i < 30; ++i) {
        const std::string before = "${vars.a" + std::to_string(i - 1) + "}";
        vars += "  a" + std::to_string(i) + ": " + before + before + "\n";
    }
    CHECK(failure(vars + "steps: [{id: a, uses: b}]\n").find("more than 16 KiB") !=
          std::string::npos);
    std::string axes = kHead + "  - {id: a, uses: x, matrix: {";
    for (int i = 0; i < 12; ++i)
        axes += (i == 0 ? "" : ", ") + std::string("m") + std::to_string(i) + ": [1, 2, 3]";
    CHECK(failure(axes + "}}\n").find("more than 1000 steps") != std::string::npos);
    CHECK(failure(kHead + "  - {id: a, uses: x, with: {i: '${${${${${${x}}}}}}'}}\n") !=
          "accepted");
}

TEST_CASE("recipe: order against all permutations of small graphs") {
    // Every directed graph of four nodes: the order exists exactly when some permutation fits.
    for (unsigned edges = 0; edges < 1u << 12; ++edges) {
        std::vector<std::vector<std::size_t>> needs(4);
        unsigned bit = 0;
        for (std::size_t a = 0; a < 4; ++a)
            for (std::size_t b = 0; b < 4; ++b)
                if (a != b && (edges >> bit++ & 1u) != 0) needs[a].push_back(b);
        const auto fits = [&](const std::vector<std::size_t>& order) {
            for (std::size_t a = 0; a < 4; ++a) {
                for (const std::size_t b : needs[a]) {
                    const auto at = [&](std::size_t i) {
                        return std::find(order.begin(), order.end(), i) - order.begin();
                    };
                    if (at(b) >= at(a)) return false;
                }
            }
            return true;
        };
        std::vector<std::size_t> permutation(4);
        std::iota(permutation.begin(), permutation.end(), 0);
        bool possible = false;
        std::vector<std::size_t> first;
        do {
            if (!possible && fits(permutation)) possible = true, first = permutation;
        } while (std::next_permutation(permutation.begin(), permutation.end()));
        const recipe::Order result = recipe::topological_order(needs);
        REQUIRE(result.cycle.empty() == possible);
        if (possible) {
            REQUIRE(result.order == first);  // the least permutation keeps the given order
        } else {
            for (std::size_t i = 0; i < result.cycle.size(); ++i) {
                const auto& wanted = needs[result.cycle[i]];
                const std::size_t next = result.cycle[(i + 1) % result.cycle.size()];
                REQUIRE(std::find(wanted.begin(), wanted.end(), next) != wanted.end());
            }
        }
    }
}

TEST_CASE("recipe: paths stay under the work directory unless the user says otherwise") {
    const recipe::Surroundings s{.workdir = "w", .caller_directory = ""};
    const auto path = [&](const std::string& text, std::size_t user, bool output) {
        try {
            return recipe::resolve_path({text, user}, s, output, "r.yaml:1");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            return std::string("refused");
        }
    };
    CHECK(path("a/b.txt", 0, true) == "w/a/b.txt");
    CHECK(path("./a", 0, false) == "w/a");
    CHECK(path("/usr/x", 0, false) == "/usr/x");
    CHECK(path("/usr/x", 0, true) == "refused");
    CHECK(path("/usr/x", 6, true) == "/usr/x");
    CHECK(path("../a", 0, false) == "refused");
    CHECK(path("a/../../b", 0, true) == "refused");
    CHECK(path("../mine.txt", 11, false) == "../mine.txt");
    CHECK(path("../dir/../x", 6, false) == "refused");
    CHECK(path("mine", 4, false) == "mine");
    CHECK(path("..a", 0, false) == "w/..a");
}

TEST_CASE("recipe: shell quoting is undone by a shell") {
    for (const std::string text : {"plain", "", "a b", "it's", "$HOME", "`id`", "a\nb", "*", "~",
                                   "\"", "\\", "-x", "ä", "#", "a;b"}) {
        std::string out;
        const int code =
            recipe::run_child({"/bin/sh", "-c", "printf %s " + recipe::shell_quoted(text)},
                              {.on_stdout = [&](std::string_view part) { out += part; }});
        CHECK(code == 0);
        CHECK(out == text);
    }
}

TEST_CASE("recipe: children hand back their exit codes") {
    CHECK(recipe::run_child({"/bin/sh", "-c", "exit 65"}, {}) == 65);
    CHECK(recipe::run_child({"/bin/sh", "-c", "kill -9 $$"}, {}) == 128 + 9);
    CHECK(recipe::run_child({"/nonexistent"}, {}) == 127);
    CHECK(recipe::run_child({"/bin/cat"}, {}) == 0);  // stdin is empty
}
