// SPDX-License-Identifier: Apache-2.0
// MatMul-free models as a user meets them: converted, run, saved, and refused where they cannot go.
#include <doctest/doctest.h>

#include <algorithm>

#include "model/source.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf");

    Setting() { write_tiny_model(model, "hgrn-bit"); }
    static ProcessResult tool(const std::string& name, std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), tool_path(name));
        arguments.emplace_back("-q");
        return run_process(arguments);
    }
    static std::string out_of(const std::string& name, const std::vector<std::string>& arguments) {
        const ProcessResult r = tool(name, arguments);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return r.out;
    }
    // Ends with this status and one line.
    static void refuses(int exit, const std::string& what, const std::string& name,
                        const std::vector<std::string>& arguments) {
        const ProcessResult r = tool(name, arguments);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK(r.err.find(what) != std::string::npos);
        CHECK(r.out.empty());
    }
    [[nodiscard]] std::vector<std::string> run(const std::string& prompt,
                                               std::vector<std::string> more) const {
        more.insert(more.begin(), {"-m", model, "-p", prompt, "--temp", "0", "--ignore-eos"});
        return more;
    }
};

std::vector<float> rows_of(const ModelSource& source, const SourceTensor& t) {
    std::vector<float> rows(static_cast<std::size_t>(t.rows() * t.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(t, 0, t.rows(), rows.data(), scratch);
    return rows;
}

// Every tensor, as the architecture reads it.
void check_same_weights(const std::string& a, const std::string& b) {
    const auto want = ModelSource::open(a), got = ModelSource::open(b);
    REQUIRE(want->tensors().size() == got->tensors().size());
    for (const SourceTensor& tensor : want->tensors()) {
        CAPTURE(tensor.name);
        CHECK(rows_of(*want, tensor) == rows_of(*got, *got->find(tensor.name)));
    }
    CHECK(want->spec().lower_bounds == got->spec().lower_bounds);
    CHECK(want->spec().ffn == got->spec().ffn);
}

}  // namespace

TEST_CASE("hgrn: to a Hugging Face directory and back, no weight is ternarised to another scale") {
    const Setting s;
    const std::string hf = s.directory.file("hf"), copy = s.directory.file("copy"),
                      back = s.directory.file("back.gguf");
    Setting::out_of("quantize", {s.model, "-o", hf, "--container", "hf", "--format", "f32"});
    check_same_weights(s.model, hf);
    check_same_weights(golden_directory("hgrn-bit"), hf);
    Setting::out_of("quantize", {hf, "-o", back, "--format", "f32"});
    check_same_weights(golden_directory("hgrn-bit"), back);
    // A directory's copy keeps the floats that training left.
    Setting::out_of("quantize", {golden_directory("hgrn-bit"), "-o", copy, "--container", "hf"});
    const auto a = ModelFile::open(golden_directory("hgrn-bit")), b = ModelFile::open(copy);
    for (const TensorEntry& tensor : a->tensors()) {
        std::vector<std::byte> want(tensor.bytes), got(b->get(tensor.name).bytes);
        a->read(tensor, 0, want);
        b->read(b->get(tensor.name), 0, got);
        CHECK(want == got);
    }
    Setting::refuses(
        2, "--format f32", "quantize",
        {s.model, "-o", s.directory.file("half"), "--container", "hf", "--format", "bf16"});
    const std::string coarse = s.directory.file("coarse.gguf");
    Setting::out_of("quantize", {s.model, "-o", coarse, "--format", "q4_1"});
    Setting::refuses(
        65, "no longer ternary", "quantize",
        {coarse, "-o", s.directory.file("again"), "--container", "hf", "--format", "f32"});
}

TEST_CASE("hgrn: an answer goes on from a saved state as from the text itself") {
    const Setting s;
    const std::string state = s.directory.file("state.safetensors");
    const std::string whole =
        Setting::out_of("run", s.run("every good boy deserves fruit", {"-n", "12"}));
    Setting::out_of("run", s.run("every good boy", {"-n", "0", "--kv-save", state}));
    const std::string rest = Setting::out_of(
        "run", s.run("every good boy deserves fruit", {"-n", "12", "--kv-load", state}));
    CHECK(rest == whole);
}

TEST_CASE("hgrn: what a model without keys cannot have is refused in one line") {
    const Setting s;
    const std::string text = s.directory.write("text.txt", std::string(400, 'x'));
    Setting::refuses(2, "--kv-policy", "run", s.run("abc", {"--kv-policy", "snapkv:budget=64"}));
    Setting::refuses(2, "--cache-type-k", "run", s.run("abc", {"-ctk", "q8_0"}));
    Setting::refuses(2, "--workers", "run", s.run("abc", {"-n", "4", "--workers", "2"}));
    Setting::refuses(
        2, "attention heads", "evaluate",
        {"find-retrieval-heads", "-m", s.model, "-f", text, "-o", s.directory.file("heads.json")});
    Setting::refuses(2, "no backward pass", "offload-train",
                     {"-m", s.model, "--data",
                      s.directory.write("data.jsonl", R"({"prompt": "a", "completion": "b"})"
                                                      "\n"),
                      "-o", s.directory.file("adapter"), "-c", "32"});
}

TEST_CASE("hgrn: the same weights in half the bytes have the same distribution, to the last bit") {
    const Setting s;
    const std::string text = s.directory.write("text.txt", std::string(300, 'x') + "abcdefg"),
                      half = s.directory.file("half.gguf");
    Setting::out_of("quantize",
                    {s.model, "-o", half, "--format", "f16", "--token-embedding-type", "f32"});
    Setting::out_of("evaluate", {"-m", half, "--reference", s.model, "-f", text, "-c", "64",
                                 "--device", "ref", "--assert", "kld_mean<1e-12"});
}
