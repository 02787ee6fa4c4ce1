// SPDX-License-Identifier: Apache-2.0
// The recipe tool over the toy tool: gates, overrides, explain, clean, the lock file, going on
// after a kill.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>

#include "io/json.h"
#include "tests/tools/recipe_kitchen.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// a -> gated -> after, and other, which needs nothing
const std::string kGated =
    "recipe: 1\n"
    "vars: {least: 2}\n"
    "steps:\n"
    "  - {id: a, uses: toy, with: {output: a.txt, repeat: 3}}\n"
    "  - id: gated\n"
    "    uses: toy\n"
    "    measure: once\n"
    "    with: {input: '${steps.a.output}', output: g.txt, repeat: 3}\n"
    "    assert: ['copies>=${vars.least}', measured.peak_rss_bytes > 0]\n"
    "  - {id: after, uses: toy, needs: [gated], with: {output: after.txt}}\n"
    "  - {id: other, uses: toy, with: {output: other.txt}}\n";

const std::string kPair =
    "recipe: 1\n"
    "steps:\n"
    "  - {id: a, uses: toy, with: {input: in.txt, output: deep/a.txt, newline: false}}\n"
    "  - {id: b, uses: toy, with: {input: '${steps.a.output}', output: b.txt, format: upper}}\n";

ProcessResult clean(const Kitchen& k, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {tool_path("recipe"), "clean", "--workdir", k.work});
    return run_process(more);
}

// in.txt of the recipe lies under the work directory.
void stock(const Kitchen& k) {
    std::filesystem::create_directories(k.work);
    write_file(k.directory.file("w/in.txt"), "hello");
}

}  // namespace

TEST_CASE(
    "recipe: a gate that fails ends with 3, stops what needs it, and measures no second time") {
    const Kitchen k(kGated);
    const ProcessResult failed = k.run({"run", "--set", "least=4", "--json", "r.json"});
    CHECK(failed.exit == 3);
    CHECK(has(failed.err, "r.yaml:9: step 'gated': gate copies>=4 failed: copies is 3\n"));
    CHECK_FALSE(k.there("after.txt"));
    CHECK_FALSE(k.there("other.txt"));
    const Json report = parse_json(read_file(k.directory.file("r.json")), "report");
    CHECK(report.find("exit")->as_int("exit") == 3);
    const JsonArray& steps = report.find("steps")->as_array("steps");
    REQUIRE(steps.size() == 2);
    CHECK_FALSE(steps[1].find("gates")->as_array("g")[0].find("holds")->as_bool("holds"));

    const ProcessResult again = k.run({"run", "--set", "least=5"});
    CHECK(again.exit == 3);
    CHECK(has(again.err, "gated: up to date"));
    const ProcessResult passed = k.run({"run"});
    CHECK(passed.exit == 0);
    CHECK(has(passed.err, "gated: up to date"));
    CHECK(has(passed.err, "gated: gate copies>=2 holds: copies is 3"));
    CHECK(k.there("after.txt"));
}

TEST_CASE("recipe: --keep-going runs what does not need the failed step") {
    const Kitchen k(kGated);
    const ProcessResult r = k.run({"run", "-k", "--set", "least=4"});
    CHECK(r.exit == 3);
    CHECK(k.there("other.txt"));
    CHECK_FALSE(k.there("after.txt"));
}

TEST_CASE("recipe: a gate on a figure that the step does not write names the nearest one") {
    const Kitchen k(kGated);
    const ProcessResult r = k.run({"run", "--set", "steps.gated.assert=copeis>1"});
    CHECK(r.exit == 2);
    CHECK(has(r.err, "the result has no figure 'copeis' (did you mean 'copies'?)"));
    CHECK(has(r.err, "--set steps.gated.assert"));
}

TEST_CASE("recipe gate: prints what holds, ends with 3 on what does not") {
    const TemporaryDirectory d;
    const std::string file =
        d.write("r.json", R"({"kld": {"value": 0.02, "standard_error": 1}, "bad": null})");
    const auto gate = [&](std::vector<std::string> more) {
        more.insert(more.begin(), {tool_path("recipe"), "gate", file});
        return run_process(more);
    };
    const ProcessResult good = gate({"--assert", "kld<0.03", "--assert", "kld != 1"});
    CHECK(good.exit == 0);
    CHECK(good.out == "kld<0.03 holds: kld is 0.02\nkld != 1 holds: kld is 0.02\n");
    const ProcessResult bad = gate({"--assert", "kld<0.03", "--assert", "kld>0.03"});
    CHECK(bad.exit == 3);
    CHECK(bad.err == "recipe: " + file + ": gate kld>0.03 failed: kld is 0.02\n");
    CHECK(gate({"--assert", "bad!=1"}).exit == 3);
    CHECK(gate({"--assert", "kld"}).exit == 2);
    CHECK(gate({}).exit == 2);
}

