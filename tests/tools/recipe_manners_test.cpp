// SPDX-License-Identifier: Apache-2.0
// Each command of the recipe tool towards its shell: readers that leave, closed and full ends, JSON
// apart from text.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>

#include "io/json.h"
#include "tests/tools/recipe_kitchen.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::string kRecipe =
    "recipe: 1\nsteps:\n"
    "  - {id: a, uses: toy, with: {output: a.txt, repeat: 2}, show: true, assert: [copies>1]}\n"
    "  - {id: b, uses: toy, needs: [a], with: {repeat: 3}, show: true}\n";

struct Table : Kitchen {
    Table() : Kitchen(kRecipe) { REQUIRE(run({"run"}).exit == 0); }
    std::string result = directory.write("r.json", "{\"n\": 1}");
    [[nodiscard]] ProcessResult call(const std::vector<std::string>& arguments,
                                     const ProcessOptions& options = {}) const {
        if (arguments[0] != "gate" && arguments[0] != "schema" && arguments[0] != "clean")
            return run(arguments, options);
        return run_process(with({tool_path("recipe")}, arguments), options);
    }
    // Every command that prints; none changes what the others see.
    [[nodiscard]] std::vector<std::vector<std::string>> commands() const {
        return {{"run"},
                {"run", "--dry-run"},
                {"plan"},
                {"check"},
                {"graph"},
                {"graph", "--format", "mermaid"},
                {"explain", "b"},
                {"export", "--make"},
                {"export", "--slurm"},
                {"gate", result, "--assert", "n==1"},
                {"schema"},
                {"clean", "--workdir", work, "--dry-run"}};
    }
};

std::ptrdiff_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

TEST_CASE("recipe manners: with --json - stdout is one JSON document, without it text") {
    const Table t;
    for (const std::vector<std::string>& command : t.commands()) {
        CAPTURE(command[0]);
        const ProcessResult text = t.call(command);
        CHECK(text.exit == 0);
        CHECK_FALSE(text.out.empty());
        CHECK(text.out.back() == '\n');
        const ProcessResult json = t.call(with(command, {"--json", "-"}));
        CHECK(json.exit == 0);
        const Json report = parse_json(json.out, "report");
        CHECK(report.find("tool")->as_string("tool") == "recipe");
        CHECK(report.find("command")->as_string("command") == command[0]);
        CHECK(report.find("exit")->as_int("exit") == 0);
    }
}

TEST_CASE("recipe manners: a reader that leaves, a closed and a full stdout, a closed stdin") {
    const Table t;
    for (const std::vector<std::string>& command : t.commands()) {
        CAPTURE(command[0]);
        const ProcessResult full = t.call(with(command, {"-q"}), {.stdout_path = "/dev/full"});
        CHECK(full.exit == 74);
        CHECK(full.err == "recipe: stdout: No space left on device\n");
        CHECK(t.call(with(command, {"-q"}), {.close_stdout = true}).exit == 74);
        CHECK(t.call(with(command, {"-q"}), {.close_stdin = true}).exit == 0);
    }
    const Kitchen long_one(
        "recipe: 1\nsteps: [{id: a, uses: toy, with: {repeat: 1000000}, show: true}]\n");
    const ProcessResult head = long_one.run({"run", "-q"}, {.read_at_most = 10});
    CHECK(head.signal == SIGPIPE);
    CHECK(lines(head.err) <= 1);
    CHECK_FALSE(head.timed_out);
}

TEST_CASE("recipe manners: -q leaves nothing on stderr, and progress is JSON lines") {
    const Table t;
    for (const std::vector<std::string>& command : t.commands())
        CHECK_MESSAGE(t.call(with(command, {"-q"})).err.empty(), command[0]);
    const ProcessResult r =
        t.run({"run", "-q", "--from", "a", "--progress", "jsonl", "--json", "-"});
    CHECK(r.exit == 0);
    (void)parse_json(r.out, "report");
    REQUIRE(lines(r.err) >= 2);
    std::size_t at = 0;
    while (at < r.err.size()) {
        const std::size_t end = r.err.find('\n', at);
        CHECK(parse_json(r.err.substr(at, end - at), "progress").find("done") != nullptr);
        at = end + 1;
    }
}

TEST_CASE("recipe manners: every error is one line that names what is wrong") {
    const Table t;
    const auto error = [&](const std::vector<std::string>& command, int exit) {
        const ProcessResult r = t.call(command);
        CAPTURE(command[0]);
        CHECK(r.exit == exit);
        CHECK(lines(r.err) == 1);
        CHECK(r.out.empty());
        return r.err;
    };
    CHECK(has(error({"explain", "c"}, 2), "unknown step 'c'"));
    CHECK(has(error({"gate", t.directory.file("no.json"), "--assert", "n<1"}, 66), "no.json"));
    CHECK(has(error({"gate", t.recipe_file, "--assert", "n<1"}, 65), "r.yaml"));
    CHECK(has(error({"export", "--make", "--slurm"}, 2), "choose one"));
    CHECK(has(error({"schema", "--output", "/nowhere/x"}, 73), "/nowhere/x"));
    CHECK(has(error({"graph", "--overlay", t.directory.file("no.yaml")}, 66), "no.yaml"));
    CHECK(has(error({"exlpain", "a"}, 2), "did you mean 'explain'?"));
}
