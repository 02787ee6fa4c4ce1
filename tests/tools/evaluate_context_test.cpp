// SPDX-License-Identifier: Apache-2.0
// The evaluate tool on long texts: made ones and SCBench's, both modes, resumption, repeated
// prompts; and what it says that serving would cost.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), out = directory.file("out.json");

    Bench() { write_tiny_model(model, "gemma3-scaled"); }  // 512 tokens, one for each character
    [[nodiscard]] ProcessResult run(std::vector<std::string> more,
                                    const std::string& tool = "evaluate") const {
        std::vector<std::string> all = {tool_path(tool), "-m", model, "-t", "1"};
        all.insert(all.end(), more.begin(), more.end());
        return run_process(all);
    }
    [[nodiscard]] Json result(const std::string& path = "") const {
        const std::string& file = path.empty() ? out : path;
        return parse_json(read_file(file), file);
    }
    // Of the only task.
    [[nodiscard]] Json task() const { return result().find("tasks")->as_array("tasks")[0]; }
};

std::vector<std::string> names(const Json& object) {
    std::vector<std::string> out;
    for (const auto& [name, value] : object.as_members("")) out.push_back(name);
    return out;
}

std::vector<Json> lines_of(const std::string& path) {
    std::vector<Json> out;
    std::string text = read_file(path);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = text.find('\n', at);
        out.push_back(parse_json(text.substr(at, end - at), path));
        at = end + 1;
    }
    return out;
}

constexpr const char* kScBench =
    R"({"id": 0, "context": "{\"a1\": \"x7\", \"b2\": \"y8\"}", "multi_turns": [{"input": "Key: a1", "answer": "x7"}, {"input": "Key: b2", "answer": "y8"}]}
{"id": 1, "context": "{\"c3\": \"z9\"}", "multi_turns": [{"input": "Key: c3", "answer": "z9"}]}
)";

}  // namespace

TEST_CASE("evaluate: questions about made texts by length and depth, gone on with after a kill") {
    const Bench bench;
    const std::vector<std::string> what = {
        "--task", "needle:length=250,length=300,depths=2,count=2", "-q", "-o"};
    auto to = [&](const std::string& path) {
        std::vector<std::string> all = what;
        all.push_back(path);
        return all;
    };
    REQUIRE(bench.run(to(bench.out)).exit == 0);
    const Json task = bench.task();
    CHECK(task.find("samples")->as_int("") == 8);
    CHECK(names(*task.find("metrics")) ==
          std::vector<std::string>{"score", "length_250", "length_300", "depth_0", "depth_100",
                                   "length_250_depth_0", "length_250_depth_100",
                                   "length_300_depth_0", "length_300_depth_100"});
    const std::string again = bench.directory.file("again.json"), journal = again + ".journal";
    ProcessOptions options;
    std::vector<std::string> killed = {tool_path("evaluate"), "-m",   bench.model, "-t", "1",
                                       "--progress",          "jsonl"};
    for (const std::string& word : to(again)) killed.push_back(word);
    killed.erase(std::find(killed.begin(), killed.end(), "-q"));
    options.send_signal = 10;  // SIGUSR1: stop soon, to go on later
    options.signal_after = "\"done\":2";
    const ProcessResult stopped = run_process(killed, options);
    if (stopped.exit == 75) {  // else it was done before the signal came
        const ProcessResult rest = bench.run(to(again));
        CHECK(rest.exit == 0);
    }
    Json a = bench.task(), b = bench.result(again).find("tasks")->as_array("")[0];
    a.set("seconds", 0), b.set("seconds", 0);
    CHECK(a.dump() == b.dump());
}

TEST_CASE(
    "evaluate: texts of both modes are the same, and lm-eval says that answers are generated") {
    const Bench bench;
    const std::string samples = bench.directory.file("samples.jsonl");
    const std::string shaped = bench.directory.file("shaped.json");
    std::vector<std::string> hashes;
    for (const char* mode : {"multi-request", "multi-turn"}) {
        const ProcessResult r = bench.run(
            {"--task", std::string("multi_needle:length=250,count=3,needles=2,mode=") + mode,
             "--limit", "2", "-o", bench.out, "--samples", samples, "--lm-eval", shaped, "-q"});
        REQUIRE(r.exit == 0);
        CHECK(r.out.find("turn_2") != std::string::npos);
        hashes.push_back(bench.task().find("sha256")->as_string(""));
        const std::vector<Json> lines = lines_of(samples);
        REQUIRE(lines.size() == 3);  // the head, and two texts
        const Json& turns = *lines[1].find("outcome")->find("turns");
        REQUIRE(turns.as_array("").size() == 2);
        CHECK(turns.as_array("")[0].find("target")->as_string("").size() == 7);
        CHECK(bench.result(shaped)
                  .find("configs")
                  ->find("multi_needle")
                  ->find("output_type")
                  ->as_string("") == "generate_until");
    }
    CHECK(hashes[0] == hashes[1]);
}

