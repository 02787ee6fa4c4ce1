// SPDX-License-Identifier: Apache-2.0
// What every tool owes its shell, shown on the small toy tool.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>

#include "core/error.h"
#include "io/json.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult toy(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
    arguments.insert(arguments.begin(), THIMBLE_TOY);
    return run_process(arguments, options);
}

std::size_t lines(const std::string& text) {
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

TEST_CASE("manners: stdout holds the result only, stderr the rest") {
    const ProcessResult r = toy({"-n", "2", "--shout"});
    CHECK(r.exit == 0);
    CHECK(r.out == "text!\ntext!\n");
    CHECK(r.err.find("toy: starting\n") == 0);
    CHECK(r.err.find("ram VmHWM") != std::string::npos);
    const ProcessResult quiet = toy({"-q"});
    CHECK(quiet.err.empty());
    CHECK(quiet.out == "text\n");
}

TEST_CASE("manners: the JSON report and text never mix on stdout") {
    const ProcessResult r = toy({"--json", "-", "-n", "3", "--hold", "100000"});
    CHECK(r.exit == 0);
    const Json report = parse_json(r.out, "stdout");
    CHECK(report.find("schema")->as_string("s") == "thimble.report/1");
    CHECK(report.find("tool")->as_string("s") == "toy");
    CHECK(report.find("copies")->as_int("s") == 3);
    CHECK(report.find("options")->find("repeat")->as_int("s") == 3);
    const Json* ram = report.find("plan")->find("tiers")->find("ram");
    CHECK(ram->find("by_purpose")->find("other")->as_int("s") >= 100000);
    CHECK(ram->find("by_purpose")->dump() ==
          report.find("measured")->find("ram")->find("by_purpose")->dump());
    CHECK(report.find("measured")->find("peak_rss_bytes")->as_int("s") > 0);
    CHECK(report.find("exit")->as_int("s") == 0);

    const TemporaryDirectory directory;
    const ProcessResult both = toy({"--json", directory.file("r.json")});
    CHECK(both.out == "text\n");
    CHECK(parse_json(read_file(directory.file("r.json")), "r").find("copies")->as_int("s") == 1);
}

TEST_CASE("manners: a failing run leaves its report and one line") {
    const TemporaryDirectory directory;
    const ProcessResult r = toy({"fail", "3", "--json", directory.file("r.json")});
    CHECK(r.exit == 3);
    CHECK(r.out.empty());
    CHECK(r.err == "toy: file.bin: is odd (make it even)\n");
    const Json report = parse_json(read_file(directory.file("r.json")), "r");
    CHECK(report.find("error")->find("where")->as_string("s") == "file.bin");
    CHECK(report.find("exit")->as_int("s") == 3);
    CHECK(report.find("progress")->as_string("s") == "half");
    for (const int code : {1, 2, 65, 66, 73, 74, 75, 77})
        CHECK(toy({"fail", std::to_string(code)}).exit == code);
    CHECK(toy({"--json", directory.file("none/r.json")}).exit == 73);
}

TEST_CASE("manners: usage errors name the nearest option and end with 2 before any work") {
    const auto line = [](std::vector<std::string> arguments) {
        const ProcessResult r = toy(std::move(arguments));
        CHECK(r.exit == 2);
        CHECK(r.out.empty());
        CHECK(lines(r.err) == 1);
        return r.err;
    };
    CHECK(line({"--repaet", "3"}) == "toy: --repaet: unknown option (did you mean '--repeat'?)\n");
    CHECK(line({"--format", "uper"}) ==
          "toy: --format: 'uper' is not one of plain, upper (did you mean 'upper'?)\n");
    CHECK(line({"--repeat", "-1"}) == "toy: --repeat: '-1' is less than 0\n");
    CHECK(line({"fail"}) == "toy: --code: is required (see --help)\n");
    CHECK(line({"--max-memory", "rom=1"}) ==
          "toy: --max-memory: 'rom=1' is not tier=bytes (did you mean 'ram'?)\n");
    CHECK(line({"a", "b", "fial"}) == "toy: 'fial': unexpected argument (did you mean 'fail'?)\n");
    CHECK(line({"--threads", "9999"}).find("more than") != std::string::npos);
}

TEST_CASE("manners: an output that cannot be written is found before any work") {
    const TemporaryDirectory directory;
    const std::string input = directory.write("in.txt", "hello"), out = directory.file("out.txt");
    const auto refused = [&](std::vector<std::string> more, int exit, const std::string& what) {
        more.insert(more.begin(), {"--input", input});
        const ProcessResult r = toy(more);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.out.empty());
        CHECK(lines(r.err) == 1);
        CHECK(r.err.find(what) != std::string::npos);
        CHECK(read_file(input) == "hello");
    };
    refused({"--json", directory.file("absent/r.json")}, 73, "No such file or directory");
    refused({"--json", directory.path()}, 73, "it is a directory");
    refused({"--json", input}, 2, "the output is also the input");
    const std::string other = directory.write("other.txt", "other");
    refused({"--end", "file:but=absent,from=" + other, "--json", other}, 2,
            "the output is also the input");
    refused({"--end", "file:from=" + input, "--output", input}, 2, "the output is also the input");
    CHECK(read_file(other) == "other");
    CHECK(toy({"--end", "word:text=" + out, "--json", out}).exit == 0);
    refused({"--output", out, "--json", out}, 2, "is given as two outputs");
    refused({"--json"}, 2, "--json: needs a value");
    CHECK(toy({"--input", input, "--json", "/dev/null"}).exit == 0);
}

