// SPDX-License-Identifier: Apache-2.0
// The predicted peak is a promise in both directions: a budget of exactly that runs, one page less
// is refused before any work.
#include <doctest/doctest.h>

#include <filesystem>

#include "io/json.h"
#include "tests/support/models.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kPage = 4096;

std::int64_t at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return node->as_int("report");
}

struct Job {
    TemporaryDirectory directory;
    std::string report = directory.file("report.json"), output;
    std::vector<std::string> command;
    std::string input;  // to stdin

    [[nodiscard]] ProcessResult run(std::vector<std::string> more) const {
        std::vector<std::string> all = command;
        all.insert(all.end(), {"--threads", "2", "--json", report});
        all.insert(all.end(), more.begin(), more.end());
        return run_process(all, {.input = input});
    }
    [[nodiscard]] Json read_report() const { return parse_json(read_file(report), "report"); }
    [[nodiscard]] static std::string ram(std::int64_t bytes) {
        return "ram=" + std::to_string(bytes);
    }

    // What the tool asks for under this budget; it may do with less when it must.
    [[nodiscard]] std::int64_t predicted(const std::string& budget) const {
        const ProcessResult r = run({"--dry-run", "--max-memory", budget});
        CAPTURE(r.err);
        REQUIRE((r.exit == 0 || r.exit == 77));
        return at(read_report(), {"plan", "tiers", "ram", "peak_bytes"});
    }
    void check() const {
        const std::int64_t peak = predicted("ram=1");
        const ProcessResult refused = run({"--max-memory", ram(peak - kPage)});
        CAPTURE(refused.err);
        CHECK(refused.exit == 77);
        CHECK(refused.out.empty());
        if (!output.empty()) CHECK_FALSE(std::filesystem::exists(output));

        const ProcessResult fits = run({"--max-memory", ram(peak)});
        CAPTURE(fits.err);
        CHECK(fits.exit == 0);
        const Json measured = read_report();
        CHECK(at(measured, {"measured", "ram", "peak_bytes"}) <= peak);
        CHECK(at(measured, {"plan", "tiers", "ram", "peak_bytes"}) == peak);
    }
};

std::string words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "word number " + std::to_string(i) + " of the text\n";
    return text;
}

}  // namespace

TEST_CASE("budget: quantize") {
    for (const char* model : {"llama-tied", "gemma3"}) {
        CAPTURE(model);
        Job job;
        const std::string in = job.directory.file("in.gguf");
        write_tiny_model(in, model);
        job.output = job.directory.file("out.gguf");
        job.command = {tool_path("quantize"), "-m", in, "-o", job.output, "--format", "q4_0"};
        job.check();
    }
}

TEST_CASE("budget: run") {
    Job job;
    const std::string model = job.directory.file("model.gguf");
    write_tiny_model(model, "gemma3", "q8_0");
    job.command = {tool_path("run"), "-m", model, "-n", "20", "-p", "some words to go on from"};
    SUBCASE("full cache") {}
    SUBCASE("a smaller cache of another type") {
        job.command.insert(job.command.end(), {"--kv-policy", "streaming:sink=2,budget=16", "-ctk",
                                               "f32", "-ctv", "bf16"});
    }
    SUBCASE("sampled") { job.command.insert(job.command.end(), {"--top-k", "0", "--temp", "2"}); }
    SUBCASE("subtasks that leave the cache") {
        job.command.insert(job.command.end(), {"--subtask-open", "a", "--subtask-close", "e",
                                               "--prune-buffer", "0", "--temp", "3"});
    }
    SUBCASE("a conversation") {
        job.command = {tool_path("run"), "-m", model, "-n", "20", "--interactive", "--chat"};
        job.input = "hello\nand more\n";
    }
    SUBCASE("in double precision") { job.command.insert(job.command.end(), {"--device", "ref"}); }
    job.check();
}

