// SPDX-License-Identifier: Apache-2.0
// compress --method low-rank, and the tools that take what it writes, as a user runs them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "io/json.h"
#include "model/factored_tensor.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

ProcessResult tool(const char* name, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path(name));
    return run_process(arguments);
}

struct Setting {
    TemporaryDirectory directory;
    std::string in = directory.file("in.gguf"), out = directory.file("out.gguf"), text;
    Setting() {
        std::string words;
        for (int i = 0; i < 400; ++i)
            words += "word" + std::string(1, static_cast<char>('a' + i * 7 % 26)) +
                     (i % 5 == 0 ? "\n" : " ");
        text = directory.write("text.txt", words);
        write_tiny_model(in, "llama-untied");
    }
    [[nodiscard]] ProcessResult compress(std::vector<std::string> more) const {
        more.insert(more.begin(), {"--method", "low-rank", in, "-o", out, "-f", text, "-c", "32",
                                   "--check-chunks", "2", "--json", "-", "-q"});
        return tool("compress", std::move(more));
    }
    [[nodiscard]] Json must(std::vector<std::string> more) const {
        more.emplace_back("--overwrite");
        const ProcessResult r = compress(std::move(more));
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return parse_json(r.out, "stdout");
    }
};

std::int64_t number(const Json& json, const char* key) { return json.find(key)->as_int("r"); }
double kld(const Json& r) { return r.find("quality")->find("kld_mean")->as_double("r"); }

// Of all matrices: before and after.
std::pair<double, double> bytes_of(const Json& report) {
    std::pair<double, double> sum;
    for (const Json& m : report.find("matrices")->as_array("r")) {
        sum.first += static_cast<double>(number(m, "bytes_before"));
        sum.second += static_cast<double>(number(m, "bytes"));
    }
    return sum;
}

// On the reference device.
std::vector<double> logits_of(const std::string& path) {
    Team team(2);
    RunnerOptions options;
    options.device = Device::kRef;
    options.kv.context_tokens = 32;
    Runner runner(ModelSource::open(path), options, team);
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 20; ++i) tokens.push_back(1 + i * 11 % 80);
    return all_logits(runner, tokens);
}

const std::vector<std::string> kPrompt = {
    "-p", "some words to go on from", "-n", "12", "--temp", "0", "-c", "64", "-q"};
std::string answer(const std::string& model, std::vector<std::string> more) {
    more.insert(more.begin(), {"-m", model});
    more.insert(more.end(), kPrompt.begin(), kPrompt.end());
    const ProcessResult r = tool("run", more);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return r.out;
}

}  // namespace

TEST_CASE(
    "low-rank: the file is within the ratio, as planned, and further from the model with less") {
    const Setting s;
    double before = 0;
    for (const char* ratio : {"0.95", "0.8", "0.5"}) {
        for (const char* ranks : {"global", "equal"}) {
            CAPTURE(ratio);
            CAPTURE(ranks);
            const ProcessResult dry = s.compress({"--ratio", ratio, "--ranks", ranks, "--dry-run"});
            REQUIRE(dry.exit == 0);
            const Json plan = *parse_json(dry.out, "stdout").find("plan");
            const Json report = s.must({"--ratio", ratio, "--ranks", ranks});
            const auto [all, left] = bytes_of(report);
            CHECK(left <= std::stod(ratio) * all);
            // No step of a rank is left, and those of small matrices are large.
            if (std::string(ranks) == "global") CHECK(left >= (std::stod(ratio) - 0.1) * all);
            const std::int64_t planned = number(plan, "output_bytes");
            const std::int64_t bytes = number(report, "output_bytes");
            CHECK(static_cast<std::uint64_t>(bytes) == fs::file_size(s.out));
            CHECK(bytes <= planned);
            if (std::string(ranks) == "equal") CHECK(bytes == planned);
            const auto peak = [](const Json& of) {
                return of.find("ram")->find("peak_bytes")->as_int("p");
            };
            CHECK(peak(*report.find("measured")) <= peak(*report.find("plan")->find("tiers")));
            if (std::string(ranks) == "equal") continue;
            CHECK(kld(report) > before);
            before = kld(report);
        }
    }
    CHECK(fs::exists(s.out));
    CHECK_FALSE(fs::exists(s.out + ".factors"));
    CHECK_FALSE(fs::exists(s.out + ".unchecked"));
}

