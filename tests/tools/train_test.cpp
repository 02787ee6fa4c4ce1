// SPDX-License-Identifier: Apache-2.0
// offload-train: what it learns, what it leaves, and going on after signals and kills.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <map>
#include <utility>

#include "io/json.h"
#include "kernels/cuda/stream.h"
#include "model/adapter.h"
#include "tensor/buffer.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), output = directory.file("adapter");
    std::string data, report = directory.file("report.json");

    explicit Bench(const std::string& name = "llama-tied", const std::string& format = "f32") {
        write_tiny_model(model, name, format);
        std::string lines;
        for (int i = 0; i < 24; ++i) {
            const std::string n = std::to_string(i);
            lines += R"({"prompt": "what is )" + n + R"( plus one", "completion": ")" +
                     std::to_string(i + 1) + "\"}\n";
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
                                          "64",
                                          "--lr",
                                          "0.01",
                                          "--lr-scheduler",
                                          "constant",
                                          "--threads",
                                          "2"};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    [[nodiscard]] ProcessResult run(const std::vector<std::string>& more,
                                    const ProcessOptions& options = {}) const {
        return run_process(command(more), options);
    }
    [[nodiscard]] Json read_report() const { return parse_json(read_file(report), "report"); }
    // Everything below the output.
    [[nodiscard]] std::map<std::string, std::string> files() const {
        namespace fs = std::filesystem;
        std::map<std::string, std::string> out;
        if (fs::is_regular_file(output)) return {{"", read_file(output)}};
        for (const auto& entry : fs::recursive_directory_iterator(output))
            out[fs::relative(entry.path(), output).string()] = read_file(entry.path().string());
        return out;
    }
    [[nodiscard]] std::string state() const { return output + ".state.safetensors"; }
};

double number(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return node->as_double("report");
}

std::vector<double> losses(const std::string& lines) {
    std::vector<double> out;
    for (std::size_t at = 0; at < lines.size();) {
        const std::size_t end = lines.find('\n', at);
        const Json line = parse_json(lines.substr(at, end - at), "metrics");
        if (const Json* loss = line.find("loss")) out.push_back(loss->as_double("metrics"));
        at = end + 1;
    }
    return out;
}

}  // namespace

TEST_CASE("training: the loss falls, whatever the method and optimizer") {
    const std::vector<std::vector<std::string>> ways = {
        {"--method", "lora:rank=8"},
        {"--method", "lora:rank=8,dora,dropout=0.05", "--optimizer", "adamw8bit"},
        {"--method", "full", "--lr", "0.003"},
        {"--method", "full", "--optimizer", "lomo", "--lr", "0.3", "--grad-accumulation", "1"},
        {"--method", "full", "--optimizer", "sgd:momentum=0.9", "--lr", "0.05"},
        {"--method", "lora:rank=8,targets=q_proj,targets=ffn_up", "--loss", "chunked",
         "--checkpoint-layers", "0"},
    };
    for (const auto& way : ways) {
        const Bench bench("llama-untied", way[1] == "full" ? "f32" : "q8_0");
        std::vector<std::string> words = {"--steps", "30", "--metrics", "-"};
        words.insert(words.end(), way.begin(), way.end());
        if (way[1] == "full") words.insert(words.end(), {"-o", bench.directory.file("out.gguf")});
        const ProcessResult r = bench.run(words);
        CAPTURE(way[1]);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const std::vector<double> loss = losses(r.out);
        REQUIRE(loss.size() == 30);
        CHECK(loss.back() < 0.8 * loss.front());
        CHECK_FALSE(std::filesystem::exists(bench.state()));
    }
}