TEST_CASE(
    "recipe: --set, --overlay and --config change steps; a path that hits nothing is an error") {
    const Kitchen k(kPair);
    stock(k);
    REQUIRE(k.run({"run"}).exit == 0);
    CHECK(k.out("b.txt") == "HELLO\n");
    const ProcessResult set = k.run({"run", "--set", "steps.b.with.format=plain", "--set",
                                     "steps.b.with.rule=x", "--set", "steps.b.with.rule=y"});
    CHECK(has(set.err, "a: up to date"));
    CHECK(k.out("b.txt") == "hello x y\n");
    k.directory.write("o.yaml", "steps: {b: {with: {format: ~, shout: true}}}\n");
    REQUIRE(k.run({"run", "--overlay", "o.yaml"}).exit == 0);
    CHECK(k.out("b.txt") == "hello!\n");
    REQUIRE(k.run({"run", "--overlay", "o.yaml", "--set", "steps.b.with.shout=no"}).exit == 0);
    CHECK(k.out("b.txt") == "hello\n");
    k.directory.write("c.yaml", "set: ['steps.b.with.repeat=2']\n");
    REQUIRE(k.run({"run", "--config", "c.yaml"}).exit == 0);
    CHECK(k.out("b.txt") == "HELLO\nHELLO\n");

    const auto error = [&](const std::string& path) {
        const ProcessResult r = k.run({"run", "--set", path});
        CHECK(r.exit == 2);
        return r.err;
    };
    CHECK(has(error("steps.bb.with.format=x"), "unknown step 'bb' (did you mean 'b'?)"));
    CHECK(has(error("steps.b.with.fromat=x"), "--set steps.b.with.fromat: toy has no option"));
    CHECK(has(error("steps.b.with.format=upr"), "did you mean 'upper'?"));
    CHECK(has(error("steps.b.wiht.format=x"), "unknown key 'wiht'"));
    CHECK(has(error("step.b.with.format=x"), "did you mean 'steps'?"));
    CHECK(has(error("steps.b=x"), "names no key of step 'b'"));
    k.directory.write("o.yaml", "steps:\n  bb: {with: {format: plain}}\n");
    const ProcessResult overlay = k.run({"run", "--overlay", "o.yaml"});
    CHECK(overlay.exit == 2);
    CHECK(has(overlay.err, "o.yaml:2: unknown step 'bb'"));
}

TEST_CASE("recipe explain: which part of the key changed, inputs with hashes, where it is cached") {
    const Kitchen k(kPair);
    stock(k);
    const ProcessResult early = k.run({"explain", "b"});
    CHECK(has(early.out, "b: would run: waits for '"));
    CHECK(has(early.out, "deep/a.txt'\nneeds:\n  a\n"));
    REQUIRE(k.run({"run"}).exit == 0);
    const ProcessResult fresh = k.run({"explain", "b"});
    CHECK(has(fresh.out, "b: up to date"));
    CHECK(has(fresh.out, ".thimble/records/"));
    // printf hello | sha256sum
    CHECK(has(fresh.out, "5 B  sha256 2cf24dba5fb0a30e\n"));
    const ProcessResult other = k.run({"explain", "b", "--set", "steps.b.with.format=plain",
                                       "--set", "steps.b.with.repeat=2", "--json", "-"});
    const Json step = parse_json(other.out, "explain").find("steps")->as_array("s")[0];
    CHECK(step.find("runs")->as_bool("runs"));
    const JsonArray& changes = step.find("changes")->as_array("changes");
    REQUIRE(changes.size() == 2);
    CHECK(changes[0].find("name")->as_string("s") == "format");
    CHECK(changes[0].find("before")->as_string("s") == "[\"upper\"]");
    CHECK(changes[0].find("now")->as_string("s").empty());
    CHECK(changes[1].find("name")->as_string("s") == "repeat");
    CHECK(has(k.run({"explain", "b", "--set", "steps.a.with.repeat=2"}).out,
              "b: would run: 'a' runs before it\n"));
    write_file(k.directory.file("w/b.txt"), "mine");
    CHECK(has(k.run({"explain", "b"}).out, "(not as a step wrote it)"));
    CHECK(k.run({"explain", "c"}).exit == 2);
}