TEST_CASE("low-rank: factors compute what their product does, on every device and from disk") {
    const Setting s;
    (void)s.must({"--ratio", "0.8"});
    const auto source = ModelSource::open(s.out);
    CHECK(largest_rank(*source) > 0);
    CHECK(s.out != s.in);
    // Multiplied out by another tool: an ordinary model.
    const std::string plain = s.directory.file("plain.gguf");
    REQUIRE(tool("quantize", {"-m", s.out, "-o", plain, "--format", "f32", "-q"}).exit == 0);
    CHECK(largest_rank(*ModelSource::open(plain)) == 0);
    const std::vector<double> x = logits_of(s.out), y = logits_of(plain);
    double most = 0;
    for (std::size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
    CHECK(most < 1e-5);  // the product is rounded to floats
    const std::string want = answer(plain, {});
    CHECK(answer(s.out, {}) == want);
    CHECK(answer(s.out, {"--device", "cuda"}) == want);
    CHECK(answer(s.out, {"--device", "cuda", "--gpu-layers", "1"}) == want);
    CHECK(answer(s.out, {"--kv-policy", "snapkv:budget=48,window=8"}) == want);
    // Least memory: layers are read from disk.
    std::vector<std::string> arguments = {"-m",     s.out, "--max-memory", "ram=1", "--dry-run",
                                          "--json", "-"};
    arguments.insert(arguments.end(), kPrompt.begin(), kPrompt.end());
    const ProcessResult dry = tool("run", arguments);
    CHECK(dry.exit == 77);
    const Json json = parse_json(dry.out, "plan");
    const std::int64_t least = number(*json.find("plan")->find("tiers")->find("ram"), "peak_bytes");
    CHECK(answer(s.out, {"--max-memory", "ram=" + std::to_string(least)}) == want);
    // Coded further without loss, trained with an adapter, pruned.
    const std::string made = s.directory.file("made.gguf");
    REQUIRE(tool("prune", {"-m", s.out, "-o", made, "--method", "channels:ratio=0.4", "-f", s.text,
                           "-c", "32", "-q"})
                .exit == 0);
    CHECK(largest_rank(*ModelSource::open(made)) == 0);
    const std::string adapter = s.directory.file("adapter");
    REQUIRE(tool("offload-train", {"-m", s.out, "--data", s.text, "-o", adapter, "--method", "lora",
                                   "--steps", "2", "-c", "32", "-q"})
                .exit == 0);
    CHECK_FALSE(answer(s.out, {"--lora", adapter}).empty());
}

TEST_CASE("low-rank: factors are of any format, and other programs do not take them for a model") {
    const Setting s;
    write_tiny_model(s.in, "llama-tied", "f16");
    for (const char* format : {"", "f32", "bf16", "q8_0", "q4_0", "affine:bits=4,group=32"}) {
        CAPTURE(format);
        std::vector<std::string> more = {"--ratio", "0.9", "--only", "ffn_(gate|up)"};
        if (*format != 0) more.insert(more.end(), {"--format", format});
        const std::string name = format;
        if (name == "f32") {  // twice the bytes: nothing becomes smaller at a useful rank
            more[1] = "1";
        }
        const Json report = s.must(more);
        CHECK(std::isfinite(kld(report)));
        const auto file = ModelFile::open(s.out);
        if (largest_rank(*ModelSource::open(s.out)) == 0) continue;
        CHECK(file->find("blk.0.attn_q.weight") != nullptr);
        CHECK_FALSE(answer(s.out, {}).empty());
    }
    (void)s.must({"--ratio", "0.7"});
    const auto file = ModelFile::open(s.out);
    bool any = false;
    const auto source = ModelSource::open(s.out);
    for (const SourceTensor& tensor : source->tensors()) {
        const FactoredTensor* f = factored_of(tensor);
        if (f == nullptr) continue;
        any = true;
        CHECK(file->find(tensor.name) == nullptr);
        CHECK(f->a().layout() == LayoutId::k_f16);
        CHECK(file->get(tensor.name + ".b").dims ==
              std::vector<std::uint64_t>{static_cast<std::uint64_t>(tensor.rows()),
                                         static_cast<std::uint64_t>(f->rank())});
    }
    CHECK(any);
}

TEST_CASE("low-rank: a gate leaves nothing, and what cannot be done is said in one line") {
    const Setting s;
    const auto refused = [&](std::vector<std::string> more, const std::string& what, int exit = 2) {
        more.emplace_back("-q");
        const ProcessResult r = tool("compress", more);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(what) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(fs::exists(s.out));
        CHECK_FALSE(fs::exists(s.out + ".factors"));
    };
    const std::vector<std::string> base = {
        "low-rank", s.in, "-o", s.out, "-f", s.text, "-c", "32", "--check-chunks", "2"};
    const auto with = [&](std::vector<std::string> more) {
        more.insert(more.begin(), base.begin(), base.end());
        return more;
    };
    refused(with({"--ratio", "0.5", "--max-kld", "1e-9"}), "the mean divergence is", 3);
    refused(with({"--ratio", "0.01"}), "--ratio");
    refused(with({"--only", "ffn_gat$"}), "finds no matrix");
    refused(with({"--format", "q9"}), "q9");
    refused({"low-rank", s.in, "-o", s.out}, "give -f FILE, or --weighting none");
    refused({"low-rank", s.in, "-o", s.out, "--weighting", "none", "--max-kld", "1"},
            "--check-file");
    refused(with({"--max-memory", "ram=13MiB"}), "", 77);
    (void)s.must({"--ratio", "0.8", "--weighting", "none"});
    const std::string again = s.directory.file("again.gguf");
    const ProcessResult twice =
        tool("compress", {"low-rank", s.out, "-o", again, "--weighting", "none"});
    CHECK(twice.exit == 2);
    CHECK(twice.err.find("factors already") != std::string::npos);
}
