// SPDX-License-Identifier: Apache-2.0
// KV policies as a user meets them: what run keeps, and which sidecars are asked for.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), dump = directory.file("kept.json");
    std::string prompt = std::string(26, 'a') + "bcdefghijklmnopqrst";

    Setting() { write_tiny_model(model, "llama-tied"); }
    ProcessResult run(std::vector<std::string> more) const {
        std::vector<std::string> command{tool_path("run"), "-m", model,         "-p", prompt, "-q",
                                         "--temp",         "0",  "--ignore-eos"};
        command.insert(command.end(), more.begin(), more.end());
        return run_process(command);
    }
    // Positions of [layer][head].
    [[nodiscard]] std::vector<std::vector<std::vector<std::int64_t>>> kept(
        const std::string& policy, const std::string& answer) const {
        const ProcessResult r = run({"--kv-policy", policy, "-n", answer, "--kv-dump", dump});
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const Json json = read_json_file(dump);
        std::vector<std::vector<std::vector<std::int64_t>>> out;
        for (const Json& layer : json.find("positions")->as_array(dump)) {
            auto& heads = out.emplace_back();
            for (const Json& head : layer.as_array(dump)) {
                auto& list = heads.emplace_back();
                for (const Json& p : head.as_array(dump)) list.push_back(p.as_int(dump));
                CHECK(std::is_sorted(list.begin(), list.end()));
                CHECK(list.back() == std::ssize(json.find("tokens")->as_array(dump)) - 1);
            }
        }
        return out;
    }
};

}  // namespace

TEST_CASE("kv: run --kv-dump tells what each head holds, of a prompt and after an answer") {
    const Setting s;
    const auto full = s.kept("full", "0");
    const auto tokens = static_cast<std::size_t>(full[0][0].size());
    REQUIRE(tokens >= 45);
    CHECK(full[0][0].front() == 0);
    for (const auto& layer : s.kept("snapkv:budget=20,window=8", "0")) {
        for (const auto& head : layer) {
            CHECK(head.size() == 20);
            CHECK(head[12] == static_cast<std::int64_t>(tokens) - 8);  // then the window
        }
    }
    // The last token of an answer is not fed back.
    for (const auto& layer : s.kept("snapkv:budget=20,window=8", "5"))
        for (const auto& head : layer) CHECK(head.size() == 24);
    for (const auto& layer : s.kept("h2o:budget=20", "5"))
        for (const auto& head : layer) CHECK(head.size() == 20);
    for (const auto& layer : s.kept("streaming:sink=2,budget=10", "0")) {
        for (const auto& head : layer) {
            CHECK(head.size() == 10);
            CHECK(head[1] == 1);
            CHECK(head[2] == static_cast<std::int64_t>(tokens) - 8);
        }
    }
}

TEST_CASE("kv: compresskv without its sidecar, or with a broken one, says what to do") {
    const Setting s;
    const auto refused = [&](const std::string& policy, int exit, const std::string& why) {
        const ProcessResult r = s.run({"--kv-policy", policy, "-n", "1"});
        CHECK(r.exit == exit);
        CHECK_MESSAGE(r.err.find(why) != std::string::npos, r.err);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    };
    refused("compresskv", 2, "no sidecar given");
    refused("compresskv:sidecar=" + s.directory.file("none.json"), 66, "none.json");
    const std::string broken = s.directory.write("broken.json", R"({"model":"m"})");
    refused("compresskv:sidecar=" + broken, 65, "has no 'query_heads'");
}

TEST_CASE("kv: retrieval heads are not looked for in texts that the model cannot hold") {
    const Setting s;
    const std::string text = s.directory.write("text.txt", std::string(400, 'x'));
    const std::string out = s.directory.file("heads.json");
    const ProcessResult r =
        run_process({tool_path("evaluate"), "find-retrieval-heads", "-m", s.model, "-f", text, "-o",
                     out, "--needle-tokens", "300", "-q"});
    CHECK(r.exit == 2);
    CHECK_MESSAGE(r.err.find("more than the model's context of 64") != std::string::npos, r.err);
    CHECK(!std::filesystem::exists(out));
}

TEST_CASE("kv: a saved cache answers what follows, and other options are refused in one line") {
    const Setting s;
    const std::string cache = s.directory.file("cache.safetensors");
    const auto run = [&](std::vector<std::string> more) {
        std::vector<std::string> command{tool_path("run"), "-m", s.model,       "-q",
                                         "--temp",         "0",  "--ignore-eos"};
        command.insert(command.end(), more.begin(), more.end());
        return run_process(command);
    };
    const std::string text(20, 'a'), more = "bcd";
    CHECK(run({"-p", text, "-n", "0", "--kv-save", cache}).exit == 0);
    const ProcessResult loaded = run({"-p", text + more, "-n", "8", "--kv-load", cache});
    const ProcessResult fresh = run({"-p", text + more, "-n", "8"});
    CHECK(loaded.exit == 0);
    CHECK(loaded.out == fresh.out);
    // What follows alone, with no space of its own before it.
    CHECK(run({"-p", more, "-n", "8", "--kv-load", cache}).out == fresh.out);
    const auto refused = [&](std::vector<std::string> options, int exit, const std::string& why) {
        const ProcessResult r = run(std::move(options));
        CHECK(r.exit == exit);
        CHECK_MESSAGE(r.err.find(why) != std::string::npos, r.err);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    };
    refused({"-p", "x", "-n", "4", "--kv-load", cache, "--kv-policy", "h2o:budget=8"}, 65,
            "was saved with --kv-policy 'full'");
    refused({"-p", "x", "-n", "4", "--kv-load", cache, "-ctk", "f32"}, 65, "-ctk");
    refused({"-p", "x", "-n", "4", "--kv-load", s.directory.file("no.safetensors")}, 66, "no.safe");
    refused({"-p", "x", "-n", "4", "--kv-save", s.directory.file("c.kv")}, 2, "*.safetensors");
    refused({"-p", "x", "-n", "4", "--kv-load", s.model}, 2, "*.safetensors");
    refused({"-p", "x", "-n", "4", "--kv-load", cache, "--chat"}, 2, "not in a chat");
    refused({"-i", "-n", "4", "--kv-save", cache}, 2, "not a conversation");
}

