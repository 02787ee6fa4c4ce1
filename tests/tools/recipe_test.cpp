// SPDX-License-Identifier: Apache-2.0
// The recipe tool over the toy tool: order, cache, why steps run, exit codes, locks.
#include <doctest/doctest.h>

#include <csignal>
#include <thread>

#include "io/json.h"
#include "tests/tools/recipe_kitchen.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// a -> b -> show
const std::string kChain =
    "recipe: 1\n"
    "vars: {text: ~, format: plain}\n"
    "steps:\n"
    "  - id: show\n"
    "    uses: toy\n"
    "    with: {input: '${steps.b.output}', shout: true}\n"
    "    show: true\n"
    "  - id: b\n"
    "    uses: toy\n"
    "    with: {input: '${steps.a.output}', output: deep/er/b.txt, format: '${vars.format}',"
    " newline: false}\n"
    "  - id: a\n"
    "    uses: toy\n"
    "    with: {input: '${vars.text}', output: a.txt, newline: false}\n";

const std::vector<std::string> kRun = {"run", "--set", "text=in.txt"};

}  // namespace

TEST_CASE("recipe: runs in order, then does nothing and says why") {
    const Kitchen k(kChain);
    const ProcessResult first = k.run(kRun);
    CHECK_MESSAGE(first.exit == 0, first.err);
    CHECK(first.out == "hello!\n");
    CHECK(k.out("deep/er/b.txt") == "hello");
    CHECK(has(first.err, "a: toy (never run)"));
    const ProcessResult second = k.run(kRun);
    CHECK(second.exit == 0);
    CHECK(second.out == "hello!\n");
    CHECK(has(second.err, "nothing to do: all 3 steps are up to date"));
    CHECK(has(second.err, "a: up to date (tool, options and inputs as on "));
}

TEST_CASE("recipe: one changed option reruns exactly the affected steps") {
    const Kitchen k(kChain);
    REQUIRE(k.run(kRun).exit == 0);
    const ProcessResult changed = k.run(with(kRun, {"--set", "format=upper"}));
    CHECK(changed.out == "HELLO!\n");
    CHECK(has(changed.err, "a: up to date"));
    CHECK(has(changed.err, "b: toy (format: default -> [\"upper\"])"));
    CHECK(has(changed.err, "show: toy (input 'input' changed)"));

    write_file(k.directory.file("in.txt"), "bye");
    const ProcessResult input = k.run(with(kRun, {"--set", "format=upper"}));
    CHECK(input.out == "BYE!\n");
    CHECK(has(input.err, "a: toy (input 'input' changed)"));

    write_file(k.directory.file("w/a.txt"), "tampered");
    const ProcessResult output = k.run(with(kRun, {"--set", "format=upper"}));
    CHECK(output.out == "BYE!\n");
    CHECK(has(output.err, "a.txt' was changed)"));
    CHECK(has(output.err, "b: up to date"));
    std::filesystem::remove(k.directory.file("w/a.txt"));
    CHECK(has(k.run(with(kRun, {"--set", "format=upper"})).err, "a.txt' is missing)"));
}

TEST_CASE("recipe: threads and budget do not change a result, the instruction set may") {
    const Kitchen k(kChain);
    REQUIRE(k.run(with(kRun, {"--threads", "1"})).exit == 0);
    CHECK(has(k.run(with(kRun, {"--threads", "2", "--max-memory", "ram=100MiB"})).err,
              "nothing to do"));
    const ProcessResult why =
        k.run({"explain", "a", "--set", "text=in.txt", "--cpu-isa", "portable"});
    CHECK(has(why.out, "\n  options.cpu-isa: default -> [\"portable\"]\n"));
    CHECK(has(why.out, "\n  isa: "));  // the one in use, also where none is asked for
    CHECK(has(k.run(with(kRun, {"--cpu-isa", "portable"})).err, "a: toy ("));
}

TEST_CASE("recipe: a step may have a budget of its own") {
    const auto run_with = [](const std::string& budget) {
        const Kitchen k("recipe: 1\nsteps:\n  - {id: a, uses: toy, with: {output: a.txt" + budget +
                        "}}\n");
        const ProcessResult r = k.run({"run"});
        CHECK(std::filesystem::exists(k.directory.file("w/a.txt")) == (r.exit == 0));
        return r.exit;
    };
    CHECK(run_with(", max-memory: ram=1") == 77);
    CHECK(run_with(", max-memory: ram=1GiB") == 0);
    CHECK(run_with("") == 0);
}

