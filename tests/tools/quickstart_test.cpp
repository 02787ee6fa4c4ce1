// SPDX-License-Identifier: Apache-2.0
// The committed recipes over tiny models: every step runs, keeps to its plan, and is cached.
#include <doctest/doctest.h>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::size_t count(const std::string& text, std::string_view part) {
    std::size_t n = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1))
        ++n;
    return n;
}

struct Quickstart {
    TemporaryDirectory directory;

    Quickstart() {
        write_tiny_model(directory.file("llama.gguf"), "llama-tied", "q4_1");
        write_tiny_model(directory.file("gemma.gguf"), "gemma3", "f32");
        std::string text;
        for (int i = 0; i < 60; ++i) text += "a line of text, number " + std::to_string(i) + "\n";
        directory.write("text.txt", text);
    }
    [[nodiscard]] ProcessResult run(const std::vector<std::string>& more) const {
        std::vector<std::string> command = {tool_path("recipe"), more.front()};
        command.insert(command.end(),
                       {std::string(THIMBLE_SOURCE_DIR) + "/recipes/quickstart.yaml", "--workdir",
                        directory.file("w"), "--set", "smollm2=llama.gguf", "--set",
                        "gemma3=gemma.gguf", "--set", "text=text.txt", "--threads", "1"});
        command.insert(command.end(), more.begin() + 1, more.end());
        return run_process(command, {.directory = directory.path()});
    }
};

}  // namespace

TEST_CASE("quickstart recipe: ends with one table and an answer, the second time from the cache") {
    const Quickstart q;
    const ProcessResult first = q.run({"run", "--json", q.directory.file("report.json")});
    REQUIRE_MESSAGE(first.exit == 0, first.err);
    for (const char* model : {"smollm2", "gemma3"})
        for (const char* format : {"f16", "q8_0", "q4_0"})
            CHECK(count(first.out, "\n" + std::string(model) + "-" + format + ".gguf ") == 1);
    CHECK(count(first.out, "same top-1 %") == 1);

    const Json report = parse_json(read_file(q.directory.file("report.json")), "report");
    const JsonArray& steps = report.find("steps")->as_array("steps");
    CHECK(steps.size() == 14);
    for (const Json& step : steps) {
        CAPTURE(step.find("id")->as_string("id"));
        const Json& record = *step.find("record");
        const std::int64_t measured = record.find("peak_rss_bytes")->as_int("peak");
        const std::int64_t predicted = record.find("predicted_ram_bytes")->as_int("predicted");
        if (step.find("uses")->as_string("uses") == "evaluate report") continue;
        CHECK(predicted > 0);
        CHECK(std::abs(measured - predicted) <= std::max<std::int64_t>(predicted / 10, 32 << 20));
    }

    const ProcessResult second = q.run({"run"});
    CHECK(second.exit == 0);
    CHECK(second.out == first.out);
    CHECK(count(second.err, "nothing to do: all 14 steps are up to date") == 1);
}

TEST_CASE("quickstart recipe: a budget that a step cannot keep ends it with 77, naming the step") {
    const Quickstart q;
    const ProcessResult r = q.run({"run", "--max-memory", "ram=9MiB"});
    CHECK(r.exit == 77);
    CHECK(count(r.err, "(quantize) ended with exit code 77") == 1);
    CHECK(r.out.empty());
}
