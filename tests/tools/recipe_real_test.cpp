// SPDX-License-Identifier: Apache-2.0
// Recipes, Makefiles and jobs over the real tools and tiny models; the committed examples and
// schema.
#include <doctest/doctest.h>

#include <algorithm>

#include "cli/yaml.h"
#include "io/json.h"
#include "tests/support/tiny_model.h"
#include "tests/tools/recipe_kitchen.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::string kRecipes = std::string(THIMBLE_SOURCE_DIR) + "/recipes/";

// recipes/gate.yaml beside a model and a text, and the tools under their installed names.
struct Workshop {
    TemporaryDirectory directory;

    Workshop() {
        write_tiny_model(directory.file("model.gguf"), "llama-tied", "f32");
        std::string text;
        for (int i = 0; i < 60; ++i) text += "a line of text, number " + std::to_string(i) + "\n";
        directory.write("text.txt", text);
        std::filesystem::create_directory(directory.file("bin"));
        for (const char* tool : {"quantize", "evaluate", "run", "recipe"})
            std::filesystem::create_symlink(tool_path(tool),
                                            directory.file("bin/thimble-" + std::string(tool)));
        std::filesystem::create_directory_symlink(kRecipes, directory.file("recipes"));
    }
    [[nodiscard]] ProcessResult shell(const std::string& line) const {
        return run_process({"/bin/bash", "-c", "PATH=$PWD/bin:$PATH; export PATH; " + line},
                           {.directory = directory.path()});
    }
    [[nodiscard]] ProcessResult run(const std::string& more) const {
        return shell(
            "thimble-recipe run recipes/gate.yaml -w w --set model=model.gguf --set text=text.txt "
            "--set windows=1 --threads 1 " +
            more);
    }
    [[nodiscard]] bool there(const std::string& name) const {
        return std::filesystem::exists(directory.file(name));
    }
};

}  // namespace

TEST_CASE(
    "gate recipe: one changed flag reruns exactly what it affects, over the recipe's own files") {
    const Workshop w;
    const ProcessResult first = w.run("");
    REQUIRE_MESSAGE(first.exit == 0, first.err);
    CHECK(has(first.err, "good: gate kld_mean<0.05 holds: kld_mean is "));
    CHECK(has(w.run("").err, "nothing to do: all 3 steps are up to date"));

    const ProcessResult other = w.run("--set format=q4_0 --set limit=100");
    CHECK_MESSAGE(other.exit == 0, other.err);  // small.gguf is replaced: a step wrote it
    CHECK(has(other.err, "small: quantize (format: [\"q8_0\"] -> [\"q4_0\"])"));
    CHECK(has(other.err, "good: evaluate (input 'model' changed)"));
    CHECK(other.out != first.out);

    const ProcessResult windows = w.run("--set format=q4_0 --set limit=100 --set windows=2");
    CHECK(has(windows.err, "small: up to date"));
    CHECK(has(windows.err, "good: evaluate (chunks: [\"1\"] -> [\"2\"])"));

    const ProcessResult back = w.run("");
    CHECK(has(back.err, "small: quantize ('w/small.gguf' was changed)"));
    CHECK(has(back.err, "good: evaluate ('w/small.json' was changed)"));
}

TEST_CASE("gate recipe: a gate that fails ends with 3 and is checked again without work") {
    const Workshop w;
    const ProcessResult first = w.run("--set limit=-1");
    CHECK(first.exit == 3);
    CHECK(has(first.err, "gate kld_mean<-1 failed: kld_mean is "));
    CHECK(first.out.empty());
    const ProcessResult second = w.run("--set limit=100");
    CHECK(second.exit == 0);
    CHECK(has(second.err, "good: up to date"));
}

TEST_CASE("recipe: a file that no step wrote is not replaced") {
    const Workshop w;
    std::filesystem::create_directory(w.directory.file("w"));
    write_file(w.directory.file("w/small.gguf"), "by hand");
    const ProcessResult r = w.run("");
    CHECK(r.exit == 73);
    CHECK(read_file(w.directory.file("w/small.gguf")) == "by hand");
}

