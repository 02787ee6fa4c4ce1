// SPDX-License-Identifier: Apache-2.0
// Thresholds on activations as a user meets them: made by prune, kept by the other tools, named by
// those that run the model or will not.
#include <doctest/doctest.h>

#include <cmath>

#include "model/source.h"
#include "model/thresholds.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), out = directory.file("out.gguf"), text;
    Setting() {
        std::string words;
        for (int i = 0; i < 400; ++i)
            words += "word" + std::string(1, static_cast<char>('a' + i * 7 % 26)) +
                     (i % 5 == 0 ? "\n" : " ");
        text = directory.write("text.txt", words);
        write_tiny_model(model, "llama-tied", "bf16");
    }
    [[nodiscard]] ProcessResult run(const std::string& tool,
                                    std::vector<std::string> arguments) const {
        arguments.insert(arguments.begin(), tool_path(tool));
        return run_process(arguments);
    }
    [[nodiscard]] ProcessResult prune(const std::string& of, const std::string& method,
                                      const std::string& to,
                                      std::vector<std::string> more = {}) const {
        std::vector<std::string> arguments = {
            "-m",     of,   "-o",          to,         "--method", method,           "-f",
            text,     "-c", "32",          "--chunks", "12",       "--check-chunks", "4",
            "--json", "-",  "--overwrite", "-q"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return run("prune", arguments);
    }
    [[nodiscard]] Json must(const std::string& of, const std::string& method,
                            const std::string& to) const {
        const ProcessResult r = prune(of, method, to);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return parse_json(r.out, "stdout");
    }
    // Of windows scored against the model as it was.
    [[nodiscard]] Json evaluated(const std::string& of, std::vector<std::string> more = {}) const {
        std::vector<std::string> arguments = {"-m", of,   "--reference", model, "-f", text,
                                              "-c", "32", "--json",      "-",   "-q"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ProcessResult r = run("evaluate", arguments);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return parse_json(r.out, "stdout");
    }
};

double kld(const Json& report) { return report.find("quality")->find("kld_mean")->as_double("r"); }

Thresholds thresholds_of(const std::string& path) {
    Thresholds out;
    const auto source = ModelSource::open(path);
    for (const SourceTensor& tensor : source->thresholds()) out.push_back(tensor.values);
    return out;
}

}  // namespace

TEST_CASE("thresholds: prune makes them, run and evaluate drop by them, or not") {
    const Setting s;
    const Json none = s.must(s.model, "chess:sparsity=0", s.out);
    CHECK(kld(none) == 0);
    const Json half = s.must(s.model, "chess:sparsity=0.5", s.out);
    CHECK(kld(half) > 0);
    double sum = 0;
    const auto& dropped = half.find("dropped_activations")->as_array("r");
    for (const Json& share : dropped) sum += share.as_double("r");
    CHECK(sum / static_cast<double>(dropped.size()) == doctest::Approx(0.5).epsilon(0.1));
    // The gate holds nothing back but the file.
    const ProcessResult refused =
        s.prune(s.model, "cats:sparsity=0.9", s.directory.file("no.gguf"), {"--max-kld", "1e-9"});
    CHECK(refused.exit == 3);
    CHECK(!std::filesystem::exists(s.directory.file("no.gguf")));

    const std::string with = s.evaluated(s.out).dump(),
                      off = s.evaluated(s.out, {"--act-sparsity", "off"}).dump();
    CHECK(with.find("chess:sparsity=0.5 drops small activations: single tokens skip weights") !=
          std::string::npos);
    CHECK(off.find("drops small") == std::string::npos);
    const std::vector<std::string> prompt = {"-p", "some words", "-n", "12", "--temp", "0"};
    const auto written = [&](const std::string& of, std::vector<std::string> more) {
        more.insert(more.end(), prompt.begin(), prompt.end());
        more.insert(more.end(), {"-m", of});
        const ProcessResult r = s.run("run", more);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return r;
    };
    CHECK(written(s.out, {"--act-sparsity", "off"}).out == written(s.model, {}).out);
    CHECK(written(s.out, {}).err.find("single tokens skip weights") != std::string::npos);
    CHECK(written(s.out, {"--no-repack"}).err.find("all weights are read") != std::string::npos);
}

TEST_CASE("thresholds: other tools keep them, cut them, replace them or refuse") {
    const Setting s;
    (void)s.must(s.model, "chess:sparsity=0.6", s.out);
    const Thresholds all = thresholds_of(s.out);
    REQUIRE(all.size() == 2);
    const std::string next = s.directory.file("next.gguf");
    const auto done = [&](const std::string& tool, std::vector<std::string> arguments) {
        arguments.emplace_back("-q");
        const ProcessResult r = s.run(tool, arguments);
        CAPTURE(r.err);
        CHECK(r.exit == 0);
    };
    done("quantize", {"-m", s.out, "-o", next, "--format", "q8_0"});
    CHECK(thresholds_of(next) == all);
    CHECK(s.evaluated(next).dump().find(
              "weights in q8_0 are read whole: f32, f16 and bf16 are not") != std::string::npos);
    const std::string small = s.directory.file("small.gguf");
    done("compress", {"-m", s.out, "-o", small});
    CHECK(thresholds_of(small) == all);

    (void)s.must(s.out, "layers:drop=0", next);
    CHECK(thresholds_of(next) == Thresholds{all[1]});
    (void)s.must(s.out, "channels:ratio=0.34", next);
    const Thresholds fewer = thresholds_of(next);
    for (std::size_t l = 0; l < 2; ++l) {  // in their order
        REQUIRE(fewer[l].size() == 64);
        std::size_t at = 0;
        for (const float t : all[l]) at += at < 64 && fewer[l][at] == t ? 1 : 0;
        CHECK(at == 64);
    }
    // Others take their place, as if there had been none.
    (void)s.must(s.out, "cats:sparsity=0.4", next);
    const Thresholds again = thresholds_of(next);
    (void)s.must(s.model, "cats:sparsity=0.4", next);
    CHECK(again == thresholds_of(next));

    const ProcessResult reordered =
        s.run("quantize", {"-m", s.out, "-o", next, "--format", "bfp", "--rearrange", "ffn", "-q"});
    CHECK(reordered.exit == 2);
    CHECK(reordered.err.find("threshold") != std::string::npos);
    const ProcessResult exported =
        s.run("quantize", {"-m", s.out, "-o", s.directory.file("hf"), "--container", "hf", "-q"});
    CHECK(exported.exit == 2);
    CHECK(exported.err.find("thresholds") != std::string::npos);
    const ProcessResult trained = s.run(
        "offload-train", {"-m", s.out, "--data", s.text, "-o", s.directory.file("t.gguf"), "-q"});
    CHECK(trained.exit == 2);
    CHECK(trained.err.find("thresholds") != std::string::npos);
}
