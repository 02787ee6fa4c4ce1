// SPDX-License-Identifier: Apache-2.0
// offload-train --offload: the same model from less memory, and disks that do not do.
#include <doctest/doctest.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf");
    std::string data = directory.write("data.txt", std::string(2000, 'a') + "\nthe end\n");

    Bench() { write_tiny_model(model, "llama-tied"); }
    [[nodiscard]] ProcessResult run(const std::string& output, std::vector<std::string> more,
                                    const ProcessOptions& options = {}) const {
        std::vector<std::string> words = {tool_path("offload-train"),
                                          "-m",
                                          model,
                                          "--data",
                                          data,
                                          "-o",
                                          directory.file(output),
                                          "-c",
                                          "64",
                                          "--steps",
                                          "4",
                                          "--method",
                                          "full",
                                          "-b",
                                          "2",
                                          "--json",
                                          directory.file(output + ".json"),
                                          "--grad-accumulation",
                                          "1",
                                          "--lr",
                                          "0.01",
                                          "--max-grad-norm",
                                          "0",
                                          "--threads",
                                          "2"};
        words.insert(words.end(), more.begin(), more.end());
        return run_process(words, options);
    }
};

}  // namespace

TEST_CASE("training on disk leaves the same file, and says what went to and fro") {
    const Bench bench;
    const ProcessResult memory = bench.run("memory.gguf", {"--update-in-backward"});
    CAPTURE(memory.err);
    REQUIRE(memory.exit == 0);
    const ProcessResult disk = bench.run(
        "disk.gguf",
        {"--update-in-backward", "--offload", "optimizer=disk,activations=disk,parameters=disk"});
    CAPTURE(disk.err);
    REQUIRE(disk.exit == 0);
    CHECK(read_file(bench.directory.file("memory.gguf")) ==
          read_file(bench.directory.file("disk.gguf")));
    const Json report = parse_json(read_file(bench.directory.file("disk.gguf.json")), "report");
    const Json* told = report.find("disk");
    REQUIRE(told != nullptr);
    CHECK(told->find("bytes_written")->as_double("report") > 0);
    CHECK_FALSE(told->find("engine")->as_string("report").empty());
    CHECK(disk.err.find("hidden behind computation") != std::string::npos);
}

TEST_CASE("what goes wrong with the disk is told before training") {
    const Bench bench;
    const auto wrong = [&](const std::vector<std::string>& more, int exit, const char* text,
                           const ProcessOptions& options = {}) {
        const ProcessResult r = bench.run("out.gguf", more, options);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(text) != std::string::npos);
        CHECK_FALSE(std::filesystem::exists(bench.directory.file("out.gguf")));
    };
    wrong({"--offload", "optimizer=tape"}, 2, "disk");
    wrong({"--offload", "optimiser=disk"}, 2, "optimizer");
    wrong({"--offload-dir", "/tmp"}, 2, "nothing is offloaded");
    wrong({"--offload", "parameters=disk"}, 2, "--update-in-backward");
    wrong({"--offload", "optimizer=disk", "--offload-dir", bench.directory.file("none")}, 73,
          "none");
    wrong({"--offload", "optimizer=disk", "--max-memory", "disk=4KiB"}, 77, "disk");
    wrong({"--offload", "optimizer=disk"}, 74, bench.directory.path().c_str(),
          {.file_limit_bytes = 65536});
}

TEST_CASE("what is named where the budget is too small makes it fit") {
    const Bench bench;
    const auto plan = [&](const std::vector<std::string>& more, const std::string& limit) {
        std::vector<std::string> words = {"--dry-run", "--max-memory", "ram=" + limit};
        words.insert(words.end(), more.begin(), more.end());
        return bench.run("out.gguf", words);
    };
    const auto peak = [&] {
        const Json report = parse_json(read_file(bench.directory.file("out.gguf.json")), "report");
        return report.find("plan")
            ->find("tiers")
            ->find("ram")
            ->find("peak_bytes")
            ->as_int("report");
    };
    for (const std::vector<std::string>& base :
         {std::vector<std::string>{"-b", "8", "--loss", "dense", "--checkpoint-layers", "0"},
          {"-b", "8", "--offload", "activations=disk"},
          {"--method", "lora", "-b", "4"}}) {
        CAPTURE(base[0]);
        REQUIRE(plan(base, "1GiB").exit == 0);
        const std::int64_t most = peak();
        const std::int64_t step = (most - (std::int64_t{13} << 20)) / 10;
        std::int64_t limit = most - 1;
        int named = 0;
        std::set<std::string> remedies;
        for (; named < 12; ++named, limit -= step) {
            const ProcessResult refused = plan(base, std::to_string(limit));
            CAPTURE(refused.err);
            REQUIRE(refused.exit == 77);
            const std::size_t begin = refused.err.rfind("needed (") + 7;
            if (refused.err.find("(even --") != std::string::npos) break;
            REQUIRE(refused.err.find(" save", begin) != std::string::npos);
            const std::string text =
                refused.err.substr(begin + 1, refused.err.find(" save", begin) - begin - 1);
            remedies.insert(text);
            std::vector<std::string> words = base;
            std::istringstream parts(text);
            for (std::string word; parts >> word;) words.push_back(word);
            const ProcessResult fits = plan(words, std::to_string(limit));
            CAPTURE(fits.err);
            CHECK(fits.exit == 0);
        }
        CHECK(named > 0);
        CHECK(named < 12);  // in the end nothing does, and that is said
        if (base[0] == "-b") CHECK(remedies.size() >= 3);
    }
}