TEST_CASE("training: over a coded base as over the plain one") {
    Bench bench("llama-tied", "bf16");
    const std::string coded = bench.directory.file("coded.gguf"), plain = bench.model;
    REQUIRE(run_process({tool_path("compress"), plain, "-o", coded, "-q"}).exit == 0);
    for (const char* method : {"lora:rank=8", "lora:rank=4,dora", "full"}) {
        CAPTURE(method);
        std::vector<double> want;
        for (const std::string& model : {plain, coded}) {
            bench.model = model;
            const bool full = std::string_view(method) == "full";
            const std::string out = bench.directory.file(full ? "out.gguf" : "out");
            const ProcessResult r =
                bench.run({"--method", method, "--steps", "4", "--metrics", "-", "-o", out});
            CAPTURE(r.err);
            REQUIRE(r.exit == 0);
            const std::vector<double> loss = losses(r.out);
            REQUIRE(loss.size() == 4);
            if (model == plain) want = loss;
            CHECK(loss == want);
            std::filesystem::remove_all(out);
        }
    }
}

TEST_CASE("training: a run that was stopped or killed ends with the same bytes") {
    const std::vector<std::string> how = {"--steps",
                                          "40",
                                          "--method",
                                          "lora:rank=4,dropout=0.1",
                                          "--grad-accumulation",
                                          "2",
                                          "--pack",
                                          "none",
                                          "--save-every",
                                          "3",
                                          "--metrics",
                                          "/dev/null"};
    Bench bench("gemma3", "q8_0");
    REQUIRE(bench.run(how).exit == 0);
    const auto wanted = bench.files();
    REQUIRE(!wanted.empty());
    for (const int signal : {SIGTERM, SIGUSR1, SIGKILL}) {
        CAPTURE(signal);
        std::filesystem::remove_all(bench.output);
        std::vector<std::string> words = how;
        words.insert(words.end(), {"--progress", "jsonl"});
        const ProcessResult stopped =
            bench.run(words, {.send_signal = signal, .signal_after = "\"done\":5"});
        CAPTURE(stopped.err);
        if (signal == SIGKILL) {
            CHECK(stopped.signal == SIGKILL);
        } else {
            CHECK(stopped.exit == 75);
            CHECK(stopped.err.find("run the same command again") != std::string::npos);
        }
        CHECK_FALSE(std::filesystem::exists(bench.output));
        REQUIRE(std::filesystem::exists(bench.state()));
        const ProcessResult again = bench.run(how);
        CAPTURE(again.err);
        REQUIRE(again.exit == 0);
        CHECK(again.err.find("goes on after step") != std::string::npos);
        CHECK(bench.files() == wanted);
        CHECK_FALSE(std::filesystem::exists(bench.state()));
    }
}

TEST_CASE("training: a state of other options is refused") {
    const Bench bench;
    REQUIRE(bench.run({"--steps", "4", "--save-every", "2", "--keep-state"}).exit == 0);
    REQUIRE(std::filesystem::exists(bench.state()));
    const ProcessResult r = bench.run({"--steps", "4", "--method", "lora:rank=3", "--force"});
    CHECK(r.exit == 65);
    CHECK(r.err.find("belongs to a run with other options") != std::string::npos);
}

TEST_CASE("training: threads change no byte") {
    Bench bench("llama-untied", "q4_0");
    REQUIRE(bench.run({"--steps", "5", "--threads", "1"}).exit == 0);
    const auto one = bench.files();
    REQUIRE(bench.run({"--steps", "5", "--threads", "3", "--force"}).exit == 0);
    CHECK(bench.files() == one);
}