TEST_CASE("recipe: measured steps are rerun on demand, others never") {
    std::string text = kChain;
    text.replace(text.find("    show: true"), 14, "    show: true\n    measure: once");
    const Kitchen k(text);
    REQUIRE(k.run(kRun).exit == 0);
    const ProcessResult cached = k.run(kRun);
    CHECK(has(cached.err, ", measured on "));
    const ProcessResult again = k.run(with(kRun, {"--remeasure"}));
    CHECK(has(again.err, "a: up to date"));
    CHECK(has(again.err, "show: toy (--remeasure)"));
    text.replace(text.find("once"), 4, "always");
    const Kitchen always(text);
    REQUIRE(always.run(kRun).exit == 0);
    CHECK(has(always.run(kRun).err, "show: toy (measure: always)"));
}

TEST_CASE("recipe: --from and --only") {
    const Kitchen k(kChain);
    CHECK(k.run(with(kRun, {"--only", "b"})).exit == 66);
    REQUIRE(k.run(with(kRun, {"--only", "a"})).exit == 0);
    CHECK_FALSE(std::filesystem::exists(k.directory.file("w/deep/er/b.txt")));
    REQUIRE(k.run(kRun).exit == 0);
    const ProcessResult from = k.run(with(kRun, {"--from", "b"}));
    CHECK(has(from.err, "a: up to date"));
    CHECK(has(from.err, "b: toy (--from)"));
    CHECK(has(from.err, "show: toy (--from)"));
    const ProcessResult unknown = k.run(with(kRun, {"--from", "bb"}));
    CHECK(unknown.exit == 2);
    CHECK(has(unknown.err, "--from: unknown step 'bb'"));
}

TEST_CASE("recipe: --dry-run prints commands that a shell can run") {
    const Kitchen k(kChain);
    const ProcessResult dry = k.run(with(kRun, {"--dry-run"}));
    CHECK(dry.exit == 0);
    CHECK_FALSE(std::filesystem::exists(k.directory.file("w")));
    const ProcessResult pasted =
        run_process({"/bin/sh", "-e"}, {.input = dry.out, .directory = k.directory.path()});
    CHECK(pasted.exit == 0);
    CHECK(has(pasted.out, "hello!\n"));
    CHECK(k.out("deep/er/b.txt") == "hello");
}

TEST_CASE("recipe: check and plan") {
    const Kitchen k(kChain);
    CHECK(k.run({"check", "--set", "text=in.txt"}).exit == 0);
    CHECK(k.run({"check", "--set", "text=absent.txt"}).exit == 66);
    const ProcessResult plan = k.run({"plan", "--set", "text=in.txt", "--json", "-"});
    CHECK(plan.exit == 0);
    const Json steps = *parse_json(plan.out, "plan").find("steps");
    REQUIRE(steps.as_array("s").size() == 3);
    CHECK(steps.as_array("s")[0].find("predicted")->find("ram_peak_bytes")->as_int("s") > 0);
    CHECK(steps.as_array("s")[1].find("predicted") == nullptr);
    CHECK_FALSE(std::filesystem::exists(k.directory.file("w/a.txt")));
    REQUIRE(k.run(kRun).exit == 0);
    const ProcessResult after = k.run({"plan", "--set", "text=in.txt", "--set", "format=upper"});
    CHECK(has(after.out, "up to date"));
    CHECK(has(after.out, "'b' runs before it"));
}

