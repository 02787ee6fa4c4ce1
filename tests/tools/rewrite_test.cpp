// SPDX-License-Identifier: Apache-2.0
// quantize --rearrange and --smooth as a user meets them, and --format f64 from end to end.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "calib/importance.h"
#include "io/json.h"
#include "model/runner.h"
#include "tests/support/golden_adapter.h"
#include "tests/support/models.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult tool(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path(name));
    return run_process(arguments);
}

std::string must(const std::string& name, const std::vector<std::string>& arguments) {
    const ProcessResult r = tool(name, arguments);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return r.out;
}

std::int64_t at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return node->as_int("report");
}

// A tiny model and an importance matrix collected with it.
struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), text, imatrix;

    explicit Setting(const std::string& name = "llama-untied", const std::string& format = "f32") {
        write_tiny_model(model, name, format);
        std::string words;
        for (int i = 0; i < 60; ++i) words += "word number " + std::to_string(i * i) + " of it\n";
        text = directory.write("text.txt", words);
        imatrix = collect(model, "m.gguf");
    }
    [[nodiscard]] std::string file(const std::string& name) const { return directory.file(name); }
    [[nodiscard]] std::string collect(const std::string& of, const std::string& name) const {
        must("quantize", {"-m", of, "--collect-imatrix", text, "-o", file(name), "-c", "64", "-q"});
        return file(name);
    }
    [[nodiscard]] std::vector<std::string> rewriting(const std::string& format,
                                                     const std::string& output) const {
        return {"-m",          model, "-o",       file(output), "--format",  format,
                "--rearrange", "all", "--smooth", "0.5",        "--imatrix", imatrix};
    }
    void refused(const std::vector<std::string>& more, const std::string& why,
                 const std::string& of = "") const {
        std::vector<std::string> arguments = {"-m", of.empty() ? model : of, "-o",
                                              file("none.gguf")};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ProcessResult r = tool("quantize", arguments);
        CAPTURE(r.err);
        CHECK(r.exit == 2);
        CHECK(r.err.find(why) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(std::filesystem::exists(file("none.gguf")));
    }
};

std::vector<double> reference_logits(const std::string& model,
                                     const std::vector<std::int32_t>& tokens) {
    Team team(2);
    RunnerOptions options;
    options.device = Device::kRef;
    Runner runner(ModelSource::open(model), options, team);
    return all_logits(runner, tokens);
}

double difference(const std::vector<double>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    double worst = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double error = std::abs(a[i] - b[i]);
        worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
        size = std::max(size, std::abs(a[i]));
    }
    return worst / size;
}

}  // namespace

TEST_CASE("rewrite: what cannot be done is refused with one line") {
    const Setting s;
    s.refused({"--rearrange", "ffn,keys"}, "'keys' is nothing that can be rearranged");
    s.refused({"--rearrange", "valeus"}, "values");
    s.refused({"--smooth", "0.5"}, "--collect-imatrix");
    s.refused({"--smooth", "1.5", "--imatrix", s.imatrix}, "--smooth");
    s.refused({"--smooth", "-0.5", "--imatrix", s.imatrix}, "0 to 1");
    s.refused({"--smooth", "-2", "--imatrix", s.imatrix}, "--smooth");
    s.refused({"--smooth", "0.5", "--imatrix", s.imatrix, "--exclude-weights", "ffn_gate",
               "--exclude-weights", "ffn_up"},
              "blk.0.ffn_gate.weight");
    const Setting packed("llama-tied", "q8_0");
    for (const char* format : {"copy", "q4_0", "q8_0"})
        packed.refused({"--rearrange", "ffn", "--format", format}, "--allow-requantize");
    packed.refused({"--smooth", "0.5", "--imatrix", packed.imatrix, "--format", "copy"},
                   "--allow-requantize");
}

