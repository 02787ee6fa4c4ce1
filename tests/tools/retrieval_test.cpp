// SPDX-License-Identifier: Apache-2.0
// evaluate find-retrieval-heads on a model whose weights say which head finds things.
#include <doctest/doctest.h>

#include <cstring>

#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr int kLayer = 1, kHead = 2, kHidden = 48, kHeadDim = 8;

// The floats of a tensor of [rows, kHidden], or of [kHidden]; written back when this ends.
class Weights {
  public:
    Weights(ModelCopy& model, const std::string& tensor)
        : bytes_(model.data[model.index(tensor)]), values_(bytes_.size() / sizeof(float)) {
        std::memcpy(values_.data(), bytes_.data(), bytes_.size());
    }
    ~Weights() { std::memcpy(bytes_.data(), values_.data(), bytes_.size()); }
    Weights(const Weights&) = delete;
    Weights& operator=(const Weights&) = delete;
    void fill(float value) { values_.assign(values_.size(), value); }
    float& at(int row, int column) {
        return values_.at(static_cast<std::size_t>(row * kHidden + column));
    }

  private:
    std::vector<std::byte>& bytes_;
    std::vector<float> values_;
};

int token_of(char c) { return c == ' ' ? 5 : 7 + ('~' - c); }

// After "is" it writes " 0123456789 0123...", which holds most of any number's digits, whatever
// stood before: neither attention nor the feed-forward part adds anything. One head looks at
// digits, which nothing but the needle has; all others look everywhere.
void write_counting_model(const std::string& path) {
    const std::string cycle = "0123456789 s";  // by direction of their embedding
    ModelCopy model = tiny_model("llama-untied");
    model.metadata.set("llama.context_length", std::uint32_t{512});
    {
        Weights embedding(model, "token_embd.weight"), output(model, "output.weight");
        output.fill(0);
        const auto size = static_cast<int>(cycle.size());
        for (int token = 0; token < 101; ++token) {
            for (int i = 0; i < size; ++i) embedding.at(token, i) = 0;
        }
        for (int i = 0; i < size; ++i) {
            for (int c = 0; c < kHidden; ++c)
                embedding.at(token_of(cycle[static_cast<std::size_t>(i)]), c) = c == i ? 1.0f : 0;
        }
        for (int digit = 1; digit <= 9; ++digit)
            output.at(token_of(static_cast<char>('0' + digit)), digit - 1) = 1;
        output.at(token_of('0'), 10) = 1;
        output.at(token_of(' '), 9) = output.at(token_of(' '), 11) = 1;
    }
    Weights(model, "output_norm.weight").fill(1);
    for (const int layer : {0, 1}) {
        const std::string block = "blk." + std::to_string(layer) + ".";
        for (const char* name : {"attn_output.weight", "ffn_down.weight", "attn_q.weight"})
            Weights(model, block + name).fill(0);
        Weights(model, block + "attn_norm.weight").fill(1);
    }
    for (const TensorSpec& spec : model.specs) {
        if (spec.name.ends_with(".bias")) Weights(model, spec.name).fill(0);
    }
    // In the channel that turns most slowly, however channels are paired.
    {
        Weights query(model, "blk.1.attn_q.weight"), key(model, "blk.1.attn_k.weight");
        for (int c = 0; c < 12; ++c) {
            query.at(kHead * kHeadDim + 7, c) = 1;
            key.at(7, c) = c < 10 ? 1.0f : 0;
        }
    }
    model.write_gguf(path);
}

std::int64_t first_head(const Json& sidecar, std::size_t layer) {
    return sidecar.find("heads")->as_array("heads")[layer].as_array("layer")[0].as_int("head");
}

}  // namespace

TEST_CASE("retrieval heads: the one that looks at the needle is found, and its sidecar used") {
    const TemporaryDirectory directory;
    const std::string model = directory.file("model.gguf"), sidecar = directory.file("heads.json"),
                      report = directory.file("report.json"),
                      text = directory.write("text.txt", std::string(600, 'x'));
    write_counting_model(model);
    const ProcessResult r = run_process({tool_path("evaluate"), "find-retrieval-heads", "-m", model,
                                         "-f", text, "-o", sidecar, "--needle-tokens", "400",
                                         "--needle-lengths", "2", "--json", report, "-q"});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    const Json found = read_json_file(sidecar), told = read_json_file(report);
    CHECK(found.find("query_heads")->as_int("n") == 6);
    CHECK(first_head(found, kLayer) == kHead);
    CHECK(first_head(found, 0) == 0);  // all alike there
    CHECK(told.find("runs")->as_array("runs").size() == 10);
    CHECK(told.find("counted")->as_int("n") >= 5);
    double sum = 0;
    for (const Json& score : found.find("layer_score")->as_array("score")) {
        CHECK(score.as_double("score") > 0);
        sum += score.as_double("score");
    }
    CHECK(sum == doctest::Approx(1));

    const auto run = [&](const std::string& heads) {
        return run_process({tool_path("run"), "-m", model, "-p", std::string(200, 'x') + " is",
                            "-n", "4", "--temp", "0", "-q", "--kv-policy",
                            "compresskv:budget=64,sidecar=" + heads});
    };
    const ProcessResult own = run(sidecar);
    CHECK(own.exit == 0);
    CHECK(own.err.empty());
    std::string json = read_file(sidecar);
    json.replace(json.find("\"model\":\"") + 9, 4, "beef");
    const ProcessResult other = run(directory.write("other.json", json));
    CHECK(other.exit == 0);
    CHECK(other.err.find("was measured on another model") != std::string::npos);
}