TEST_CASE("budget: evaluate") {
    Job job;
    const std::string model = job.directory.file("model.gguf");
    const std::string reference = job.directory.file("reference.gguf");
    write_tiny_model(model, "llama-tied", "q4_0");
    write_tiny_model(reference, "llama-tied", "f16");
    job.output = job.directory.file("result.json");
    job.command = {tool_path("evaluate"), "-m", model, "-o", job.output, "-c", "64"};
    const std::string text = job.directory.write("text.txt", words(100));
    SUBCASE("a text") { job.command.insert(job.command.end(), {"-f", text}); }
    SUBCASE("a reference") {
        job.command.insert(job.command.end(), {"-f", text, "--reference", reference});
    }
    SUBCASE("speed only") { job.command.insert(job.command.end(), {"--bench", "-r", "1"}); }
    SUBCASE("speed at a depth") {
        job.command.insert(job.command.end(), {"--bench", "-r", "1", "-d", "300", "-c", "512"});
    }
    SUBCASE("all of it, the text from stdin") {
        job.command.insert(job.command.end(), {"-f", "-", "--reference", reference, "--bench"});
        job.input = words(100);
    }
    job.check();
}

TEST_CASE("budget: real models") {
    for (const char* name : {kSmolLm2, kGemma3}) {
        const auto model = real_model(name);
        if (!model) continue;
        CAPTURE(name);
        Job run;
        run.command = {tool_path("run"), "-m", *model, "-n", "2", "-p", "Once"};
        run.check();
        Job quantize;
        quantize.output = quantize.directory.file("out.gguf");
        quantize.command = {tool_path("quantize"), "-m",       *model, "-o",
                            quantize.output,       "--format", "q8_0", "--allow-requantize"};
        quantize.check();
        Job evaluate;
        const std::string text = evaluate.directory.write("text.txt", words(20));
        evaluate.output = evaluate.directory.file("result.json");
        evaluate.command = {tool_path("evaluate"),
                            "-m",
                            *model,
                            "-c",
                            "32",
                            "--chunks",
                            "1",
                            "-f",
                            text,
                            "-o",
                            evaluate.output,
                            "--reference",
                            *model};
        evaluate.check();
    }
}

TEST_CASE("budget: layers that do not fit are read from disk, and the answer stays the same") {
    Job job;
    const std::string model = job.directory.file("model.gguf");
    write_tiny_model(model, "gemma3", "f16");
    SUBCASE("run") {
        job.command = {tool_path("run"), "-m", model, "-n", "12", "-p", "some words"};
    }
    SUBCASE("evaluate with a reference") {
        const std::string reference = job.directory.file("reference.gguf");
        write_tiny_model(reference, "gemma3", "f32");
        const std::string text = job.directory.write("text.txt", words(30));
        job.output = job.directory.file("result.json");
        job.command = {
            tool_path("evaluate"), "-m",     model, "-o", job.output, "-c", "64", "-f", text,
            "--reference",         reference};
    }
    const std::int64_t whole = job.predicted("ram=1TiB"), least = job.predicted("ram=1");
    REQUIRE(least < whole);
    const auto result = [&](const ProcessResult& r) {
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        if (job.output.empty()) return r.out;
        const Json record = parse_json(read_file(job.output), "result");
        return record.find("perplexity")->dump() + record.find("divergence")->dump();
    };
    const std::string all = result(job.run({}));
    std::vector<std::int64_t> read;
    for (const std::int64_t budget : {least, (least + whole) / 2}) {
        const ProcessResult r = job.run({"--max-memory", Job::ram(budget)});
        CHECK(result(r) == all);
        CHECK(at(job.read_report(), {"measured", "ram", "peak_bytes"}) <= budget);
        CAPTURE(r.err);
        const char* when = job.output.empty() ? "for every step"
                           : budget == least  ? "once for every window of text"
                                              : "once for every 8 windows of text";
        CHECK(r.err.find(std::string("are read from disk ") + when) != std::string::npos);
        if (!job.output.empty()) read.push_back(at(job.read_report(), {"streamed_bytes"}));
    }
    if (!read.empty()) CHECK(read[1] < read[0] / 4);
    CHECK(job.run({"--max-memory", Job::ram(least - kPage)}).exit == 77);
}
