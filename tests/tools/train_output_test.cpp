// SPDX-License-Identifier: Apache-2.0
// What offload-train leaves: a whole model is the same in either container, and what cannot be
// written is refused before training.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "tests/support/golden_model.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

struct Bench {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), data;

    explicit Bench(const std::string& golden, const std::string& format = "f32") {
        write_tiny_model(model, golden, format);
        std::string lines;
        for (int i = 0; i < 12; ++i)
            lines += R"({"text": "what is )" + std::to_string(i) + " plus one\"}\n";
        data = directory.write("data.jsonl", lines);
    }
    [[nodiscard]] ProcessResult train(const std::string& output,
                                      const std::vector<std::string>& more) const {
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
                                          "--threads",
                                          "2",
                                          "--steps",
                                          "2",
                                          "-q"};
        words.insert(words.end(), more.begin(), more.end());
        return run_process(words);
    }
};

std::vector<double> logits_of(const std::string& model) {
    Team team(1);
    RunnerOptions options;
    options.device = Device::kRef;
    Runner runner(ModelSource::open(model), options, team);
    return all_logits(runner, std::vector<std::int32_t>{1, 5, 9, 2, 7});
}

// Every tensor in the canonical convention, bit for bit; norms that are kept as the difference from
// one may have lost what lies below the rounding. Returns how many were compared.
int check_same_model(const std::string& a, const std::string& b) {
    const auto x = ModelSource::open(a), y = ModelSource::open(b);
    std::vector<std::byte> scratch;
    int count = 0;
    for (const SourceTensor& tensor : x->tensors()) {
        CAPTURE(tensor.name);
        const SourceTensor* other = y->find(tensor.name);
        REQUIRE(other != nullptr);
        const auto n = static_cast<std::size_t>(tensor.rows() * tensor.cols());
        std::vector<float> p(n), q(n);
        x->read_rows(tensor, 0, tensor.rows(), p.data(), scratch);
        y->read_rows(*other, 0, tensor.rows(), q.data(), scratch);
        const bool shifted = tensor.rule->transform == HfTransform::kPlusOne;
        double worst = 0;
        for (std::size_t i = 0; i < n; ++i)
            worst =
                std::max(worst, std::abs(static_cast<double>(p[i]) - static_cast<double>(q[i])));
        CHECK(worst <= (shifted ? 0x1p-23 : 0.0));
        ++count;
    }
    return count;
}

}  // namespace

TEST_CASE("a trained model is the same as a GGUF file and as a Hugging Face directory") {
    for (const char* golden : {"llama-tied", "llama-untied", "llama3-rope", "gemma3"}) {
        CAPTURE(golden);
        Bench bench(golden);
        const std::string hf_model = bench.directory.file("hf-model");
        REQUIRE(run_process({tool_path("quantize"), "-m", bench.model, "-o", hf_model, "-q",
                             "--container", "hf", "--format", "f32"})
                    .exit == 0);
        const std::vector<std::vector<std::string>> ways = {
            {"--method", "full"},
            {"--method", "lora:rank=4,dora,b-rate=8", "--merge"},
            {"--method", "lora:rank=4,b-rate=8", "--merge", "--container", "hf"}};
        for (const std::string& from : {bench.model, hf_model}) {
            for (const std::vector<std::string>& way : ways) {
                CAPTURE(from);
                CAPTURE(way[1]);
                const std::string before = bench.model;
                bench.model = from;
                const std::string hf = bench.directory.file("out"),
                                  gguf = bench.directory.file("out.gguf");
                const ProcessResult a = bench.train(hf, way);
                CAPTURE(a.err);
                REQUIRE(a.exit == 0);
                std::vector<std::string> other = way;
                other.insert(other.end(), {"--container", "gguf"});
                REQUIRE(bench.train(gguf, other).exit == 0);
                CHECK(fs::exists(hf + "/config.json"));
                CHECK(fs::exists(hf + "/tokenizer.json"));
                CHECK(check_same_model(gguf, hf) > 10);
                const std::vector<double> p = logits_of(gguf), q = logits_of(hf),
                                          r = logits_of(from);
                double worst = 0, moved = 0;
                for (std::size_t i = 0; i < p.size(); ++i) {
                    worst = std::max(worst, std::abs(p[i] - q[i]));
                    moved = std::max(moved, std::abs(p[i] - r[i]));
                }
                // GGUF has numbers of the config in F32, and norms may lose what lies below 2^-23.
                CHECK(worst <= (golden == std::string("gemma3") ? 1e-5 : 1e-9));
                CHECK(moved > 1e-2);
                const auto text = [](const std::string& model) {
                    return run_process({tool_path("run"), "-m", model, "-p", "what is 3", "-n", "6",
                                        "--temp", "0", "-q"})
                        .out;
                };
                CHECK(text(hf) == text(gguf));
                fs::remove_all(hf);
                fs::remove(gguf);
                bench.model = before;
            }
        }
    }
}

TEST_CASE("a directory has its matrices and vectors in the type that was asked for") {
    const Bench bench("gemma3", "q8_0");
    const std::string hf = bench.directory.file("out");
    REQUIRE(bench.train(hf, {"--method", "lora", "--merge", "--outtype", "bf16"}).exit == 0);
    const auto file = ModelFile::open(hf);
    for (const TensorEntry& tensor : file->tensors()) CHECK(tensor.type == TensorType::kBF16);
    CHECK(file->config().find("torch_dtype")->as_string("") == "bfloat16");
    fs::remove_all(hf);
    REQUIRE(bench.train(hf, {"--method", "lora", "--merge"}).exit == 0);
    for (const TensorEntry& tensor : ModelFile::open(hf)->tensors())
        CHECK(tensor.type == TensorType::kF32);
}

TEST_CASE("a random model's directory has the tokenizer that it was given") {
    const Bench bench("llama-tied");
    const std::string config = bench.directory.write(
        "config.json",
        R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 128, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"})");
    const std::string hf = bench.directory.file("new"), report = bench.directory.file("r.json");
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
                                            hf,
                                            "-c",
                                            "64",
                                            "--method",
                                            "full",
                                            "--steps",
                                            "2",
                                            "-q"};
    const ProcessResult r = run_process(words);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(run_process({tool_path("run"), "-m", hf, "-p", "what is 3", "-n", "3", "-q"}).exit == 0);
}

TEST_CASE("what cannot be written is refused before training") {
    const Bench bench("llama-tied");
    const auto refused = [&](const std::string& output, const std::vector<std::string>& more,
                             int exit, const char* text) {
        const ProcessResult r = bench.train(output, more);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(text) != std::string::npos);
        CHECK(r.err.find("loss") == std::string::npos);
    };
    const std::string there = bench.directory.write("there.gguf", "something");
    refused(there, {}, 73, "--force");
    refused(there, {"--method", "full", "--dry-run"}, 73, "--force");
    refused(bench.directory.path(), {"--method", "full"}, 73, "--force");
    refused(bench.directory.file("a.gguf"), {"--method", "lora:dora"}, 2, "DoRA");
    refused(bench.directory.file("a"), {"--method", "lora:dora", "--container", "gguf"}, 2, "DoRA");
    CHECK(bench.train(there, {"--force"}).exit == 0);
    const std::string empty = bench.directory.file("empty");
    fs::create_directory(empty);
    CHECK(bench.train(empty, {}).exit == 0);
}