TEST_CASE(
    "kv: workers answer together, each as long as was said, and what they cannot do is refused") {
    const Setting s;
    const std::string report = s.directory.file("report.json");
    for (const char* layout : {"contiguous", "interleaved", "combined"}) {
        const ProcessResult r = run_process({tool_path("run"), "-m", s.model, "-p", "abc", "-n",
                                             "5", "--temp", "0", "--ignore-eos", "--workers", "2",
                                             "--worker-layout", layout, "--json", report, "-q"});
        CHECK_MESSAGE(r.exit == 0, r.err);
        const Json json = read_json_file(report);
        const auto& workers = json.find("workers")->as_array(report);
        REQUIRE(workers.size() == 2);
        for (const Json& worker : workers) CHECK(worker.find("tokens")->as_int(report) == 5);
        CHECK(r.out.find("Worker 1: ") == 0);
    }
    const ProcessResult bounded =
        run_process({tool_path("run"), "-m", s.model, "-p", "abc", "-n", "5", "--workers", "2",
                     "--kv-policy", "h2o:budget=8", "-q"});
    CHECK(bounded.exit == 2);
    CHECK(bounded.err.find("keep every key") != std::string::npos);
}

TEST_CASE("kv: a sweep holds every policy against the full cache") {
    const Setting s;
    const std::string text = s.directory.write("text.txt",
                                               std::string(30, 'a') + std::string(30, 'b')),
                      out = s.directory.file("sweep.json"), svg = s.directory.file("sweep.svg");
    const ProcessResult r = run_process({tool_path("evaluate"),
                                         "--kv-sweep",
                                         "-m",
                                         s.model,
                                         "-f",
                                         text,
                                         "--prompt",
                                         "24",
                                         "--answer",
                                         "6",
                                         "--budget",
                                         "50%",
                                         "--budget",
                                         "24",
                                         "--policy",
                                         "snapkv:window=4",
                                         "--policy",
                                         "h2o",
                                         "--policy",
                                         "streaming",
                                         "--policy",
                                         "quest",
                                         "--needles",
                                         "0",
                                         "-o",
                                         out,
                                         "--svg",
                                         svg,
                                         "-q"});
    CHECK_MESSAGE(r.exit == 0, r.err);
    const Json json = read_json_file(out);
    const auto& rows = json.find("rows")->as_array(out);
    REQUIRE(rows.size() == 9);
    for (const Json& row : rows) {
        const std::string policy = row.find("policy")->as_string(out);
        const double kld = row.find("kld")->as_double(out);
        const std::int64_t tokens = row.find("budget_tokens")->as_int(out);
        INFO(policy, ' ', tokens);
        CHECK(kld >= 0);
        if (policy == "full") CHECK(kld < 1e-12);
        // Quest reads everything in the first two layers, and there are no others.
        if (policy != "full" && policy != "quest" && tokens == 12) CHECK(kld > 0);
    }
    CHECK(read_file(svg).find("<svg") == 0);
    CHECK(r.out.find("| h2o | 50% |") != std::string::npos);
    const ProcessResult unknown =
        run_process({tool_path("evaluate"), "--kv-sweep", "-m", s.model, "-f", text, "--prompt",
                     "24", "--answer", "6", "--policy", "snapvk", "-q"});
    CHECK(unknown.exit == 2);
    CHECK(unknown.err.find("snapkv") != std::string::npos);
    const ProcessResult narrow =
        run_process({tool_path("evaluate"), "--kv-sweep", "-m", s.model, "-f", text, "--prompt",
                     "24", "--answer", "6", "--policy", "snapkv", "-q"});
    CHECK(narrow.exit == 2);
    CHECK(narrow.err.find("--needles") != std::string::npos);
}

TEST_CASE("kv: a text is not scored under a policy that would do nothing") {
    const Setting s;
    const std::string text = s.directory.write("text.txt", std::string(200, 'a'));
    const auto evaluate = [&](const std::string& policy) {
        return run_process({tool_path("evaluate"), "-m", s.model, "-f", text, "-c", "32",
                            "--kv-policy", policy, "-q"});
    };
    CHECK(evaluate("streaming:budget=16").exit == 0);
    for (const char* policy : {"snapkv", "h2o:budget=8", "quest", "gemfilter"}) {
        const ProcessResult r = evaluate(policy);
        CHECK(r.exit == 2);
        CHECK_MESSAGE(r.err.find("--kv-sweep") != std::string::npos, r.err);
    }
}