TEST_CASE("recipe graph: a tree, Graphviz, Mermaid") {
    const Kitchen k(kGated);
    CHECK(k.run({"graph"}).out ==
          "after  toy\n"
          "`-- gated  toy  [copies>=2]  [measured.peak_rss_bytes > 0]\n"
          "    `-- a  toy\n"
          "other  toy\n");
    CHECK(has(k.run({"graph", "--format", "dot"}).out, "  s0 -> s1;\n"));
    CHECK(has(k.run({"graph", "--format", "mermaid"}).out, "copies&gt;=2"));
    CHECK(k.run({"graph", "--format", "png"}).exit == 2);
}

TEST_CASE("recipe clean: removes what it made and nothing else") {
    const Kitchen k(kPair);
    stock(k);
    k.directory.write("outside.txt", "precious");
    REQUIRE(k.run({"run"}).exit == 0);
    CHECK(clean(k, {"--dry-run"}).out ==
          "would remove b.txt\nwould remove deep/a.txt\nwould remove .thimble\n");
    CHECK(k.there("b.txt"));
    write_file(k.directory.file("w/b.txt"), "changed by hand");
    const ProcessResult r = clean(k);
    CHECK(r.exit == 0);
    CHECK(r.out == "removed deep/a.txt\nremoved .thimble\n");
    CHECK(has(r.err, "kept b.txt: it was changed"));
    CHECK_FALSE(k.there("deep"));
    CHECK_FALSE(k.there(".thimble"));
    CHECK(k.there("in.txt"));
    CHECK(k.there("recipe.lock.json"));
    CHECK(clean(k).out.empty());
}

TEST_CASE("recipe: a file named inside an inline option is an input like any other") {
    const Kitchen k(
        "recipe: 1\n"
        "vars: {own: ~}\n"
        "steps:\n"
        "  - {id: first, uses: toy, with: {input: in.txt, output: made.txt}}\n"
        "  - id: b\n"
        "    uses: toy\n"
        "    with:\n"
        "      output: b.txt\n"
        "      end: ['file:from=${steps.first.output},but=${vars.own}', "
        "'word:text=from=in.txt']\n");
    stock(k);
    k.directory.write("own,1.txt", "x");
    const std::vector<std::string> own = {"--set", "own=own\\,1.txt"};
    const ProcessResult first = k.run(with({"run"}, own));
    REQUIRE_MESSAGE(first.exit == 0, first.err);
    CHECK(k.out("b.txt") == "texthello\nfrom=in.txt\n");
    CHECK(has(k.run(with({"run"}, own)).err, "b: up to date"));

    // The same bytes under another name change nothing; other bytes do, and explain says which.
    k.directory.write("same.txt", "x");
    CHECK(has(k.run({"run", "--set", "own=same.txt"}).err, "b: up to date"));
    k.directory.write("own,1.txt", "y");
    const ProcessResult explained = k.run(with({"explain", "b"}, own));
    CHECK(has(explained.out, "b: would run: input 'end.but' changed\n"));
    CHECK(has(explained.out, "  inputs.end.but: "));
    CHECK(has(explained.out, "  end.from  " + k.work + "/made.txt  6 B  sha256 "));
    CHECK(has(k.run(with({"run"}, own)).err, "b: toy (input 'end.but' changed)"));
    write_file(k.directory.file("w/in.txt"), "other");
    const ProcessResult upstream = k.run(with({"run"}, own));
    CHECK(has(upstream.err, "b: toy (input 'end.from' changed)"));
    CHECK(k.out("b.txt") == "textother\nfrom=in.txt\n");

    CHECK(k.run({"run", "--set", "own=none.txt"}).exit == 66);
    const ProcessResult out = k.run(with({"run", "--set", "steps.b.with.output=x.txt"}, own));
    CHECK(out.exit == 0);
    k.directory.write(
        "r.yaml",
        "recipe: 1\n"
        "steps: [{id: b, uses: toy, with: {output: b.txt, end: 'file:from=../in.txt'}}]");
    const ProcessResult outside = k.run({"check"});
    CHECK(outside.exit == 2);
    CHECK(has(outside.err, "r.yaml:2: end.from: '../in.txt' leaves the work directory"));
}