TEST_CASE("training: the plan is kept, and less is refused") {
    for (const std::vector<std::string>& how :
         {std::vector<std::string>{"--method", "lora:rank=4"},
          {"--method", "full", "--checkpoint-layers", "0"},
          {"--method", "full", "--optimizer", "lomo", "--loss", "dense"},
          {"--method", "lora:dora,dropout=0.1", "--optimizer", "adamw8bit", "-b", "3"}}) {
        const Bench bench("gemma3", "q8_0");
        std::vector<std::string> words = {"--steps", "2", "--json", bench.report};
        words.insert(words.end(), how.begin(), how.end());
        if (how[1] == "full") words.insert(words.end(), {"-o", bench.directory.file("out.gguf")});
        const auto with = [&](std::vector<std::string> more) {
            std::vector<std::string> all = words;
            all.insert(all.end(), more.begin(), more.end());
            return bench.run(all);
        };
        CAPTURE(how[1]);
        REQUIRE(with({"--dry-run"}).exit == 0);
        const auto peak = static_cast<std::int64_t>(
            number(bench.read_report(), {"plan", "tiers", "ram", "peak_bytes"}));
        const ProcessResult refused = with({"--max-memory", "ram=" + std::to_string(peak - 4096)});
        CHECK(refused.exit == 77);
        CHECK_FALSE(std::filesystem::exists(bench.output));
        const ProcessResult fits = with({"--max-memory", "ram=" + std::to_string(peak)});
        CAPTURE(fits.err);
        REQUIRE(fits.exit == 0);
        const double used = number(bench.read_report(), {"measured", "ram", "peak_bytes"});
        CHECK(used <= static_cast<double>(peak));
    }
}

TEST_CASE("cuda: an adapter trained there is the CPU's, and device memory is as planned" *
          doctest::skip(std::string_view(cuda::build_kind()) == "none")) {
    const ProcessOptions plain{.environment = {{"THIMBLE_EMU_TRACK", "0"}}};
    Bench bench("llama-untied", "q8_0");
    const auto source = ModelSource::open(bench.model);
    std::vector<std::vector<float>> adapters;
    for (const std::string device : {"cpu", "cuda"}) {
        CAPTURE(device);
        const std::vector<std::string> words = {
            "--steps",  "2",    "--method", "lora:rank=4", "--optimizer",
            "sgd",      "--lr", "0.5",      "--precision", "f32",
            "--device", device, "--json",   bench.report,  "--force"};
        const ProcessResult r = bench.run(words, plain);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const AdapterFile file(bench.output, *source);
        Buffer memory(file.value_bytes(), Purpose::kWeights);
        (void)file.read(memory.data());
        adapters.emplace_back(memory.span<float>().begin(), memory.span<float>().end());
        if (device == "cpu") continue;
        const double used = number(bench.read_report(), {"measured", "vram", "peak_bytes"});
        CHECK(used == number(bench.read_report(), {"plan", "tiers", "vram", "peak_bytes"}));
        // One page less is refused before work begins.
        std::vector<std::string> less = words;
        less.insert(less.end(), {"--max-memory",
                                 "vram=" + std::to_string(static_cast<std::int64_t>(used) - 4096)});
        const ProcessResult refused = bench.run(less, plain);
        CHECK(refused.exit == 77);
        CHECK(refused.err.find("--device cpu") != std::string::npos);
    }
    REQUIRE(adapters[0].size() == adapters[1].size());
    double most = 0, largest_b = 0;
    for (std::size_t i = 0; i < adapters[0].size(); ++i) {
        most = std::max(most, static_cast<double>(std::abs(adapters[0][i] - adapters[1][i])));
        largest_b = std::max(largest_b, static_cast<double>(std::abs(adapters[0][i])));
    }
    CHECK(largest_b > 0);
    CHECK(most <= 1e-4 * largest_b);
}