TEST_CASE("rewrite: rows alone move without being encoded again") {
    // Of quantised weights: gate, up and v are the same rows in another order.
    const Setting s("llama-tied", "q8_0");
    must("quantize", {"-m", s.model, "-o", s.file("out.gguf"), "--format", "copy", "--rearrange",
                      "ffn", "--tensor-type", "ffn_down=f32"});
    const auto before = ModelFile::open(s.model), after = ModelFile::open(s.file("out.gguf"));
    for (const char* name : {"blk.0.ffn_gate.weight", "blk.1.ffn_up.weight"}) {
        const TensorEntry &a = before->get(name), &b = after->get(name);
        REQUIRE(a.bytes == b.bytes);
        REQUIRE(a.type == b.type);
        const std::size_t rows = a.dims[0], row = a.bytes / rows;
        std::vector<std::string> x(rows, std::string(row, '\0')), y = x;
        for (std::size_t r = 0; r < rows; ++r) {
            before->read(a, r * row, std::as_writable_bytes(std::span(x[r])));
            after->read(b, r * row, std::as_writable_bytes(std::span(y[r])));
        }
        CHECK(x != y);
        std::sort(x.begin(), x.end()), std::sort(y.begin(), y.end());
        CHECK(x == y);
    }
    const std::vector<std::int32_t> tokens = {5, 9, 44, 3, 17};
    CHECK(difference(reference_logits(s.model, tokens),
                     reference_logits(s.file("out.gguf"), tokens)) < 1e-7);  // down in f32
}

TEST_CASE("rewrite: the plan says what is rewritten, its memory is the ledger's, all is recorded") {
    for (const std::string format : {"q4_0", "f64", "nf4"}) {
        CAPTURE(format);
        const Setting s("llama-tied");
        std::vector<std::string> command = s.rewriting(format, "out.gguf");
        command.insert(command.end(), {"--report-error", "--json", s.file("r.json")});
        std::vector<std::string> dry = command;
        dry.emplace_back("--dry-run");
        const ProcessResult planned = tool("quantize", dry);
        CHECK(planned.exit == 0);
        for (const char* note : {"the middle axis of ffn in 2 layers",
                                 "the channels of value heads in 2 layers", "smooth: 4 norms"}) {
            CAPTURE(planned.out);
            CHECK((planned.out + planned.err).find(note) != std::string::npos);
        }
        CHECK_FALSE(std::filesystem::exists(s.file("out.gguf")));
        must("quantize", command);
        const Json report = parse_json(read_file(s.file("r.json")), "report");
        const std::int64_t predicted = at(report, {"plan", "tiers", "ram", "peak_bytes"});
        CHECK(at(report, {"measured", "ram", "peak_bytes"}) == predicted);
        const auto size = static_cast<std::int64_t>(std::filesystem::file_size(s.file("out.gguf")));
        CHECK(at(report, {"plan", "output_bytes"}) == size);
        if (format == "f64") {
            for (const Json& tensor : report.find("tensors")->as_array("tensors"))
                CHECK(tensor.find("relative_rmse")->as_double("error") == 0);
        }
        const auto file = ModelFile::open(s.file("out.gguf"));
        const MetaArray* steps = file->metadata().find_array("thimble.steps");
        REQUIRE(steps != nullptr);
        const std::string step = std::get<std::vector<std::string>>(steps->elements).back();
        CHECK(step.find("\"rearrange\":\"all\"") != std::string::npos);
        CHECK(step.find("\"smooth\":") != std::string::npos);
    }
}

TEST_CASE("rewrite: channels without importance go by their weights, and the plan says so") {
    const Setting s;
    const auto quantize = [&](const std::string& output, const std::vector<std::string>& more) {
        std::vector<std::string> command = {"-m",       s.model, "-o",          s.file(output),
                                            "--format", "f32",   "--rearrange", "ffn"};
        command.insert(command.end(), more.begin(), more.end());
        must("quantize", command);
        const auto source = ModelSource::open(s.file(output));
        const SourceTensor& tensor = *source->find("blk.1.ffn_down.weight");
        std::vector<double> out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
        std::vector<std::byte> scratch;
        source->read_rows(tensor, 0, tensor.rows(), out.data(), scratch);
        return out;
    };
    const std::vector<std::string> without = {"--imatrix", s.imatrix, "--exclude-weights",
                                              "ffn_down"};
    const auto by_weights = quantize("a.gguf", {});
    CHECK(quantize("b.gguf", without) == by_weights);
    CHECK(quantize("c.gguf", {"--imatrix", s.imatrix}) != by_weights);
    std::vector<std::string> dry = {"-m",        s.model,    "-o",  s.file("d.gguf"),
                                    "--dry-run", "--format", "f32", "--rearrange",
                                    "ffn"};
    const auto says = [&](const std::vector<std::string>& more) {
        std::vector<std::string> command = dry;
        command.insert(command.end(), more.begin(), more.end());
        const ProcessResult r = tool("quantize", command);
        CHECK(r.exit == 0);
        return (r.out + r.err).find("2 by weights alone") != std::string::npos;
    };
    CHECK(says(without));
    CHECK_FALSE(says({"--imatrix", s.imatrix}));
    CHECK_FALSE(says({}));
}

