// SPDX-License-Identifier: Apache-2.0
// Adapters as a user meets them: run and evaluate apply them, quantize merges them, and all three
// refuse what was made for another model.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "io/json.h"
#include "tests/support/golden_adapter.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult tool(const std::string& name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path(name));
    arguments.emplace_back("-q");
    return run_process(arguments);
}

std::string must(const std::string& name, const std::vector<std::string>& arguments) {
    const ProcessResult r = tool(name, arguments);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return r.out;
}

void check_refused(const std::string& name, const std::vector<std::string>& arguments, int exit,
                   const std::string& why) {
    const ProcessResult r = tool(name, arguments);
    CHECK(r.exit == exit);
    CHECK_MESSAGE(r.err.find(why) != std::string::npos, r.err);
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
}

struct Setting {
    TemporaryDirectory directory;
    const GoldenAdapter& golden;
    std::string model = directory.file("model.gguf");
    const std::string& adapter = golden.directory;

    explicit Setting(const std::string& name, const std::string& format = "f32")
        : golden(golden_adapter(name)) {
        write_tiny_model(model, golden.model->name, format);
    }
};

// Largest difference from PEFT's logits over what rounding allows.
double distance(const std::string& model, const GoldenAdapter& golden) {
    Team team(1);
    RunnerOptions options;
    options.device = Device::kRef;
    Runner runner(ModelSource::open(model), options, team);
    const auto logits = all_logits(runner, golden.model->prompts[1].tokens);
    REQUIRE(logits.size() == golden.logits.size());
    const auto vocab = static_cast<std::size_t>(runner.spec().vocab);
    double ratio = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const std::span row = std::span(logits).subspan(i / vocab * vocab, vocab);
        const double error = std::abs(logits[i] - static_cast<double>(golden.logits[i]));
        ratio = std::max(ratio, error / rounding_tolerance(runner.spec(), row, 0x1p-24));
    }
    return ratio;
}

std::string tensor_bytes(const ModelFile& file, const std::string& tensor) {
    const TensorEntry& entry = file.get(tensor);
    std::string out(entry.bytes, '\0');
    file.read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

}  // namespace

TEST_CASE("lora: merged models have PEFT's logits, from and to both containers") {
    for (const GoldenAdapter& golden : golden_adapters()) {
        CAPTURE(golden.name);
        const Setting s(golden.name);
        const std::string hf = s.directory.file("hf");
        must("quantize", {"-m", s.model, "-o", hf, "--container", "hf", "--format", "f32"});
        for (const std::string& from : {s.model, hf}) {
            for (const char* container : {"gguf", "hf"}) {
                CAPTURE(from);
                CAPTURE(container);
                const std::string to = s.directory.file("merged");
                must("quantize", {"-m", from, "--lora", s.adapter, "-o", to, "--container",
                                  container, "--format", "f32", "--overwrite"});
                CHECK(distance(to, golden) < 1);
                std::filesystem::remove_all(to);
            }
        }
        CHECK(distance(s.model, golden) > 10);
    }
}

TEST_CASE("lora: run says the same with an adapter, with it merged, and with layers from disk") {
    const Setting s("lora");
    const std::string merged = s.directory.file("merged.gguf");
    must("quantize", {"-m", s.model, "--lora", s.adapter, "-o", merged, "--format", "f32"});
    const std::vector<std::string> what = {"-p", "a b c d e", "-n", "24", "--temp", "0"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.end(), what.begin(), what.end());
        return must("run", more);
    };
    const std::string text = with({"-m", s.model, "--lora", s.adapter});
    CHECK(text == with({"-m", merged}));
    CHECK(text != with({"-m", s.model}));
    CHECK(with({"-m", s.model, "--lora", s.adapter, "--lora-scale", "0"}) == with({"-m", s.model}));
    CHECK(with({"-m", s.model, "--lora", s.adapter, "--lora", s.adapter, "--lora-scale", "2",
                "--lora-scale", "-1"}) == text);
}

TEST_CASE("lora: a merge keeps every other tensor as it is, tells what moved and where from") {
    const Setting s("lora-layer", "f16");
    const std::string merged = s.directory.file("merged.gguf"), report = s.directory.file("r.json");
    const std::vector<std::string> command = {"-m",     s.model, "--lora",     s.adapter,
                                              "-o",     merged,  "--format",   "copy",
                                              "--json", report,  "--overwrite"};
    must("quantize", command);
    const auto a = ModelFile::open(s.model), b = ModelFile::open(merged);
    int changed = 0;
    for (const TensorEntry& entry : a->tensors()) {
        CAPTURE(entry.name);
        CHECK(b->get(entry.name).type == entry.type);
        const bool same = tensor_bytes(*a, entry.name) == tensor_bytes(*b, entry.name);
        const bool adapted =
            entry.name == "blk.2.attn_q.weight" || entry.name == "blk.2.attn_v.weight";
        CHECK(same != adapted);
        changed += same ? 0 : 1;
    }
    CHECK(changed == 2);

    const Json json = parse_json(read_file(report), report);
    const double moved = json.find("relative_change")->as_double("");
    CHECK(moved > 0.01);
    CHECK(moved < 1);
    const MetaArray* steps = b->metadata().find_array("thimble.steps");
    REQUIRE(steps != nullptr);
    const std::string step = std::get<std::vector<std::string>>(steps->elements).back();
    CHECK(step.find("adapter_model.safetensors") != std::string::npos);
    CHECK(step.find("adapter_config.json") != std::string::npos);

    const std::string bytes = read_file(merged);
    for (const char* threads : {"1", "3"}) {
        std::vector<std::string> again = command;
        again.insert(again.end(), {"-t", threads, "--max-memory", "ram=20MiB"});
        must("quantize", again);
        CHECK(read_file(merged) == bytes);
    }
}

