// SPDX-License-Identifier: Apache-2.0
// offload-train --offload: the same model from less memory, and disks that do not do.
#include <doctest/doctest.h>

#include <filesystem>

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
    wrong({"--max-memory", "ram=15MiB"}, 77, "--offload optimizer=disk saves");
}
