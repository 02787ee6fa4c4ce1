// SPDX-License-Identifier: Apache-2.0
// Exported Makefiles run by make, and batch scripts run by a stand-in for Slurm's commands.
#include <doctest/doctest.h>

#include <algorithm>
#include <regex>

#include "core/error.h"
#include "core/strings.h"
#include "recipe/export.h"
#include "tests/tools/recipe_kitchen.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// The work directory beside the caller's, so that exported paths are relative.
struct Shop : Kitchen {
    explicit Shop(const std::string& text) : Kitchen(text) {
        work = "w";
        std::filesystem::create_directories(directory.file("w"));
        write_file(directory.file("w/in.txt"), "hello");
    }
    void export_as(const std::string& kind, const std::string& file,
                   const std::vector<std::string>& more = {}) const {
        const ProcessResult r =
            run(with({"export", "--" + kind, "-o", directory.file(file), "--overwrite"}, more));
        REQUIRE_MESSAGE(r.exit == 0, r.err);
    }
    [[nodiscard]] ProcessResult make(const std::string& arguments) const {
        return shell("make --no-print-directory " + arguments);
    }
};

// Two sources, a matrix, a step without output, a gate on the step before it.
const std::string kTree =
    "recipe: 1\n"
    "vars: {odd: \"o dd $x 'q' #1(a)\", least: 1}\n"
    "steps:\n"
    "  - {id: a, uses: toy, with: {input: in.txt, output: '${vars.odd}/a b.txt', newline: false}}\n"
    "  - id: m\n"
    "    matrix: {f: [plain, upper]}\n"
    "    uses: toy\n"
    "    with: {input: '${steps.a.output}', output: 'm-${matrix.f}.txt', format: '${matrix.f}',\n"
    "           rule: [\"it's $HOME `id` \\\\ \\\"\"]}\n"
    "  - id: gated\n"
    "    uses: toy\n"
    "    with: {input: '${steps.m[upper].output}', repeat: 2}\n"
    "    show: true\n"
    "    assert: ['copies>=${vars.least}']\n"
    "  - {id: last, uses: toy, needs: [gated], show: true, with: {input: "
    "'${steps.m[plain].output}'}}\n";
const std::string kRule = " it's $HOME `id` \\ \"\n";

// With a stand-in for sbatch and scontrol on the PATH.
struct Cluster : Shop {
    std::string standin = directory.file("slurm");
    explicit Cluster(const std::string& text) : Shop(text) {
        const std::string script =
            read_file(std::string(THIMBLE_TESTS_DIR) + "/tools/slurm_standin.sh");
        std::filesystem::create_directories(standin);
        for (const char* name : {"sbatch", "scontrol"}) {
            write_file(standin + "/" + name, script);
            std::filesystem::permissions(standin + "/" + name, std::filesystem::perms::owner_all);
        }
    }
    [[nodiscard]] ProcessResult slurm(const std::string& line) const {
        return shell("PATH='" + standin + "':$PATH; " + line,
                     {.environment = {{"SLURM_STANDIN", standin}}});
    }
    [[nodiscard]] std::string log() const { return read_file(standin + "/log"); }
};

// The directives that sbatch reads: in the comment lines before the first command.
std::vector<std::string> directives(const std::string& script) {
    std::vector<std::string> found;
    for (const std::string& line : split(script, '\n')) {
        if (!line.empty() && line[0] != '#') break;
        if (line.starts_with("#SBATCH")) found.push_back(line);
    }
    return found;
}

}  // namespace

TEST_CASE("recipe export --make: make builds it once, in parallel, and odd names survive") {
    const Shop k(kTree);
    k.export_as("make", "Makefile");
    const ProcessResult first = k.make("-s -j2");
    REQUIRE_MESSAGE(first.exit == 0, first.err);
    CHECK(k.out("o dd $x 'q' #1(a)/a b.txt") == "hello");
    CHECK(k.out("m-plain.txt") == "hello" + kRule);
    CHECK(has(first.out, "HELLO" + kRule + "\nHELLO" + kRule + "\n"));
    const ProcessResult second = k.make("");
    CHECK(second.exit == 0);
    CHECK(second.out == "make: Nothing to be done for 'all'.\n");

    // One input newer: everything made from it, and nothing twice.
    CHECK(k.shell("touch -d '+1 hour' w/in.txt && make -n | grep -c -- --input").out == "5\n");
    CHECK(k.shell("make -n w/m-upper.txt | grep -c -- --input").out == "2\n");
    CHECK(k.make("-s clean").exit == 0);
    CHECK_FALSE(k.there("m-plain.txt"));
    CHECK_FALSE(k.there("o dd $x 'q' #1(a)/a b.txt"));
    CHECK(k.there("in.txt"));
}

