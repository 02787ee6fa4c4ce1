// SPDX-License-Identifier: Apache-2.0
// quantize killed and run again.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
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
    std::vector<std::string> kind;

    explicit Setting(std::vector<std::string> how = {"--format", "q4_0"}) : kind(std::move(how)) {
        ModelCopy::as_gguf(golden_model("gemma3").directory, "f32").write_gguf(input);
    }

    [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& more) const {
        std::vector<std::string> words = {tool_path("quantize"), "-q", "-m", input, "-o", output};
        words.insert(words.end(), kind.begin(), kind.end());
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    // Everything but the input, by its path below the directory.
    [[nodiscard]] std::map<std::string, std::string> outputs() const {
        namespace fs = std::filesystem;
        std::map<std::string, std::string> out;
        for (const auto& entry : fs::recursive_directory_iterator(directory.path())) {
            if (entry.is_regular_file() && entry.path() != input)
                out[fs::relative(entry.path(), directory.path()).string()] =
                    read_file(entry.path().string());
        }
        return out;
    }
    [[nodiscard]] bool half_written() const {
        const auto all = outputs();
        return std::any_of(all.begin(), all.end(), [](const auto& file) {
            return file.first.find(".partial") != std::string::npos;
        });
    }
    void clear() const {
        for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
            if (entry.path() != input) std::filesystem::remove_all(entry.path());
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

// Kills runs of `command` at any moment of the time that it takes; each third time one may finish,
// and must leave what `want` says.
static void kill_and_compare(const Setting& s, const std::vector<std::string>& command, int kills,
                             const std::map<std::string, std::string>& want) {
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(run_process(command).exit == 0);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    CHECK(s.outputs() == want);
    s.clear();
    const auto milliseconds = std::clamp(static_cast<unsigned>(took.count()), 10u, 999u);
    std::mt19937 random(7);
    int left = 0;  // kills that left something behind
    for (int i = 0; i < kills; ++i) {
        run_and_kill(command, static_cast<int>(random() % milliseconds));
        const bool half = s.half_written();
        left += half ? 1 : 0;
        if (i % 3 != 2) continue;  // killed again before it may finish
        if (half || s.outputs().empty()) {
            const ProcessResult r = run_process(command);
            CAPTURE(r.err);
            REQUIRE(r.exit == 0);
        }
        CHECK(s.outputs() == want);
        s.clear();
    }
    MESSAGE(left << " of " << kills << " kills left something behind");
}

TEST_CASE(
    "quantize: killed at any moment and run again, it writes the file of an undisturbed run") {
    const Setting s;
    const std::map<std::string, std::string> want = {{"out.gguf", s.wanted()}};
    kill_and_compare(s, s.command({"--resume", "--checkpoint-every", "1"}), 12, want);
    kill_and_compare(s, s.command({}), 12, want);
}

TEST_CASE("quantize: the same of nf4, whose matrices are seen whole before they are written") {
    const Setting s({"--format", "nf4"});
    REQUIRE(run_process(s.command({})).exit == 0);
    const std::map<std::string, std::string> want = s.outputs();
    s.clear();
    kill_and_compare(s, s.command({"--resume", "--checkpoint-every", "1"}), 6, want);
}

TEST_CASE("quantize: the same of several files and of a directory") {
    const std::vector<std::vector<std::string>> kinds = {
        {"--format", "q4_0", "--split-max-tensors", "9"},
        {"--format", "copy", "--container", "hf"},
        {"--format", "bf16", "--container", "hf", "--split-max-size", "60K"}};
    for (const std::vector<std::string>& kind : kinds) {
        CAPTURE(kind.back());
        const Setting s(kind);
        REQUIRE(run_process(s.command({})).exit == 0);
        const std::map<std::string, std::string> want = s.outputs();
        CHECK(want.size() > 1);
        s.clear();
        kill_and_compare(s, s.command({"--resume", "--checkpoint-every", "1"}), 9, want);
    }
}

TEST_CASE("quantize: --resume takes up several files and directories where they were left") {
    for (const char* container : {"gguf", "hf"}) {
        CAPTURE(container);
        const Setting s({"--format", "f16", "--container", container, "--split-max-size", "60K"});
        REQUIRE(run_process(s.command({})).exit == 0);
        const std::map<std::string, std::string> want = s.outputs();
        s.clear();
        const TemporaryDirectory reports;
        const std::vector<std::string> resume =
            s.command({"--resume", "--checkpoint-every", "1", "--json", reports.file("r.json")});
        const auto checkpoints = [&] {
            std::size_t bytes = 0;
            for (const auto& [path, text] : s.outputs())
                bytes += path.ends_with(".checkpoints") ? text.size() : 0;
            return bytes;
        };
        for (int milliseconds = 4; checkpoints() < 1000; milliseconds += 4) {
            REQUIRE(milliseconds < 1000);
            if (!s.half_written()) s.clear();
            run_and_kill(resume, milliseconds);
        }
        REQUIRE(run_process(resume).exit == 0);
        CHECK(s.outputs() == want);
        const Json report = parse_json(read_file(reports.file("r.json")), "report");
        CHECK(report.find("resumed_bytes")->as_int("bytes") > 0);
        const Json& measured = *report.find("measured")->find("ram")->find("peak_bytes");
        // What was left to do may need less than all.
        CHECK(report.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("p") >=
              measured.as_int("m"));
    }
}

TEST_CASE("quantize: --resume leaves nothing where another run would fail in the same way") {
    for (const std::vector<std::string>& kind : {std::vector<std::string>{"--format", "q4_0"},
                                                 {"--format", "q4_0", "--split-max-tensors", "9"},
                                                 {"--format", "f16", "--container", "hf"}}) {
        CAPTURE(kind.back());
        const Setting s(kind);
        ModelCopy model = ModelCopy::as_gguf(golden_model("gemma3").directory, "f32");
        const float bad = std::numeric_limits<float>::quiet_NaN();
        std::memcpy(model.data[model.index("blk.1.ffn_down.weight")].data() + 400, &bad, 4);
        model.write_gguf(s.input);
        const ProcessResult r = run_process(s.command({"--resume", "--checkpoint-every", "1"}));
        CHECK(r.exit == 65);
        CHECK(r.err.find("NaN") != std::string::npos);
        CHECK(s.outputs().empty());
        CHECK(s.files() == 1);
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
    CHECK(report.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("p") >=
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