TEST_CASE("rewrite: a budget of exactly the plan runs, row by row, to the same bytes") {
    const Setting s("gemma3");
    must("quantize", s.rewriting("q4_0", "free.gguf"));
    std::vector<std::string> command = s.rewriting("q4_0", "out.gguf");
    command.insert(command.end(), {"--threads", "2", "--json", s.file("r.json"), "--max-memory"});
    std::vector<std::string> one = command;
    one.insert(one.end(), {"ram=1", "--dry-run"});
    CHECK(tool("quantize", one).exit == 77);
    const std::int64_t least =
        at(parse_json(read_file(s.file("r.json")), "plan"), {"plan", "tiers", "ram", "peak_bytes"});
    std::vector<std::string> less = command;
    less.push_back("ram=" + std::to_string(least - 4096));
    CHECK(tool("quantize", less).exit == 77);
    command.push_back("ram=" + std::to_string(least));
    must("quantize", command);
    const Json report = parse_json(read_file(s.file("r.json")), "report");
    CHECK(at(report, {"measured", "ram", "peak_bytes"}) <= least);
    CHECK(read_file(s.file("out.gguf")) == read_file(s.file("free.gguf")));
}

TEST_CASE("rewrite: after smoothing with 1 every activation has size one") {
    for (const char* name : {"llama-untied", "gemma3"}) {
        CAPTURE(name);
        const Setting s(name);
        must("quantize", {"-m", s.model, "-o", s.file("out.gguf"), "--format", "f32", "--smooth",
                          "1", "--imatrix", s.imatrix});
        const ImportanceMatrix was = read_importance(s.imatrix);
        const ImportanceMatrix now = read_importance(s.collect(s.file("out.gguf"), "now.gguf"));
        for (const auto& [tensor, entry] : now.entries) {
            CAPTURE(tensor);
            const bool fed = tensor.find("attn_output") == std::string::npos &&
                             tensor.find("ffn_down") == std::string::npos &&
                             tensor.find("blk") == 0;
            const auto& before = was.entries.at(tensor);
            for (std::size_t c = 0; c < entry.sums.size(); ++c) {
                const double mean =
                    static_cast<double>(entry.sums[c]) / static_cast<double>(entry.counts[0]);
                const double wanted =
                    static_cast<double>(before.sums[c]) / static_cast<double>(before.counts[0]);
                CHECK(mean == doctest::Approx(fed ? 1 : wanted).epsilon(1e-3));
            }
        }
    }
}

TEST_CASE("rewrite: adapters are merged first, whatever moves their rows and columns") {
    for (const GoldenAdapter& golden : golden_adapters()) {
        CAPTURE(golden.name);
        const Setting s(golden.model->name);
        std::vector<std::string> command = s.rewriting("f64", "out.gguf");
        command.insert(command.end(), {"--lora", golden.directory});
        must("quantize", command);
        must("quantize", {"-m", s.model, "-o", s.file("plain.gguf"), "--format", "f64", "--lora",
                          golden.directory});
        const auto& tokens = golden.model->prompts[1].tokens;
        const auto merged = reference_logits(s.file("plain.gguf"), tokens);
        CHECK(difference(merged, reference_logits(s.file("out.gguf"), tokens)) < 1e-12);
        CHECK(difference(merged, reference_logits(s.model, tokens)) > 1e-6);
        // Rows that only move are merged as floats.
        must("quantize", {"-m", s.model, "-o", s.file("f32.gguf"), "--format", "f32", "--lora",
                          golden.directory, "--rearrange", "all"});
        CHECK(difference(merged, reference_logits(s.file("f32.gguf"), tokens)) < 1e-5);
        // In two steps the same: what decides are the merged weights.
        std::vector<std::string> second = s.rewriting("f64", "two.gguf");
        second[1] = s.file("plain.gguf");
        must("quantize", second);
        const auto one = ModelFile::open(s.file("out.gguf")),
                   two = ModelFile::open(s.file("two.gguf"));
        for (const TensorEntry& tensor : one->tensors()) {
            CAPTURE(tensor.name);
            std::string a(tensor.bytes, '\0'), b = a;
            one->read(tensor, 0, std::as_writable_bytes(std::span(a)));
            two->read(two->get(tensor.name), 0, std::as_writable_bytes(std::span(b)));
            CHECK(a == b);
        }
    }
}