TEST_CASE("recipe export --make: a failed gate shows its line and code, stops what needs it") {
    const Shop k(kTree);
    k.export_as("make", "Makefile", {"--set", "least=3"});
    for (int i = 0; i < 2; ++i) {
        const ProcessResult r = k.make(i == 0 ? "-k" : "");
        CHECK(r.exit == 2);
        CHECK(has(r.err, ".json: gate copies>=3 failed: copies is 2\n"));
        CHECK(has(r.err, "gated.gate] Error 3\n"));
        CHECK_FALSE(k.there(".thimble/export/last.done"));
        if (i == 1) CHECK_FALSE(has(r.out, "--input"));  // checked again, not run again
    }
}

TEST_CASE("recipe export --make: a failed tool leaves no target behind") {
    const Shop k(
        "recipe: 1\nsteps:\n  - {id: a, uses: toy, with: {input: in.txt, output: a.txt}}\n");
    k.export_as("make", "Makefile");
    REQUIRE(k.make("").exit == 0);
    // A command that writes half and fails.
    CHECK(k.shell("touch -d '+1 hour' w/in.txt; make TOY='sh -c \"echo half > w/a.txt; exit 74\"'")
              .exit == 2);
    CHECK_FALSE(k.there("a.txt"));
}

TEST_CASE("recipe export: refuses names that make cannot hold and files that are not its own") {
    const Shop k("recipe: 1\nsteps:\n  - {id: a, uses: toy, with: {output: 'a=b.txt'}}\n");
    const ProcessResult r = k.run({"export", "--make"});
    CHECK(r.exit == 2);
    CHECK(r.out.empty());
    CHECK(has(r.err, "make cannot name a file with '='"));
    k.directory.write("Makefile", "all: by hand\n");
    const ProcessResult kept = k.run({"export", "--slurm", "-o", k.directory.file("Makefile")});
    CHECK(kept.exit == 73);
    CHECK(read_file(k.directory.file("Makefile")) == "all: by hand\n");
    CHECK(k.run({"export"}).exit == 2);
    CHECK(k.run({"export", "--make", "--slurm"}).exit == 2);
    CHECK(k.run({"export", "--slurm", "--mem", "8 G"}).exit == 2);
    CHECK(k.run({"export", "--slurm", "--time", "1h; id"}).exit == 2);
}

TEST_CASE("recipe export --make: every character of a file name is held or refused") {
    std::string steps, held;
    for (char c = ' '; c < 0x7f; ++c) {
        recipe::ShellStep step;
        step.id = "s" + std::to_string(int{c});
        step.tool = "toy";
        step.outputs = {std::string("w/x") + c + "y"};
        step.command = {"/bin/toy", "--output", step.outputs[0]};
        try {
            (void)recipe::makefile({step}, "r.yaml", "stamps");
        } catch (const Error& e) {
            CHECK(e.exit() == Exit::kUsage);
            continue;
        }
        held += c;
        if (c == '/') continue;
        std::string quoted;  // in YAML's double quotes
        for (const char q : {'x', c, 'y'})
            quoted += q == '"' || q == '\\' ? std::string{'\\', q} : std::string{q};
        steps += "  - {id: " + step.id + ", uses: toy, with: {output: \"" + quoted +
                 "\", newline: false}}\n";
    }
    for (const char c : std::string(" $#'\"()-_+,.@^!<>`{}/aZ0"))
        CHECK_MESSAGE(held.find(c) != std::string::npos, c);
    const Shop k("recipe: 1\nsteps:\n" + steps);
    k.export_as("make", "Makefile");
    const ProcessResult r = k.make("-s -j2");
    CHECK_MESSAGE(r.exit == 0, r.err);
    CHECK(k.make("-q").exit == 0);
    for (const char c : held)
        if (c != '/') CHECK_MESSAGE(k.there(std::string("x") + c + "y"), c);
}

