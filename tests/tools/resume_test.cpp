// SPDX-License-Identifier: Apache-2.0
// quantize killed and run again.
#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <random>

#include "io/json.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setting {
    TemporaryDirectory directory;
    std::string input = directory.file("model.gguf"), output = directory.file("out.gguf");

    Setting() { ModelCopy::as_gguf(golden_model("gemma3").directory, "f32").write_gguf(input); }

    [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& more) const {
        std::vector<std::string> words = {
            tool_path("quantize"), "-q", "-m", input, "-o", output, "--format", "q4_0"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    // What an undisturbed run writes.
    [[nodiscard]] std::string wanted() const {
        const std::string other = directory.file("whole.gguf");
        REQUIRE(run_process({tool_path("quantize"), "-m", input, "-o", other, "--format", "q4_0"})
                    .exit == 0);
        std::string bytes = read_file(other);
        std::filesystem::remove(other);
        return bytes;
    }
    [[nodiscard]] int files() const {
        return static_cast<int>(std::distance(std::filesystem::directory_iterator(directory.path()),
                                              std::filesystem::directory_iterator()));
    }
};

// Runs it and kills it after so many milliseconds, unless it is done.
void run_and_kill(const std::vector<std::string>& command, int milliseconds) {
    std::string line;
    for (const std::string& word : command) line += "'" + word + "' ";
    const std::string delay = "0." +
                              std::string(milliseconds < 10    ? "00"
                                          : milliseconds < 100 ? "0"
                                                               : "") +
                              std::to_string(milliseconds);
    (void)run_process(
        {"/bin/sh", "-c",
         line + "> /dev/null 2>&1 & sleep " + delay + "; kill -9 $! 2> /dev/null; wait $!; true"});
}

}  // namespace

TEST_CASE(
    "quantize: killed at any moment and run again, it writes the file of an undisturbed run") {
    const Setting s;
    const std::string want = s.wanted();
    std::mt19937 random(7);
    for (const bool resume : {true, false}) {
        CAPTURE(resume);
        const std::vector<std::string> more =
            resume ? std::vector<std::string>{"--resume", "--checkpoint-every", "1"}
                   : std::vector<std::string>{};
        int left = 0;  // kills that left something behind
        for (int i = 0; i < 12; ++i) {
            run_and_kill(s.command(more), static_cast<int>(random() % (resume ? 60 : 12)));
            left += std::filesystem::exists(s.output + ".partial") ? 1 : 0;
            if (i % 3 != 2) continue;  // killed again before it may finish
            if (!std::filesystem::exists(s.output)) {
                const ProcessResult r = run_process(s.command(more));
                CAPTURE(r.err);
                REQUIRE(r.exit == 0);
            }
            CHECK(read_file(s.output) == want);
            CHECK(s.files() == 2);
            std::filesystem::remove(s.output);
        }
        MESSAGE(left << " of 12 kills left a partial file");
    }
}

TEST_CASE("quantize: --resume goes on from its checkpoints; a run without it begins anew") {
    const Setting s;
    const std::string want = s.wanted();
    const std::vector<std::string> resume = {"--resume", "--checkpoint-every", "1", "--json",
                                             s.directory.file("r.json")};
    for (int milliseconds = 4; !std::filesystem::exists(s.output + ".partial.checkpoints") ||
                               read_file(s.output + ".partial.checkpoints").size() < 400;
         milliseconds += 4) {
        REQUIRE(milliseconds < 1000);
        std::filesystem::remove(s.output);
        run_and_kill(s.command(resume), milliseconds);
    }
    REQUIRE(run_process(s.command(resume)).exit == 0);
    CHECK(read_file(s.output) == want);
    const Json report = parse_json(read_file(s.directory.file("r.json")), "report");
    CHECK(report.find("resumed_bytes")->as_int("bytes") > 0);
    const Json& measured = *report.find("measured")->find("ram")->find("peak_bytes");
    CHECK(report.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("p") ==
          measured.as_int("m"));
    std::filesystem::remove(s.output);

    write_file(s.output + ".partial", std::string(100'000, 'X'));
    write_file(s.output + ".partial.checkpoints", "rubbish");
    REQUIRE(run_process(s.command({})).exit == 0);
    CHECK(read_file(s.output) == want);
    CHECK(s.files() == 3);
}

TEST_CASE(
    "quantize: told to stop, it leaves nothing, or with --resume its checkpoints and code 75") {
    const Setting s;
    const std::string want = s.wanted();
    ProcessOptions options;
    options.send_signal = SIGTERM;
    options.signal_after = "\"what\"";  // a line of progress
    bool stopped = false;
    for (int attempt = 0; attempt < 20 && !stopped; ++attempt) {
        const ProcessResult r = run_process(
            s.command({"--resume", "--checkpoint-every", "1", "--progress", "jsonl"}), options);
        CAPTURE(r.err);
        stopped = r.exit == 75;
        if (stopped) {
            CHECK(r.err.find("run the same command again") != std::string::npos);
            CHECK(std::filesystem::exists(s.output + ".partial"));
            CHECK_FALSE(std::filesystem::exists(s.output));
        } else {
            REQUIRE(r.exit != 1);
            std::filesystem::remove(s.output);
        }
    }
    CHECK(stopped);
    REQUIRE(run_process(s.command({"--resume"})).exit == 0);
    CHECK(read_file(s.output) == want);
    CHECK(s.files() == 2);
}

TEST_CASE("quantize: --resume cannot measure errors of what an earlier run stored") {
    const Setting s;
    const ProcessResult r = run_process(s.command({"--resume", "--report-error"}));
    CHECK(r.exit == 2);
    CHECK(r.err.find("quantize inspect") != std::string::npos);
    CHECK(run_process(s.command({"--resume", "--checkpoint-every", "x"})).exit == 2);
}