TEST_CASE("lora: merging into quantised weights is requantising, and asked for") {
    const Setting s("rslora", "q8_0");
    const std::string merged = s.directory.file("merged.gguf");
    std::vector<std::string> command = {"-m", s.model, "--lora",   s.adapter,
                                        "-o", merged,  "--format", "copy"};
    check_refused("quantize", command, 2, "give --allow-requantize");
    command.emplace_back("--allow-requantize");
    must("quantize", command);
    must("quantize", {"verify", merged});
    must("quantize",
         {"-m", s.model, "--lora", s.adapter, "-o", merged, "--format", "f16", "--overwrite"});
}

TEST_CASE("lora: a format that sees its matrices first sees them merged") {
    const Setting s("dora-gemma");
    const std::string once = s.directory.file("once.gguf"), plain = s.directory.file("plain.gguf");
    const std::string twice = s.directory.file("twice.gguf");
    must("quantize", {"-m", s.model, "--lora", s.adapter, "-o", once, "--format", "nf4"});
    must("quantize", {"-m", s.model, "--lora", s.adapter, "-o", plain, "--format", "f32"});
    must("quantize", {"-m", plain, "-o", twice, "--format", "nf4"});
    const auto a = ModelFile::open(once), b = ModelFile::open(twice);
    REQUIRE(a->tensors().size() == b->tensors().size());
    REQUIRE(a->find("blk.0.attn_q.weight.nested") != nullptr);
    for (const TensorEntry& entry : a->tensors()) {
        CAPTURE(entry.name);
        CHECK(tensor_bytes(*a, entry.name) == tensor_bytes(*b, entry.name));
    }
}

TEST_CASE("lora: evaluate records the adapters, and a scale of 0 is the model itself") {
    const Setting s("rslora");
    std::string text;
    for (int i = 0; i < 60; ++i) text += "word number " + std::to_string(i) + " of the text\n";
    const std::string file = s.directory.write("text.txt", text),
                      out = s.directory.file("out.json");
    const auto result = [&](std::vector<std::string> more) {
        std::vector<std::string> all = {"-m", s.model, "--reference", s.model, "-f", file,
                                        "-c", "48",    "--chunks",    "3",     "-o", out};
        all.insert(all.end(), more.begin(), more.end());
        must("evaluate", all);
        return parse_json(read_file(out), out);
    };
    const auto kld = [](const Json& record) {
        return record.find("divergence")->find("kld_mean")->find("value")->as_double("");
    };
    CHECK(result({}).find("adapters") == nullptr);
    const Json with = result({"--lora", s.adapter, "--lora-scale", "0.5"});
    CHECK(kld(with) > 0.01);
    REQUIRE(with.find("adapters") != nullptr);
    const Json& facts = with.find("adapters")->as_array("")[0];
    CHECK(facts.find("file")->as_string("") == "rslora");
    CHECK(facts.find("sha256")->as_string("").size() == 64);
    CHECK(facts.find("scale")->as_double("") == 0.5);
    CHECK(kld(result({"--lora", s.adapter, "--lora-scale", "0"})) == 0);
    CHECK(must("evaluate", {"report", out}).find("model.gguf + 0 rslora") != std::string::npos);
    // The budget is kept, and changes nothing.
    const Json less =
        result({"--lora", s.adapter, "--lora-scale", "0.5", "--max-memory", "ram=64MiB"});
    CHECK(less.find("divergence")->dump() == with.find("divergence")->dump());
}

TEST_CASE("lora: an adapter of another model is refused by all tools, with one line") {
    const Setting s("lora");
    const std::string other = golden_adapter("rslora").directory;
    const std::string out = s.directory.file("out.gguf"), text = s.directory.write("t", "a b c d");
    const std::vector<std::pair<std::string, std::vector<std::string>>> commands = {
        {"run", {"-m", s.model, "-p", "a", "-n", "1"}},
        {"evaluate", {"-m", s.model, "-f", text}},
        {"quantize", {"-m", s.model, "-o", out}}};
    for (const auto& [name, command] : commands) {
        CAPTURE(name);
        const auto refused = [&](const std::string& adapter, int exit, const std::string& why) {
            std::vector<std::string> all = command;
            all.insert(all.end(), {"--lora", adapter});
            check_refused(name, all, exit, why);
        };
        refused(other, 65, "mismatched adapter");
        refused(s.model, 65, "'adapter' was expected");
        refused(s.adapter + "/adapter_model.safetensors", 65, "named by its directory");
        refused(s.directory.file("none"), 66, "none");
        refused(s.directory.path(), 66, "adapter_config.json");
    }
    CHECK_FALSE(std::filesystem::exists(out));
}
