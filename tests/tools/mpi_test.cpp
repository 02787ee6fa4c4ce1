// SPDX-License-Identifier: Apache-2.0
// offload-train by mpirun: ranks train as one does, stop together and go on.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <map>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/ranks.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

// What a shell runs on one rank while it trains.
const std::string kOnceSaved = "(while [ ! -e \"$STATE\" ]; do sleep 0.01; done; ";

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), output = directory.file("adapter.gguf");
    std::string metrics = directory.file("metrics.jsonl"), data;

    explicit Bench(const std::string& format = "q8_0") {
        write_tiny_model(model, "llama-untied", format);
        std::string lines;
        for (int i = 0; i < 23; ++i) {
            lines += R"({"prompt": "what is )" + std::to_string(i) +
                     R"( plus one", "completion": ")" + std::to_string(i + 1) + "\"}\n";
        }
        data = directory.write("data.jsonl", lines);
    }
    [[nodiscard]] std::vector<std::string> command(const std::vector<std::string>& more) const {
        std::vector<std::string> words = {tool_path("offload-train"),
                                          "-m",
                                          model,
                                          "--data",
                                          data,
                                          "-o",
                                          output,
                                          "-c",
                                          "48",
                                          "--lr",
                                          "0.01",
                                          "--lr-scheduler",
                                          "constant",
                                          "--threads",
                                          "1"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    // By so many ranks, one of them with a few words of shell before it; 0: without mpirun.
    [[nodiscard]] ProcessResult run(int ranks, const std::vector<std::string>& more,
                                    const std::string& on_rank_1 = {},
                                    ProcessOptions options = {}) const {
        std::vector<std::string> words;
        if (ranks > 0) words = mpirun(ranks).value();
        if (!on_rank_1.empty()) {
            words.insert(words.end(), {"sh", "-c",
                                       "if [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then " + on_rank_1 +
                                           "\nfi\nexec \"$@\"",
                                       "sh"});
        }
        const std::vector<std::string> train = command(more);
        words.insert(words.end(), train.begin(), train.end());
        options.environment = {{"STATE", state()}};
        return run_process(words, options);
    }
    [[nodiscard]] std::string state() const { return output + ".state.safetensors"; }
    [[nodiscard]] std::vector<double> numbers(const char* key) const {
        std::vector<double> out;
        const std::string lines = read_file(metrics);
        for (std::size_t at = 0; at < lines.size();) {
            const std::size_t end = lines.find('\n', at);
            const Json line = parse_json(lines.substr(at, end - at), "metrics");
            if (const Json* value = line.find(key)) out.push_back(value->as_double("metrics"));
            at = end + 1;
        }
        return out;
    }
    // The output's bytes; the file goes.
    [[nodiscard]] std::string take() const {
        const std::string bytes = read_file(output);
        std::filesystem::remove(output);
        REQUIRE(!bytes.empty());
        return bytes;
    }
};

void check_close(const std::vector<double>& a, const std::vector<double>& b, double relative) {
    REQUIRE(a.size() == b.size());
    REQUIRE(!a.empty());
    for (std::size_t i = 0; i < a.size(); ++i)
        CHECK(std::abs(a[i] - b[i]) <= relative * std::max(std::abs(b[i]), 1e-3));
}

// The adapters of two files of the same kind: F32 numbers after the same head.
double farthest(const std::string& a, const std::string& b) {
    REQUIRE(a.size() == b.size());
    double most = 0;
    for (std::size_t i = a.size() / 2 / 4 * 4; i + 4 <= a.size(); i += 4) {
        float x = 0, y = 0;
        std::memcpy(&x, a.data() + i, 4);
        std::memcpy(&y, b.data() + i, 4);
        most = std::max(most, std::abs(double{x} - double{y}));
    }
    return most;
}

}  // namespace

