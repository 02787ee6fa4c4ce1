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