TEST_CASE("f64: tools take it, floats survive it and doubles come back to the last bit") {
    for (const char* name : {"llama-untied", "gemma3"}) {
        CAPTURE(name);
        const Setting s(name);
        must("quantize", {"-m", s.model, "-o", s.file("wide.gguf"), "--format", "f64"});
        const auto wide = ModelSource::open(s.file("wide.gguf"));
        for (const SourceTensor& tensor : wide->tensors())
            CHECK(layout_info(tensor.layout()).name == std::string("f64"));
        must("quantize", {"verify", s.file("wide.gguf")});
        must("quantize", {"inspect", s.file("wide.gguf"), "--reference", s.model});
        must("quantize", {"-m", s.file("wide.gguf"), "-o", s.file("back.gguf"), "--format", "f32"});
        const std::vector<std::int32_t> tokens = {5, 9, 44, 3, 17};
        CHECK(difference(reference_logits(s.model, tokens),
                         reference_logits(s.file("back.gguf"), tokens)) == 0);
        const std::vector<std::string> asked = {"-p", "some words", "-n", "8", "-q"};
        for (const char* device : {"cpu", "ref"}) {
            std::vector<std::string> a = asked, b = asked;
            a.insert(a.end(), {"-m", s.model, "--device", device, "--activations", "f32"});
            b.insert(b.end(),
                     {"-m", s.file("wide.gguf"), "--device", device, "--activations", "f32"});
            CHECK(must("run", a) == must("run", b));
        }
        must("evaluate", {"-m", s.file("wide.gguf"), "-f", s.text, "-c", "32", "--chunks", "1",
                          "-o", s.file("e.json"), "--reference", s.model});
        // Doubles: to a directory and back, and copied.
        must("quantize", s.rewriting("f64", "fold.gguf"));
        must("quantize",
             {"-m", s.file("fold.gguf"), "-o", s.file("copy.gguf"), "--format", "copy"});
        must("quantize", {"-m", s.file("fold.gguf"), "-o", s.file("hf"), "--container", "hf",
                          "--format", "f64"});
        must("quantize", {"-m", s.file("hf"), "-o", s.file("again.gguf"), "--format", "f64"});
        const auto exact = reference_logits(s.file("fold.gguf"), tokens);
        CHECK(difference(exact, reference_logits(s.file("copy.gguf"), tokens)) == 0);
        // Norms less one have their last digits at one's.
        CHECK(difference(exact, reference_logits(s.file("hf"), tokens)) < 1e-13);
        CHECK(difference(exact, reference_logits(s.file("again.gguf"), tokens)) < 1e-13);
        CHECK(difference(exact, reference_logits(s.model, tokens)) < 1e-12);
        CHECK(read_file(s.file("hf") + "/config.json").find("float64") != std::string::npos);
    }
}

TEST_CASE("rewrite: a real model's logits stay the same to 1e-12") {
    const auto model = real_model(kSmolLm2);
    if (!model) return;
    const TemporaryDirectory directory;
    const std::string out = directory.file("out.gguf");
    const std::string text = directory.write(
        "text.txt",
        "Once upon a time there was a model whose channels were all of one size, and "
        "nobody could tell how that had come about.\n");
    const std::string imatrix = directory.file("m.gguf");
    must("quantize", {"-m", *model, "--collect-imatrix", text, "-o", imatrix, "-c", "16", "-q"});
    must("quantize", {"-m", *model, "-o", out, "--format", "f64", "--token-embedding-type", "q8_0",
                      "--rearrange", "all", "--smooth", "0.5", "--imatrix", imatrix, "-q"});
    const std::vector<std::int32_t> tokens = {504, 2365, 282};
    CHECK(difference(reference_logits(*model, tokens), reference_logits(out, tokens)) < 1e-12);
}