TEST_CASE("ranks: 1, 2 and 4 learn as one process does, and twice the same to the bit") {
    if (!mpirun(1)) return;
    const Bench bench;
    const std::vector<std::string> how = {"--steps",
                                          "8",
                                          "--grad-accumulation",
                                          "5",
                                          "--pack",
                                          "none",
                                          "--validation-split",
                                          "0.2",
                                          "--method",
                                          "lora:rank=4,dropout=0.1",
                                          "--metrics",
                                          bench.metrics};
    const ProcessResult one = bench.run(0, how);
    CAPTURE(one.err);
    REQUIRE(one.exit == 0);
    const std::vector<double> loss = bench.numbers("loss"),
                              valid = bench.numbers("validation_loss");
    const std::vector<double> norms = bench.numbers("gradient_norm");
    const std::string bytes = bench.take();
    for (const int ranks : {1, 2, 4}) {
        const ProcessResult r = bench.run(ranks, how);
        CAPTURE(ranks);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        check_close(bench.numbers("loss"), loss, 1e-5);
        check_close(bench.numbers("validation_loss"), valid, 1e-5);
        check_close(bench.numbers("gradient_norm"), norms, 1e-3);
        const std::string mine = bench.take();
        CHECK(farthest(mine, bytes) < 1e-3);
        if (ranks == 1) CHECK(mine == bytes);
        if (ranks != 2) continue;
        REQUIRE(bench.run(ranks, how).exit == 0);
        CHECK(bench.take() == mine);
    }
}

TEST_CASE("ranks: gradients that are used up in backward are summed, and a rank may have no row") {
    if (!mpirun(1)) return;
    Bench bench("f32");
    // The last of an epoch's rows is the first rank's alone.
    const std::vector<std::string> how = {
        "--epochs", "2",           "-b",   "2",    "--pack", "none",      "--method",
        "full",     "--optimizer", "lomo", "--lr", "0.1",    "--metrics", bench.metrics};
    REQUIRE(bench.run(0, how).exit == 0);
    const std::vector<double> loss = bench.numbers("loss"), norms = bench.numbers("gradient_norm");
    const std::string bytes = bench.take();
    const ProcessResult r = bench.run(2, how);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    check_close(bench.numbers("loss"), loss, 1e-5);
    check_close(bench.numbers("gradient_norm"), norms, 1e-3);
    CHECK(*std::max_element(norms.begin(), norms.end()) > 1);  // clipped by the norm of all
    CHECK(farthest(bench.take(), bytes) < 1e-4);
}

TEST_CASE("ranks: weights in bf16 are rounded alike on all of them") {
    if (!mpirun(1)) return;
    const Bench bench("f32");
    const std::vector<std::string> how = {
        "--steps", "3",    "-b",    "2",        "--pack",
        "none",    "--lr", "0.001", "--method", "full:weights=bf16"};
    REQUIRE(bench.run(2, how).exit == 0);  // compares them at the end
    const std::string bytes = bench.take();
    REQUIRE(bench.run(2, how).exit == 0);
    CHECK(bench.take() == bytes);
}

TEST_CASE("ranks: a job with a dead or a stopped rank ends, and goes on to the same bytes") {
    if (!mpirun(1)) return;
    const Bench bench;
    const std::vector<std::string> how = {"--steps",
                                          "30",
                                          "--grad-accumulation",
                                          "2",
                                          "--pack",
                                          "none",
                                          "--method",
                                          "lora:rank=4,dropout=0.1",
                                          "--save-every",
                                          "2"};
    REQUIRE(bench.run(2, how).exit == 0);
    const std::string wanted = bench.take();
    for (const std::string signal : {"KILL", "TERM"}) {
        const ProcessResult r = bench.run(2, how, kOnceSaved + "kill -" + signal + " $$) &");
        CAPTURE(signal);
        CAPTURE(r.err);
        if (signal == "KILL") {
            CHECK(r.exit != 0);
            CHECK(r.err.find("rank 1") != std::string::npos);
        } else {
            CHECK(r.exit == 75);
            CHECK(r.err.find("run the same command again") != std::string::npos);
        }
        CHECK_FALSE(std::filesystem::exists(bench.output));
        REQUIRE(std::filesystem::exists(bench.state()));
        const std::string state = read_file(bench.state());
        const ProcessResult again = bench.run(2, how);
        CAPTURE(again.err);
        REQUIRE(again.exit == 0);
        CHECK(again.err.find("goes on after step") != std::string::npos);
        CHECK(bench.take() == wanted);
        if (signal == "TERM") continue;
        // Another number of ranks goes on from it, too.
        write_file(bench.state(), state);
        const ProcessResult alone = bench.run(0, how);
        REQUIRE(alone.exit == 0);
        CHECK(alone.err.find("goes on after step") != std::string::npos);
        CHECK(farthest(bench.take(), wanted) < 1e-3);
    }
}

