// SPDX-License-Identifier: Apache-2.0
// The evaluate tool: tasks, gates, resumption after a kill, comparison, the forms of results.
#include <doctest/doctest.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <thread>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::string items(int count) {
    std::string out;
    for (int i = 0; i < count; ++i) {
        const std::string n = std::to_string(i * 7);
        out += R"({"context": "item )" + n + R"( is", "choices": ["a )" + n +
               R"(", "bb", "c c c"], "answer": )" + std::to_string(i % 3) + "}\n";
    }
    return out;
}

std::string words(int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += "word number " + std::to_string(i) + " of the text\n";
    return text;
}

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), out = directory.file("out.json");
    std::string text = directory.write("text.txt", words(60));
    std::string questions = directory.write("items.jsonl", items(40));

    explicit Bench(const std::string& format = "q8_0", const std::string& golden = "llama-tied") {
        write_tiny_model(model, golden, format);
    }
    [[nodiscard]] std::vector<std::string> command(std::vector<std::string> more) const {
        std::vector<std::string> all = {tool_path("evaluate"), "-m", model, "-t", "1"};
        all.insert(all.end(), more.begin(), more.end());
        return all;
    }
    [[nodiscard]] ProcessResult run(std::vector<std::string> more) const {
        return run_process(command(std::move(more)));
    }
    [[nodiscard]] Json result() const { return parse_json(read_file(out), out); }
};

// What must not depend on interruptions.
std::string figures(Json result) {
    Json tasks = Json::array();
    for (const Json& task : result.find("tasks")->as_array("tasks")) {
        Json one = task;
        one.set("seconds", 0);
        tasks.push(std::move(one));
    }
    return tasks.dump();
}

std::int64_t lines_of(const std::string& path) {
    if (!std::filesystem::exists(path)) return 0;
    const std::string text = read_file(path);
    return std::count(text.begin(), text.end(), '\n');
}

// Starts the command and kills it once the journal has this many lines.
void kill_at(const std::vector<std::string>& command, const std::string& journal,
             std::int64_t lines, int signal) {
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::execv(argv[0], argv.data());
        ::_exit(127);
    }
    for (int i = 0; i < 20000 && lines_of(journal) < lines; ++i) {
        int status = 0;
        if (::waitpid(child, &status, WNOHANG) == child) return;
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    ::kill(child, signal);
    int status = 0;
    ::waitpid(child, &status, 0);
}

}  // namespace

TEST_CASE("evaluate: killed at any time, the rerun ends with the same figures") {
    const Bench bench("f32", "gemma3");  // of many layers
    std::vector<std::string> what = {
        "-f", bench.text, "-c", "32", "--task", "choice:file=" + bench.questions, "-q", "-o"};
    auto with_output = [&](const std::string& output) {
        std::vector<std::string> all = what;
        all.push_back(output);
        return all;
    };
    REQUIRE(bench.run(with_output(bench.out)).exit == 0);
    const std::string wanted = figures(bench.result());
    SUBCASE("with all weights in memory") {}
    SUBCASE("with layers read from disk, once for a group of windows") {
        const std::string report = bench.directory.file("report.json");
        std::vector<std::string> dry = with_output(bench.out);
        dry.insert(dry.end(), {"--dry-run", "--max-memory", "ram=1", "--json", report});
        REQUIRE(bench.run(dry).exit == 77);
        const Json plan = *parse_json(read_file(report), report).find("plan");
        const std::int64_t least = plan.find("tiers")->find("ram")->find("peak_bytes")->as_int("");
        const std::string budget = "ram=" + std::to_string(least + (32 << 10));
        what.insert(what.begin(), {"--max-memory", budget});
        dry = with_output(bench.out);
        dry.insert(dry.end(), {"--dry-run"});
        CHECK(bench.run(dry).out.find("are read from disk once for every ") != std::string::npos);
    }
    const std::int64_t windows = bench.result().find("settings")->find("windows")->as_int("");
    REQUIRE(windows > 10);
    const std::string again = bench.directory.file("again.json"), journal = again + ".journal";
    for (const std::int64_t lines : {std::int64_t{1}, std::int64_t{5}, windows, windows + 20}) {
        CAPTURE(lines);
        kill_at(bench.command(with_output(again)), journal, lines, SIGKILL);
        if (!std::filesystem::exists(again)) REQUIRE(std::filesystem::exists(journal));
    }
    const ProcessResult r = bench.run(with_output(again));
    CHECK(r.exit == 0);
    CHECK(figures(parse_json(read_file(again), again)) == wanted);
    CHECK_FALSE(std::filesystem::exists(journal));
}