TEST_CASE("manners: a reader that leaves ends the tool quietly") {
    const ProcessResult r = toy({"-n", "1000000"}, {.read_at_most = 10});
    CHECK(r.signal == SIGPIPE);
    CHECK(r.err.find("toy: starting\n") == 0);
    CHECK(lines(r.err) == 1);
    CHECK_FALSE(r.timed_out);
}

TEST_CASE("manners: a full or closed stdout is an I/O error") {
    const ProcessResult full = toy({"-q"}, {.stdout_path = "/dev/full"});
    CHECK(full.exit == 74);
    CHECK(full.err == "toy: stdout: No space left on device\n");
    const ProcessResult closed = toy({"-q"}, {.close_stdout = true});
    CHECK(closed.exit == 74);
    CHECK(closed.err == "toy: stdout: Bad file descriptor\n");
    CHECK(toy({"--help"}, {.close_stdout = true}).exit == 74);
    const ProcessResult no_input = toy({"-q"}, {.close_stdin = true});
    CHECK(no_input.exit == 0);
}

TEST_CASE("manners: a budget one page too small refuses before work, one that fits runs") {
    const std::string hold = std::to_string(64 << 20);
    const Json plan = parse_json(toy({"--dry-run", "--json", "-", "--hold", hold}).out, "plan");
    const std::int64_t needed =
        plan.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("peak");
    CHECK(needed > 64 << 20);
    const auto budget = [](std::int64_t bytes) { return "ram=" + std::to_string(bytes); };
    const ProcessResult small = toy({"--hold", hold, "--max-memory", budget(needed - 4096)});
    CHECK(small.exit == 77);
    CHECK(small.out.empty());
    CHECK(lines(small.err) == 1);
    CHECK(small.err.find("--hold 0 saves it") != std::string::npos);
    CHECK(toy({"--hold", hold, "--max-memory", budget(needed)}).exit == 0);
    const ProcessResult dry =
        toy({"--dry-run", "--hold", hold, "--max-memory", budget(needed - 4096)});
    CHECK(dry.exit == 77);
    CHECK(dry.out.find("ram peak") != std::string::npos);
}

TEST_CASE("manners: --dry-run plans and does nothing") {
    const TemporaryDirectory directory;
    const ProcessResult r = toy({"--dry-run", "-o", directory.file("out")});
    CHECK(r.exit == 0);
    CHECK(r.out.find("everything sits in ram") != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(directory.file("out")));
}