TEST_CASE("ranks: mpirun hands SIGUSR1 on, and all stop with their state saved") {
    if (!mpirun(1)) return;
    const Bench bench;
    const std::vector<std::string> how = {"--steps", "2000", "-b",         "2",
                                          "--pack",  "none", "--progress", "jsonl"};
    const ProcessResult r =
        bench.run(2, how, {}, {.send_signal = SIGUSR1, .signal_after = "\"done\":1"});
    CAPTURE(r.err);
    CHECK(r.exit == 75);
    CHECK(r.err.find("run the same command again") != std::string::npos);
    CHECK(std::filesystem::exists(bench.state()));
    CHECK_FALSE(std::filesystem::exists(bench.output));
}

TEST_CASE("ranks: one that differs or fails is named, and what all find wrong is told once") {
    if (!mpirun(1)) return;
    const Bench bench;
    const std::vector<std::string> how = {"--steps", "3", "-b", "2", "--pack", "none"};
    const ProcessResult differs = bench.run(2, how, "export THIMBLE_OFFLOAD_TRAIN_SEED=5");
    CHECK(differs.exit == 1);
    CHECK(differs.err.find("rank 1: has other options") != std::string::npos);
    const ProcessResult fails =
        bench.run(2, how, "export THIMBLE_OFFLOAD_TRAIN_MAX_MEMORY=ram=1MiB");
    CAPTURE(fails.err);
    CHECK(fails.exit == 77);
    CHECK(fails.err.find("rank 1 of 2: ") != std::string::npos);
    const ProcessResult idle = bench.run(3, how);
    CHECK(idle.exit == 2);
    CHECK(idle.err.find("3 ranks share 2 rows a step") != std::string::npos);
    CHECK(idle.err.find("rows a step") == idle.err.rfind("rows a step"));
    CHECK_FALSE(std::filesystem::exists(bench.output));
}

TEST_CASE("ranks: each keeps the plan, and one writes") {
    if (!mpirun(1)) return;
    const Bench bench;
    const std::string report = bench.directory.file("report.json");
    const ProcessResult r = bench.run(
        2, {"--steps", "3", "-b", "2", "--pack", "none", "--metrics", "-", "--json", report});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(std::count(r.out.begin(), r.out.end(), '\n') == 3);
    const Json json = parse_json(read_file(report), "report");
    const auto number = [&](std::initializer_list<const char*> keys) {
        const Json* node = &json;
        for (const char* key : keys) node = node->find(key);
        return node->as_double("report");
    };
    CHECK(number({"ranks"}) == 2);
    const double plan = number({"plan", "tiers", "ram", "peak_bytes"});
    CHECK(number({"measured", "ram", "peak_bytes"}) <= plan);
    CHECK(number({"measured", "peak_rss_bytes"}) == doctest::Approx(plan).epsilon(0.5));
    CHECK(std::abs(number({"measured", "peak_rss_bytes"}) - plan) <=
          std::max(0.1 * plan, 32.0 * 1024 * 1024));
}

TEST_CASE("ranks: a build without MPI does not do the job once per process") {
    const Bench bench;
    std::vector<std::string> words = bench.command({"--steps", "1"});
    words[0] = THIMBLE_TRAIN_WITHOUT_MPI;
    const ProcessResult r = run_process(words, {.environment = {{"OMPI_COMM_WORLD_SIZE", "2"}}});
    CHECK(r.exit == 2);
    CHECK(r.err.find("this build has no MPI") != std::string::npos);
    CHECK_FALSE(std::filesystem::exists(bench.output));
    CHECK(run_process(words).exit == 0);
}