TEST_CASE("training: from random weights, and what is asked wrongly") {
    Bench bench;
    const std::string config = bench.directory.write(
        "config.json",
        R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 128, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"})");
    const std::string out = bench.directory.file("new.gguf");
    const std::vector<std::string> words = {tool_path("offload-train"),
                                            "--init",
                                            "random",
                                            "--model-config",
                                            config,
                                            "--tokenizer",
                                            bench.model,
                                            "--data",
                                            bench.data,
                                            "-o",
                                            out,
                                            "-c",
                                            "64",
                                            "--method",
                                            "full",
                                            "--steps",
                                            "60",
                                            "--metrics",
                                            "-",
                                            "--lr",
                                            "0.01",
                                            "--seed",
                                            "7"};
    const ProcessResult r = run_process(words);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    const std::vector<double> loss = losses(r.out);
    CHECK(loss.front() == doctest::Approx(std::log(128.0)).epsilon(0.05));
    CHECK(loss.back() < 2);
    const ProcessResult speaks =
        run_process({tool_path("run"), "-m", out, "-p", "what is 3", "-n", "3", "--temp", "0"});
    CHECK(speaks.exit == 0);

    const auto wrong = [&](const std::vector<std::string>& more, int exit, const char* text) {
        const ProcessResult bad = bench.run(more);
        CAPTURE(bad.err);
        CHECK(bad.exit == exit);
        CHECK(bad.err.find(text) != std::string::npos);
        CHECK_FALSE(std::filesystem::exists(bench.output));
    };
    wrong({"--method", "lora:targets=q_porj"}, 2, "q_proj");
    wrong({"--method", "lorra"}, 2, "lora");
    wrong({"--optimizer", "adam"}, 2, "adamw");
    wrong({"--data", bench.directory.file("none.jsonl")}, 66, "none.jsonl");
    wrong({"--method", "full", "-o", bench.model}, 2, "");
    wrong({"--method", "full", "-o", bench.directory.file("wild.gguf"), "--steps", "60",
           "--optimizer", "sgd", "--lr", "1000", "--max-grad-norm", "0", "--weight-decay", "1"},
          1, "lower --learning-rate");
    wrong({"--method", "full", "-o", bench.directory.file("wild.gguf"), "--steps", "60",
           "--optimizer", "lomo", "--lr", "1000", "--max-grad-norm", "0", "--weight-decay", "1"},
          1, "lower --learning-rate");
    wrong({"--optimizer", "lomo"}, 2, "--method full");
    wrong({"--method", "full", "-o", bench.directory.file("out.gguf"), "--optimizer", "lomo",
           "--grad-accumulation", "2", "--dry-run"},
          2, "--grad-accumulation");
}

TEST_CASE(
    "training: the recipes that train, heal, prune and factor run, and have nothing to do again") {
    const Bench bench("llama-tied", "f32");
    std::string text;
    for (int i = 0; i < 80; ++i) text += "what is " + std::to_string(i) + " plus one, and why\n";
    const std::string words = bench.directory.write("words.txt", text);
    const std::string config = bench.directory.write(
        "config.json",
        R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 128, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"})");
    const auto cook = [&](const std::string& recipe, const std::vector<std::string>& settings) {
        std::vector<std::string> command = {tool_path("recipe"), "run",
                                            std::string(THIMBLE_SOURCE_DIR) + "/recipes/" + recipe,
                                            "-w", bench.directory.file(recipe + ".d")};
        for (const std::string& setting : settings)
            command.insert(command.end(), {"--set", setting});
        return run_process(command);
    };
    const std::vector<std::string> heal = {
        "model=" + bench.model, "data=" + bench.data, "text=" + words, "steps=4",
        "context=64",           "windows=1",          "rate=0.01"};
    const std::vector<std::string> train = {"config=" + config,
                                            "tokenizer=" + bench.model,
                                            "text=" + words,
                                            "held_out=" + words,
                                            "steps=4",
                                            "context=64",
                                            "rows=2"};
    // One layer is left; with so few, the first and the last need not stay.
    std::vector<std::string> prune = heal;
    prune.insert(prune.end(), {"method=layers:count=1,first=0,last=0", "limit=50", "chunks=4",
                               "prompt=what is"});
    const std::vector<std::string> thin = {"model=" + bench.model, "data=" + words, "text=" + words,
                                           "context=64",           "chunks=4",      "windows=1"};
    for (const auto& [recipe, settings] : {std::pair(std::string("heal.yaml"), heal),
                                           {"prune.yaml", prune},
                                           {"low-rank.yaml", thin},
                                           {"train-offgrid.yaml", train}}) {
        const ProcessResult first = cook(recipe, settings);
        CAPTURE(recipe);
        CAPTURE(first.err);
        REQUIRE(first.exit == 0);
        CHECK(first.out.find("PPL") != std::string::npos);
        CHECK(cook(recipe, settings).err.find("nothing to do") != std::string::npos);
    }
}