TEST_CASE("manners: flags, config file and environment, and where each value came from") {
    const TemporaryDirectory directory;
    const std::string config = directory.write("c.yaml", "repeat: 2\nformat: upper\n");
    const ProcessOptions environment{
        .environment = {{"THIMBLE_TOY_FORMAT", "plain"}, {"THIMBLE_TOY_SHOUT", "1"}}};
    const ProcessResult r =
        toy({"--config", config, "--print-config", "--scale", "2"}, environment);
    CHECK(r.exit == 0);
    CHECK(r.out.find("format: upper") != std::string::npos);
    CHECK(r.out.find("# " + config + ":2\n") != std::string::npos);
    CHECK(r.out.find("# environment THIMBLE_TOY_SHOUT\n") != std::string::npos);
    CHECK(r.out.find("scale: 2 ") != std::string::npos);
    CHECK(toy({"-q", "--config", config}, environment).out == "TEXT!\nTEXT!\n");

    const ProcessResult printed_back =
        toy({"--print-config", "--config", directory.write("printed.yaml", r.out)});
    CHECK(printed_back.exit == 0);
    CHECK(printed_back.out.find("format: upper") != std::string::npos);

    const std::string wrong = directory.write("w.yaml", "# c\nrepaet: 2\n");
    const ProcessResult bad = toy({"--config", wrong});
    CHECK(bad.exit == 2);
    CHECK(bad.err == "toy: " + wrong + ":2: unknown option 'repaet' (did you mean 'repeat'?)\n");
    CHECK(toy({}, {.environment = {{"THIMBLE_TOY_REPAET", "1"}}}).exit == 2);
    CHECK(toy({"fail", "65"}, {.environment = {{"THIMBLE_TOY_REPEAT", "1"}}}).exit == 65);
    CHECK(toy({"--config", directory.file("absent.yaml")}).exit == 66);
}

TEST_CASE("manners: --print-schema, --list, --help and --version describe without working") {
    const Json schema = parse_json(toy({"--print-schema"}).out, "schema");
    CHECK(schema.find("title")->as_string("s") == "toy");
    CHECK(schema.find("properties")->find("repeat")->find("type")->as_string("s") == "integer");
    CHECK(schema.find("properties")->find("cache-type-k")->find("x-aliases")->dump() ==
          "[\"ctk\"]");
    CHECK(schema.find("properties")->find("end")->find("x-inline-inputs")->dump() ==
          R"({"file":["from","but"]})");
    CHECK(schema.find("properties")->find("rule")->find("x-inline-inputs") == nullptr);
    CHECK_FALSE(schema.find("additionalProperties")->as_bool("s"));
    const Json fail = parse_json(toy({"fail", "--print-schema"}).out, "schema");
    CHECK(fail.find("required")->dump() == "[\"code\"]");
    CHECK(toy({"--list"}).out == "formats: plain upper\n");
    CHECK(toy({"--version"}).out.find("toy (thimble) ") == 0);
    const std::string help = toy({"-h"}).out;
    for (const char* part :
         {"--repeat", "Examples:", "-ctk", "fail ", "Exit codes", "THIMBLE_TOY_"})
        CHECK_MESSAGE(help.find(part) != std::string::npos, part);
}

TEST_CASE("manners: signals stop at a good moment, a second one at once") {
    const ProcessOptions once{.send_signal = SIGTERM, .signal_after = "starting"};
    const ProcessResult r = toy({"-n", "1000", "--wait", "10"}, once);
    CHECK(r.exit == 128 + SIGTERM);
    CHECK(r.out.size() % 5 == 0);
    CHECK(r.out.size() < 5000);
}

TEST_CASE("manners: progress as JSON lines on stderr") {
    const ProcessResult r = toy({"-q", "-n", "3", "--progress", "jsonl"});
    CHECK(r.out == "text\ntext\ntext\n");
    const std::string last = r.err.substr(r.err.rfind('{'));
    const Json record = parse_json(last, "progress");
    CHECK(record.find("done")->as_int("s") == 3);
    CHECK(record.find("total")->as_int("s") == 3);
    CHECK(record.find("unit")->as_string("s") == "copies/s");
}