TEST_CASE("recipe: what a killed step has left is its own, and is replaced") {
    const Workshop w;
    REQUIRE(w.run("--only small").exit == 0);
    // As a run that was killed after the file was there and before it was recorded.
    write_file(w.directory.file("w/small.gguf"), "cut short");
    write_file(w.directory.file("w/.thimble/begun/small.json"),
               R"({"id": "small", "outputs": ["small.gguf"]})");
    const ProcessResult r = w.run("");
    CHECK_MESSAGE(r.exit == 0, r.err);
    CHECK_FALSE(w.there("w/.thimble/begun/small.json"));
    const ProcessResult plan = w.shell(
        "thimble-recipe plan recipes/gate.yaml -w w --set model=model.gguf --set text=text.txt "
        "--set format=q4_0 --threads 1");
    CHECK_MESSAGE(plan.exit == 0, plan.err);  // over an output that is there
    CHECK(has(plan.out, "'small' runs before it"));
}

TEST_CASE("recipe: a locked run of the gate recipe makes the same bytes again") {
    const Workshop w;
    REQUIRE(w.run("").exit == 0);
    const std::string model = read_file(w.directory.file("w/small.gguf"));
    REQUIRE(w.shell("mv w/recipe.lock.json lock.json && rm -r w").exit == 0);
    const ProcessResult r = w.run("--locked --lock lock.json");
    CHECK_MESSAGE(r.exit == 0, r.err);
    CHECK(read_file(w.directory.file("w/small.gguf")) == model);
    CHECK_FALSE(w.there("w/recipe.lock.json"));
    CHECK(w.run("--locked --lock lock.json --set format=q4_0").exit == 2);
}

TEST_CASE("recipe export --make over the real tools: builds once, then has nothing to do") {
    const Workshop w;
    const std::string sets = " --set model=model.gguf --set text=text.txt --set windows=1 ";
    REQUIRE(
        w.shell("thimble-recipe export recipes/gate.yaml -w w --make -o Makefile" + sets).exit ==
        0);
    const ProcessResult r = w.shell("make -s -j2");
    CHECK_MESSAGE(r.exit == 0, r.err);
    CHECK(has(r.out, "KLD"));
    CHECK(w.shell("make").out == "make: Nothing to be done for 'all'.\n");
    CHECK(w.shell("touch model.gguf && make -n | grep -c -- --output").out == "2\n");
    CHECK(w.shell("make -s").exit == 0);  // --overwrite
    CHECK(w.shell("make").out == "make: Nothing to be done for 'all'.\n");
}

TEST_CASE("examples: the Makefile builds, gates and builds nothing twice") {
    const Workshop w;
    const std::string make = "make -f recipes/examples/Makefile ";
    const ProcessResult r = w.shell(make);
    CHECK_MESSAGE(r.exit == 0, r.err);
    CHECK(w.shell(make).out == "make: Nothing to be done for 'all'.\n");
    const ProcessResult worse = w.shell(make + "-B FORMAT=q4_0");
    CHECK(worse.exit == 2);
    CHECK(has(worse.err, "Error 3"));
    CHECK_FALSE(w.there("absent"));
}

TEST_CASE("examples: the CI job's commands run") {
    const Workshop w;
    const cli::YamlNode ci = cli::read_yaml_file(kRecipes + "examples/ci.yml");
    std::vector<std::string> commands;
    for (const cli::YamlNode& step : ci.find("jobs")->find("quality")->find("steps")->items)
        if (const cli::YamlNode* run = step.find("run")) commands.push_back(run->text);
    REQUIRE(commands.size() == 2);
    for (const std::string& command : commands) {
        const ProcessResult r = w.shell(command);
        CHECK_MESSAGE(r.exit == 0, r.err);
    }
    CHECK(w.there("report.json"));
    CHECK(w.shell(commands[1] + " --set format=q4_0 --set limit=0").exit == 3);
}

TEST_CASE("examples: the batch job hands its memory on and ends with the recipe's code") {
    const Workshop w;
    const std::string job = "SLURM_JOB_ID=1 SLURM_MEM_PER_NODE=";
    CHECK(w.shell("bash -n recipes/examples/job.sbatch").exit == 0);
    CHECK(w.shell(job + "9 bash recipes/examples/job.sbatch").exit == 77);
    CHECK(w.shell(job + "8192 bash recipes/examples/job.sbatch").exit == 0);
}

TEST_CASE("recipe schema: the committed file is what the tools say; if not: recipe schema -o it") {
    const ProcessResult r = run_process({tool_path("recipe"), "schema"});
    REQUIRE(r.exit == 0);
    CHECK(r.out == read_file(kRecipes + "recipe.schema.json"));
    std::size_t recipes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(kRecipes)) {
        if (entry.path().extension() != ".yaml") continue;
        ++recipes;
        CHECK(read_file(entry.path())
                  .starts_with("# yaml-language-server: $schema=recipe.schema.json\n"));
    }
    CHECK(recipes >= 2);
}