TEST_CASE("evaluate: SCBench's files, with turns, and what is wrong with them") {
    const Bench bench;
    const std::string file = bench.directory.write("kv.jsonl", kScBench);
    const std::string task = "scbench:file=" + file + ",kind=";
    ProcessResult r = bench.run({"--task", task + "kv,mode=multi-turn", "-o", bench.out, "-q"});
    REQUIRE(r.exit == 0);
    CHECK(bench.task().find("name")->as_string("") == "scbench_kv");
    CHECK(names(*bench.task().find("metrics")) ==
          std::vector<std::string>{"score", "turn_1", "turn_2"});
    // Turns that not every text has are no column for paired comparisons.
    CHECK(names(*bench.task().find("per_sample")) == std::vector<std::string>{"score", "turn_1"});

    const auto fails = [&](const std::string& text, const std::string& kind, int exit,
                           const std::string& says) {
        const std::string bad = bench.directory.write("bad.jsonl", text);
        const ProcessResult p =
            bench.run({"--task", "scbench:file=" + bad + ",kind=" + kind, "-q"});
        CAPTURE(p.err);
        CHECK(p.exit == exit);
        CHECK(p.err.find(says) != std::string::npos);
    };
    fails(kScBench, "vtt", 2, "vt");
    fails(R"({"context": "x"})", "kv", 65, "multi_turns");
    fails(R"({"context": "x", "multi_turns": []})", "kv", 65, "no question");
    fails(R"({"context": "x", "multi_turns": [{"input": "y"}]})", "kv", 65, "answer");
    fails(R"({"context": " ", "multi_turns": [{"input": "y", "answer": "z"}]})", "vt", 65,
          "no text");
    fails(R"({"context": "x", "multi_turns": [{"input": "y", "answer": "B"}]})", "choice_eng", 65,
          "options");
    fails(
        R"({"context": "x", "multi_turns": [{"input": "y", "answer": "E", "options": ["a", "b", "c", "d"]}]})",
        "choice_eng", 65, "none of the options");
    fails(
        R"({"context": "x", "multi_turns": [{"input": "y", "answer": "z", "task": "scbench_vt"}]})",
        "repoqa_and_kv", 65, "none of repoqa_and_kv");
    fails(std::string(R"({"context": ")") + std::string(600, 'x') +
              R"(", "multi_turns": [{"input": "y", "answer": "z"}]})",
          "kv", 65, "context is 512");

    const std::string mixed = bench.directory.write(
        "mixed.jsonl",
        R"({"context": "long text", "multi_turns": [{"input": "sum up", "answer": "text", "task": "scbench_passkey"}, {"input": "key", "answer": "7", "task": "scbench_passkey"}]})");
    r = bench.run({"--task", "scbench:file=" + mixed + ",kind=summary_with_needles", "-q"});
    CHECK(r.exit == 0);
}

TEST_CASE("evaluate: options of tasks with long texts that nothing uses are refused") {
    const Bench bench;
    const auto fails = [&](std::vector<std::string> more, const std::string& says) {
        const ProcessResult p = bench.run(std::move(more));
        CAPTURE(p.err);
        CHECK(p.exit == 2);
        CHECK(p.err.find(says) != std::string::npos);
    };
    fails({"--task", "needle:length=20"}, "too short");
    fails({"--task", "needle:length=900000000"}, "length=900000000");
    fails({"--task", "neddle:length=200"}, "needle");
    fails({"--task", "needle:length=250", "--num-fewshot", "2"}, "--num-fewshot");
    fails({"--task", "needle:length=250", "--prompt-repeat", "2"}, "every layer");
    fails({"--task", "needle:length=250", "--force"}, "nothing to force");
    fails({"--bench", "--prompt-repeat", "2", "--force"}, "no task");
}