TEST_CASE("evaluate: a journal of another model is not used, and that is said") {
    const Bench bench;
    const std::string journal = bench.out + ".journal";
    kill_at(bench.command({"--task", "choice:file=" + bench.questions, "-q", "-o", bench.out}),
            journal, 3, SIGKILL);
    REQUIRE(lines_of(journal) >= 3);
    write_tiny_model(bench.model, "llama-tied", "q4_0");
    const ProcessResult r =
        bench.run({"--task", "choice:file=" + bench.questions, "-o", bench.out});
    CHECK(r.exit == 0);
    CHECK(r.err.find("starting over") != std::string::npos);
    CHECK(r.err.find("going on") == std::string::npos);
}

TEST_CASE("evaluate: SIGTERM and SIGUSR1 end with 75 and keep the journal, which is gone on from") {
    const Bench bench;
    const std::string many = bench.directory.write("many.jsonl", items(400));
    const std::string journal = bench.out + ".journal";
    for (const int signal : {SIGTERM, SIGUSR1}) {
        const ProcessResult r = run_process(bench.command({"--task", "choice:file=" + many, "-o",
                                                           bench.out, "--progress", "jsonl"}),
                                            {.send_signal = signal, .signal_after = "\"done\""});
        CAPTURE(r.err);
        CHECK(r.exit == 75);
        CHECK(r.err.find("run the same command again") != std::string::npos);
        CHECK(r.out.empty());
        CHECK(std::filesystem::exists(journal));
    }
    const ProcessResult r = bench.run({"--task", "choice:file=" + many, "-o", bench.out, "--json",
                                       bench.directory.file("report.json")});
    CHECK(r.exit == 0);
    CHECK(r.err.find("going on from") != std::string::npos);
    const Json report = parse_json(read_file(bench.directory.file("report.json")), "report");
    CHECK(report.find("resumed_samples")->as_int("") > 0);
}

TEST_CASE(
    "evaluate: gates fail with 3 after the results are written, unknown figures with 2 before") {
    const Bench bench;
    const std::vector<std::string> text = {"-f", bench.text, "-c", "32", "-o", bench.out};
    auto with = [&](std::vector<std::string> more) {
        std::vector<std::string> all = text;
        all.insert(all.end(), more.begin(), more.end());
        return bench.run(all);
    };
    const ProcessResult held = with({"--assert", "ppl>1", "--assert", "text.ppl == ppl"});
    CHECK(held.exit == 0);
    std::filesystem::rename(bench.out, bench.directory.file("base.json"));

    const ProcessResult failed = with({"--assert", "ppl>1", "--assert", "ppl<1.5", "-q"});
    CHECK(failed.exit == 3);
    CHECK(std::count(failed.err.begin(), failed.err.end(), '\n') == 1);
    CHECK(failed.err.find("ppl<1.5 failed: ppl is ") != std::string::npos);
    CHECK(std::filesystem::exists(bench.out));
    CHECK(failed.out.find("PPL") != std::string::npos);

    const ProcessResult json = with({"--assert", "ppl<1.5", "-q", "--json", "-"});
    CHECK(json.exit == 3);
    const Json report = parse_json(json.out, "stdout");
    CHECK_FALSE(report.find("gates")->as_array("")[0].find("holds")->as_bool(""));
    CHECK(report.find("exit")->as_int("") == 3);

    std::filesystem::remove(bench.out);
    for (const char* gate : {"pppl<3", "kld_mean<1", "baseline.ppl<3", "ppl<<3"}) {
        const ProcessResult r = with({"--assert", gate});
        CAPTURE(r.err);
        CHECK(r.exit == 2);
        CHECK_FALSE(std::filesystem::exists(bench.out));
    }
    CHECK(with({"--assert", "pppl<3"}).err.find("did you mean 'ppl'") != std::string::npos);

    const std::string base = bench.directory.file("base.json");
    const ProcessResult same = with({"--baseline", base, "--assert", "ppl<=baseline.ppl*1.0001"});
    CHECK(same.exit == 0);
    CHECK(same.out.find("baseline") != std::string::npos);
    CHECK(with({"--baseline", base, "--assert", "ppl<baseline.ppl*0.99", "-q"}).exit == 3);
}