TEST_CASE("recipe clean: never leaves the work directory, --force removes what was changed") {
    const Kitchen k(kPair);
    stock(k);
    REQUIRE(k.run({"run", "--set", "steps.b.with.output=mine.txt"}).exit == 0);
    CHECK(read_file(k.directory.file("mine.txt")) == "HELLO\n");
    // deep becomes a link to a directory outside that holds the very same file
    std::filesystem::rename(k.directory.file("w/deep"), k.directory.file("elsewhere"));
    std::filesystem::create_directory_symlink(k.directory.file("elsewhere"),
                                              k.directory.file("w/deep"));
    const ProcessResult r = clean(k, {"--force"});
    CHECK(r.exit == 0);
    CHECK(has(r.err, "kept deep/a.txt: it lies outside"));
    CHECK(read_file(k.directory.file("elsewhere/a.txt")) == "hello");
    CHECK(read_file(k.directory.file("mine.txt")) == "HELLO\n");

    const Kitchen other(kPair);
    stock(other);
    REQUIRE(other.run({"run"}).exit == 0);
    write_file(other.directory.file("w/b.txt"), "changed");
    REQUIRE(clean(other, {"--force"}).exit == 0);
    CHECK_FALSE(other.there("b.txt"));
}

TEST_CASE("recipe run --locked: refuses what differs and says what") {
    const Kitchen k(kPair);
    stock(k);
    CHECK(k.run({"run", "--locked"}).exit == 66);
    REQUIRE(k.run({"run"}).exit == 0);
    const std::string lock = k.out("recipe.lock.json");
    CHECK_FALSE(has(lock, k.directory.path()));
    REQUIRE(clean(k).exit == 0);
    CHECK(k.run({"run", "--locked"}).exit == 0);
    CHECK(k.out("recipe.lock.json") == lock);

    std::filesystem::remove(k.directory.file("w/deep/a.txt"));
    const ProcessResult option = k.run({"run", "--locked", "--set", "steps.b.with.repeat=2"});
    CHECK(option.exit == 2);
    CHECK_FALSE(k.there("deep/a.txt"));  // found before anything ran
    REQUIRE(k.run({"run", "--locked"}).exit == 0);
    CHECK(has(option.err, "step 'b' differs: repeat was default, is [\"2\"]"));
    CHECK(has(k.run({"run", "--locked", "--cpu-isa", "portable"}).err, "isa was "));
    write_file(k.directory.file("w/in.txt"), "other");
    const ProcessResult input = k.run({"run", "--locked"});
    CHECK(input.exit == 65);
    CHECK(has(input.err, "step 'a' differs: input 'input' was "));
    CHECK(k.out("b.txt") == "HELLO\n");
    write_file(k.directory.file("w/in.txt"), "hello");

    std::string spoiled = lock;
    const std::size_t at = spoiled.find("\"b.txt\": \"");
    REQUIRE(at != std::string::npos);
    spoiled[at + 10] = spoiled[at + 10] == '0' ? '1' : '0';
    k.directory.write("spoiled.json", spoiled);
    const ProcessResult bytes = k.run({"run", "--locked", "--lock", "spoiled.json"});
    CHECK(bytes.exit == 65);
    CHECK(has(bytes.err, "step 'b' gave other bytes in 'b.txt' than then"));
    k.directory.write("not.json", "{\"a\": 1}\n");
    CHECK(k.run({"run", "--lock", "not.json"}).exit == 65);
    CHECK(read_file(k.directory.file("not.json")) == "{\"a\": 1}\n");
}

TEST_CASE("recipe: a step that ends with 75 is run again by the next run, the others are not") {
    const Kitchen k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt}}\n"
        "  - {id: f, uses: toy fail, with: {code: 75}, needs: [a]}\n");
    const ProcessResult r = k.run({"run"});
    CHECK(r.exit == 75);
    CHECK(has(r.err, "ended with exit code 75 (run again to go on)"));
    const ProcessResult again = k.run({"run", "--set", "steps.f.with.code=0"});
    CHECK(again.exit == 0);
    CHECK(has(again.err, "a: up to date"));
}

TEST_CASE("recipe: a killed run goes on where it was") {
    const Kitchen k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt}}\n"
        "  - {id: b, uses: toy, needs: [a],\n"
        "     with: {input: in.txt, output: b.txt, newline: false, repeat: 3000, wait: 10}}\n"
        "  - {id: c, uses: toy, with: {output: c.txt}, needs: [b]}\n");
    stock(k);
    write_file(k.directory.file("w/in.txt"), "");  // no broken pipe ends the step
    const ProcessResult killed =
        k.run({"run", "--verbose"}, {.send_signal = SIGKILL,
                                     .signal_after = "b: toy (never run)\ntoy: starting",
                                     .timeout_seconds = 20});
    CHECK(killed.signal == SIGKILL);
    CHECK_FALSE(killed.timed_out);  // as it would where the step lived on
    CHECK_FALSE(k.there("c.txt"));
    const ProcessResult r = k.run({"run", "--set", "steps.b.with.repeat=1"});
    CHECK(r.exit == 0);
    CHECK(has(r.err, "a: up to date"));
    CHECK(has(r.err, "b: toy (never run)"));
    CHECK(k.there("c.txt"));
}