TEST_CASE("recipe export --slurm: bash and sbatch's rules accept it") {
    const Shop k(kTree);
    k.export_as("slurm", "job.sbatch", {"--mem", "2G", "--time", "01:30:00", "--cpus", "3"});
    CHECK(k.shell("bash -n job.sbatch").exit == 0);
    const std::string script = read_file(k.directory.file("job.sbatch"));
    const std::vector<std::string> found = directives(script);
    static const std::regex kDirective(
        "#SBATCH "
        "--(job-name=[A-Za-z0-9_.-]+|cpus-per-task=[1-9][0-9]*|time=([0-9]+-)?[0-9]+(:[0-9]{2}){0,"
        "2}"
        "|mem=[1-9][0-9]*[KMGT]|signal=(B:)?[A-Z0-9]+@[0-9]+|requeue|open-mode=(append|truncate))");
    for (const std::string& line : found) CHECK_MESSAGE(std::regex_match(line, kDirective), line);
    const auto holds = [&](const char* line) {
        return std::find(found.begin(), found.end(), std::string("#SBATCH ") + line) != found.end();
    };
    CHECK(holds("--cpus-per-task=3"));
    CHECK(holds("--time=01:30:00"));
    CHECK(holds("--mem=2G"));  // not every step's need is known yet
    CHECK(holds("--signal=B:USR1@120"));
    CHECK(holds("--requeue"));
    // The first step's input is there, so its need is known: the toy's megabyte and some room.
    CHECK(has(script, "--job-name=r.a --mem=65M "));
}

TEST_CASE("recipe export --slurm: stages wait for each other, array indices are matrix instances") {
    const Cluster k(kTree);
    k.export_as("slurm", "job.sbatch", {"--mem", "2000M"});
    const ProcessResult r = k.slurm("bash job.sbatch");
    REQUIRE_MESSAGE(r.exit == 0, r.err);
    CHECK(r.out == "a: job 101\nm: job 102\ngated: job 103\nlast: job 104\n");
    CHECK(k.log() ==
          "job 101: array 0 after none stage 0\njob 101: ok\n"
          "job 102: array 0-1 after 101 stage 1\njob 102: ok\n"
          "job 103: array 0 after 102 stage 2\njob 103: ok\n"
          "job 104: array 0 after 102:103 stage 3\njob 104: ok\n");
    CHECK(k.out("m-plain.txt") == "hello" + kRule);
    CHECK(k.out("m-upper.txt") == "HELLO" + kRule);
    CHECK(has(read_file(k.standin + "/out"), "copies>=1 holds: copies is 2\n"));
}

TEST_CASE("recipe export --slurm: a failed gate cancels what needs it, with its own exit code") {
    const Cluster k(kTree);
    k.export_as("slurm", "job.sbatch", {"--set", "least=3", "--mem", "2000M"});
    CHECK(k.slurm("bash job.sbatch").exit == 0);
    CHECK(has(k.log(), "job 103: failed-3\n"));
    CHECK(has(k.log(), "job 104: cancelled\n"));
    CHECK(k.slurm("sbatch job.sbatch").out == "105\n");
    CHECK(has(k.log(), "job 105: failed-3\n"));
}

TEST_CASE(
    "recipe export --slurm: a checkpointed step is requeued and goes on behind what is done") {
    const Cluster k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt}, show: true}\n"
        "  - {id: f, uses: toy fail, with: {code: 75}, needs: [a]}\n");
    k.export_as("slurm", "job.sbatch");
    CHECK(k.slurm("sbatch job.sbatch").out == "101\n");
    CHECK(has(k.log(), "scontrol requeue 101\nscontrol requeue 101\nscontrol requeue 101\n"));
    const std::string out = read_file(k.standin + "/out");
    CHECK(out.find("text\n") == out.rfind("text\n"));  // a ran once in three tries
    CHECK(has(k.log(), "job 101: failed-75\n"));
}

TEST_CASE("recipe export --slurm: the warning signal reaches the tool") {
    const Cluster k(
        "recipe: 1\nsteps:\n"
        "  - {id: a, uses: toy, with: {output: a.txt, repeat: 200, wait: 400}, show: true}\n");
    k.export_as("slurm", "job.sbatch");
    const ProcessResult r = k.shell(
        "SLURM_JOB_ID=7 bash job.sbatch 0 2> err & p=$!\n"
        "until grep -q starting err 2>/dev/null; do sleep 0.02; done\n"
        "kill -USR1 $p; wait $p; code=$?; [ ! -e w/a.txt ] || echo written; exit $code");
    CHECK(r.exit == 128 + 10);             // the toy saves nothing: 75 is for tools that do
    CHECK(has(r.out, "text\nwritten\n"));  // the job ends after its tool
    CHECK(r.out.size() < 500);
}