TEST_CASE("evaluate: compare pairs samples, and refuses other ones") {
    const Bench good("f32"), bad("q4_0");
    const std::string questions = good.questions;
    for (const Bench* bench : {&good, &bad}) {
        REQUIRE(bench
                    ->run({"--task", "choice:file=" + questions, "-f", good.text, "-c", "32", "-q",
                           "-o", bench->out})
                    .exit == 0);
    }
    for (const char* how : {"compare", "--compare"}) {
        const ProcessResult r = run_process({tool_path("evaluate"), how, good.out, bad.out});
        CHECK(r.exit == 0);
        CHECK(r.out.find("acc_norm") != std::string::npos);
        CHECK(r.out.find("McNemar") != std::string::npos);
    }
    const ProcessResult json =
        run_process({tool_path("evaluate"), "compare", good.out, bad.out, "--json", "-"});
    const Json report = parse_json(json.out, "stdout");
    CHECK(report.find("comparison")->find("figures")->as_array("").size() == 6);
    REQUIRE(
        bad.run({"--task", "choice:file=" + questions, "--limit", "5", "-q", "-o", bad.out}).exit ==
        0);
    CHECK(run_process({tool_path("evaluate"), "compare", good.out, bad.out}).exit == 2);
    CHECK(run_process({tool_path("evaluate"), "compare", good.out}).exit == 2);
}

TEST_CASE("evaluate: generated answers are matched, and kept with the samples") {
    const Bench bench;
    const std::string prompts =
        bench.directory.write("p.jsonl", R"({"prompt": "abc", "answer": "never this"}
{"messages": [{"role": "user", "content": "hi"}], "answer": ["x", "y"]}
)");
    const std::string samples = bench.directory.file("samples.jsonl");
    const ProcessResult r = bench.run({"--task", "generate:file=" + prompts + ",n-predict=6",
                                       "--samples", samples, "-o", bench.out, "-q"});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    const std::string kept = read_file(samples);
    CHECK(std::count(kept.begin(), kept.end(), '\n') == 3);
    // An answer taken from what the model says is right.
    const std::string second = kept.substr(kept.find('\n') + 1);
    const Json sample = parse_json(second.substr(0, second.find('\n')), "sample");
    Json answer = Json::object();
    answer.set("prompt", "abc");
    answer.set("answer", sample.find("outcome")->find("text")->as_string(""));
    const std::string right = bench.directory.write("right.jsonl", answer.dump() + "\n");
    REQUIRE(bench
                .run({"--task", "generate:file=" + right + ",n-predict=6", "-o", bench.out, "-q",
                      "--assert", "exact_match==1"})
                .exit == 0);
}

TEST_CASE("evaluate: options that nothing uses are refused") {
    const Bench bench;
    const std::string task = "choice:file=" + bench.questions;
    const std::vector<std::vector<std::string>> wrong = {
        {"-f", bench.text, "--limit", "3"},
        {"-f", bench.text, "--num-fewshot", "3"},
        {"--task", task, "--chunks", "3"},
        {"--task", task, "--reference", bench.model},
        {"--task", task, "--num-fewshot", "3"},
        {"--task", task + ",fewshot=" + bench.questions},
        {"--task", "hellaswagg:file=x"},
        {"--task", "choice"},
        {"--task", task + ",flie=x"},
        {"--task", task, "-o", bench.questions},
        {"--task", task, "--samples", bench.questions},
        {"--task", task, "--lm-eval", bench.model},
        {"--task", task, "--num-fewshot", "50", "--task", task + ",fewshot=" + bench.questions},
    };
    for (const auto& options : wrong) {
        const ProcessResult r = bench.run(options);
        CAPTURE(r.err);
        CHECK(r.exit == 2);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK(r.out.empty());
    }
    CHECK(bench.run({"--task", "hellaswagg:file=x"}).err.find("did you mean 'hellaswag'") !=
          std::string::npos);
}

TEST_CASE("evaluate: reports take their form from the file's name and escape what files say") {
    const Bench bench;
    REQUIRE(bench.run({"-f", bench.text, "-c", "32", "-o", bench.out, "-q"}).exit == 0);
    std::string text = read_file(bench.out);
    const std::string from = "\"file\": \"model.gguf\"";
    REQUIRE(text.find(from) != std::string::npos);
    text.replace(text.find(from), from.size(), R"("file": "=<script>alert(1)</script>|`x`")");
    write_file(bench.out, text);
    const auto report = [&](const std::string& name) {
        const std::string path = bench.directory.file(name);
        REQUIRE(run_process({tool_path("evaluate"), "report", bench.out, "-o", path}).exit == 0);
        return read_file(path);
    };
    const std::string html = report("r.html");
    CHECK(html.find("<script") == std::string::npos);
    CHECK(html.find("&lt;script&gt;") != std::string::npos);
    CHECK(html.find("<svg") != std::string::npos);
    CHECK(html.find("http") == html.find("http-equiv"));
    CHECK(html.find("src=") == std::string::npos);
    CHECK(report("r.md").find("=\\<script\\>") != std::string::npos);
    CHECK(report("r.csv").find("'=<script>") != std::string::npos);
    CHECK(report("r.json").find("thimble.report.v1") != std::string::npos);
    CHECK(report("r.txt").find("PPL") != std::string::npos);
}