TEST_CASE("recipe: wrong options are found before anything runs, with the line") {
    const auto error = [](const std::string& with_text) {
        const Kitchen k(
            "recipe: 1\nsteps:\n  - id: ok\n    uses: toy\n    with: {output: x.txt}\n"
            "  - id: a\n    uses: toy\n    with: " +
            with_text + "\n");
        const ProcessResult r = k.run({"run"});
        CHECK(r.exit == 2);
        CHECK_FALSE(std::filesystem::exists(k.directory.file("w/x.txt")));
        return r.err;
    };
    CHECK(has(error("{fromat: upper}"),
              "r.yaml:8: toy has no option 'fromat' (did you mean 'format'?)"));
    CHECK(has(error("{format: uper}"), "r.yaml:8: format: 'uper' is not one of plain, upper"));
    CHECK(has(error("{repeat: many}"), "r.yaml:8: repeat: 'many' is not a whole number"));
    CHECK(has(error("{repeat: -1}"), "is less than 0"));
    CHECK(has(error("{output: ../y}"), "leaves the work directory"));
    CHECK(has(error("{output: /tmp/y}"), "is absolute"));
    CHECK(has(error("{output: x.txt}"), "is written by step 'ok', too"));
    const Kitchen k("recipe: 1\nsteps: [{id: a, uses: tow}]\n");
    CHECK(has(k.run({"run"}).err, "no tool 'tow' that a step could use (did you mean 'toy'?)"));
    const Kitchen command("recipe: 1\nsteps: [{id: a, uses: toy fial}]\n");
    CHECK(has(command.run({"run"}).err, "no command 'toy fial'"));
    const Kitchen required("recipe: 1\nsteps: [{id: a, uses: toy fail}]\n");
    CHECK(has(required.run({"run"}).err, "lacks 'code', which toy requires"));
}

TEST_CASE(
    "recipe: the first failing step's exit code is the recipe's, and later steps do not run") {
    const Kitchen k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt}}\n"
        "  - {id: f, uses: toy fail, with: {code: 65}, needs: [a]}\n"
        "  - {id: b, uses: toy, with: {output: b.txt}, needs: [f]}\n"
        "  - {id: c, uses: toy, with: {output: c.txt}}\n");
    const ProcessResult r = k.run({"run"});
    CHECK(r.exit == 65);
    CHECK(has(r.err, "toy: file.bin: is odd (make it even)\n"));
    CHECK(has(r.err, "step 'f' (toy) ended with exit code 65"));
    CHECK(k.out("a.txt") == "text\n");
    CHECK_FALSE(k.there("b.txt"));
    CHECK_FALSE(k.there("c.txt"));
    CHECK(has(k.run({"run"}).err, "a: up to date"));
}

TEST_CASE("recipe: two runs on one work directory take turns") {
    const Kitchen k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt, repeat: 10, wait: 30}}\n");
    ProcessResult one, two;
    std::thread other([&] { one = k.run({"run"}); });
    two = k.run({"run"});
    other.join();
    CHECK(one.exit == 0);
    CHECK(two.exit == 0);
    const bool first_waited = has(one.err, "up to date (");
    const bool second_waited = has(two.err, "up to date (");
    CHECK(first_waited != second_waited);
    CHECK(has(first_waited ? one.err : two.err, "another run holds this work directory"));
}

TEST_CASE("recipe: a signal reaches the step, and the next run goes on") {
    const Kitchen k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt}}\n"
        "  - {id: b, uses: toy, with: {repeat: 2000, wait: 10}, needs: [a]}\n"
        "  - {id: c, uses: toy, with: {output: c.txt}, needs: [b]}\n");
    const ProcessResult r = k.run({"run"}, {.send_signal = SIGTERM, .signal_after = "b: toy"});
    CHECK(r.exit == 128 + SIGTERM);
    CHECK_FALSE(r.timed_out);
    CHECK(has(r.err, "step 'b' (toy) ended with exit code 143"));
    CHECK_FALSE(k.there("c.txt"));
    const ProcessResult next = k.run({"run", "--set", "steps.b.with.repeat=1"});
    CHECK(next.exit == 0);
    CHECK(has(next.err, "a: up to date"));
    CHECK(k.there("c.txt"));
}

TEST_CASE("recipe: the report holds the steps' records, stdout only one of text and JSON") {
    const Kitchen k(kChain);
    const ProcessResult r = k.run(with(kRun, {"--json", "-"}));
    CHECK(r.exit == 0);
    const Json report = parse_json(r.out, "report");
    const JsonArray& steps = report.find("steps")->as_array("steps");
    REQUIRE(steps.size() == 3);
    CHECK(steps[0].find("id")->as_string("s") == "a");
    CHECK(steps[0].find("ran")->as_bool("s"));
    CHECK(steps[0].find("record")->find("peak_rss_bytes")->as_int("s") > 0);
}