TEST_CASE("run and evaluate: a repeated prompt has the tokens of its text twice, once is as ever") {
    const Bench bench;
    const std::string report = bench.directory.file("report.json");
    const auto tokens = [&](std::vector<std::string> more) {
        more.insert(more.end(), {"-n", "2", "--temp", "0", "--json", report, "-q"});
        REQUIRE(bench.run(more, "run").exit == 0);
        const Json json = bench.result(report);
        return std::pair(json.find("stats")->find("prompt_tokens")->as_int(""),
                         json.find("text")->as_string(""));
    };
    CHECK(tokens({"-p", "ab cd", "--prompt-repeat", "1"}) == tokens({"-p", "ab cd"}));
    CHECK(tokens({"-p", "ab cd", "--prompt-repeat", "3", "--force"}) ==
          tokens({"-p", "ab cd\nab cd\nab cd"}));
    CHECK(tokens({"-p", "ab cd", "--chat", "--prompt-repeat", "2", "--force"}) ==
          tokens({"-p", "ab cd\nab cd", "--chat"}));
    const ProcessResult refused = bench.run({"-p", "ab", "--prompt-repeat", "2"}, "run");
    CHECK(refused.exit == 2);
    CHECK(refused.err.find("2 times as long") != std::string::npos);

    const auto score = [&](const std::string& prompt, const std::string& times) {
        const std::string file = bench.directory.write(
            "p.jsonl", "{\"prompt\": \"" + prompt + "\", \"answer\": \"4\"}\n");
        const std::string samples = bench.directory.file("s.jsonl");
        REQUIRE(bench
                    .run({"--task", "generate:file=" + file + ",n-predict=4", "--prompt-repeat",
                          times, "--force", "--samples", samples, "-q"})
                    .exit == 0);
        return lines_of(samples)[1].dump();
    };
    const std::string once =
        bench.directory.write("q.jsonl", R"({"prompt": "ab\nab", "answer": "4"})");
    const std::string kept = bench.directory.file("t.jsonl");
    REQUIRE(bench.run({"--task", "generate:file=" + once + ",n-predict=4", "--samples", kept, "-q"})
                .exit == 0);
    CHECK(score("ab", "2") == lines_of(kept)[1].dump());
}

TEST_CASE("evaluate --cost-model: hardware from YAML, and this machine") {
    const Bench bench;
    const std::string yaml = bench.directory.write(
        "hw.yaml",
        "name: toy\npeak-flops: 1e12\nmemory-bandwidth: 1GB\nmemory: 2MB\nhost-link: 500MB\n");
    const ProcessResult r =
        bench.run({"--cost-model", yaml, "--context", "16", "--context", "64", "--generate-tokens",
                   "100", "--answers", "2", "-o", bench.out});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(r.out.find("toy") != std::string::npos);
    CHECK(r.out.find("step by step") != std::string::npos);
    const Json json = bench.result();
    const JsonArray& rows = json.find("contexts")->as_array("");
    REQUIRE(rows.size() == 2);
    const auto number = [](const Json& row, const char* key) {
        return row.find(key)->as_double(key);
    };
    for (const Json& row : rows) {
        CHECK(number(row, "switch_seconds") == number(row, "kv_bytes") / 5e8);
        CHECK(number(row, "decode_seconds_per_token") > number(row, "kv_bytes") / 1e9);
        CHECK(
            number(row, "concurrency") ==
            std::floor((2e6 - json.find("weight_bytes")->as_double("")) / number(row, "kv_bytes")));
    }
    CHECK(number(rows[0], "kv_bytes") < number(rows[1], "kv_bytes"));
    const ProcessResult budget = bench.run({"--cost-model=" + yaml, "-c", "64", "--kv-policy",
                                            "streaming:sink=2,budget=16", "-o", bench.out});
    REQUIRE(budget.exit == 0);
    CHECK(number(bench.result().find("contexts")->as_array("")[0], "kv_bytes") ==
          number(rows[0], "kv_bytes"));

    CHECK(bench.run({"--cost-model", "this", "--context", "64"}).exit == 0);
    const auto fails = [&](const std::string& text, const std::string& says) {
        const ProcessResult p =
            bench.run({"--cost-model", bench.directory.write("bad.yaml", text)});
        CAPTURE(p.err);
        CHECK(p.exit == 2);
        CHECK(p.err.find(says) != std::string::npos);
    };
    fails("peak-flops: 1e12\n", "'memory-bandwidth' is missing");
    fails("peak-flop: 1e12\n", "peak-flops");
    fails("peak-flops: -1\nmemory-bandwidth: 1GB\nmemory: 2MB\nhost-link: 5MB\n", "less than 1");
    fails("peak-flops: 1\nmemory-bandwidth: 1GB\nmemory: 0\nhost-link: 5MB\n", "above 0");
}