TEST_CASE("evaluate: lm-eval results and several texts with their mean") {
    const Bench bench;
    const std::string other = bench.directory.write("other.txt", words(30) + "and so on\n");
    const std::string lm = bench.directory.file("lm.json");
    REQUIRE(bench
                .run({"-f", bench.text, "-f", other, "-c", "32", "--lm-eval", lm, "-o", bench.out,
                      "-q", "--assert", "ppl==(text.ppl+other.ppl)/2"})
                .exit == 0);
    const Json json = parse_json(read_file(lm), lm);
    const Json* first = json.find("results")->find("text");
    REQUIRE(first != nullptr);
    CHECK(first->find("perplexity,none")->as_double("") ==
          bench.result().find("perplexity")->find("perplexity")->find("value")->as_double(""));
    CHECK(json.find("results")->find("other") != nullptr);
    CHECK(bench.result().find("averages")->find("ppl") != nullptr);
}

TEST_CASE("evaluate: perplexity by position is that of the samples' own rows") {
    const Bench bench;
    const std::string samples = bench.directory.file("samples.jsonl");
    REQUIRE(bench
                .run({"--task", "perplexity:file=" + bench.text + ",score=all,buckets=3", "-c",
                      "32", "--samples", samples, "-o", bench.out, "-q"})
                .exit == 0);
    // 31 rows of a window in 3 parts: 0-10, 11-20, 21-30, named by their first token.
    const char* names[] = {"ppl_from_1", "ppl_from_12", "ppl_from_22"};
    double sums[3] = {}, counts[3] = {};
    std::istringstream lines(read_file(samples));
    for (std::string line; std::getline(lines, line);) {
        const Json sample = parse_json(line, samples);
        const Json* outcome = sample.find("outcome");
        if (outcome == nullptr) continue;  // the first line says what the samples are of
        const auto& nll = outcome->find("nll")->as_array("nll");
        REQUIRE(nll.size() == 31);
        for (int row = 0; row < 31; ++row) {
            const int part = row < 11 ? 0 : row < 21 ? 1 : 2;
            sums[part] += nll[static_cast<std::size_t>(row)].as_double("nll");
            ++counts[part];
        }
    }
    const Json result = bench.result();
    const Json* metrics = result.find("tasks")->as_array("tasks").front().find("metrics");
    for (int part = 0; part < 3; ++part) {
        REQUIRE(counts[part] > 100);
        const Json* metric = metrics->find(names[part]);
        REQUIRE(metric != nullptr);
        CHECK(metric->find("value")->as_double("value") ==
              doctest::Approx(std::exp(sums[part] / counts[part])).epsilon(1e-12));
    }
}

// KV of a token: what the depth adds to the bytes moved is told by two depths; sliding windows and
// policies that cannot be cut back are filled anew.
TEST_CASE("evaluate: speed on a cache that is already long reads that cache") {
    const auto bytes_at = [](const Bench& bench, const std::string& depth,
                             std::vector<std::string> more) {
        std::vector<std::string> all = {"--bench", "-p",  "8",  "-n",  "8",  "-r",     "2",
                                        "-c",      "256", "-d", depth, "-o", bench.out};
        all.insert(all.end(), more.begin(), more.end());
        const ProcessResult r = bench.run(all);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const Json result = bench.result();
        const Json* speed = result.find("speed");
        REQUIRE(speed != nullptr);
        CHECK(speed->find("decode_tokens_per_second")->as_double("speed") > 0);
        CHECK(speed->find("prefill_tokens_per_second")->as_double("speed") > 0);
        return speed->find("bytes_per_token")->as_int("speed");
    };
    const Bench bench;
    const std::int64_t none = bytes_at(bench, "0", {}), some = bytes_at(bench, "64", {});
    CHECK(some > none);
    CHECK(bytes_at(bench, "128", {}) - some == some - none);
    CHECK(bytes_at(bench, "64", {"--kv-policy", "streaming:sink=2,budget=16"}) <= some);
}
