// SPDX-License-Identifier: Apache-2.0
// Matrices in two factors: the logits of their product, wherever the factors lie, in as much memory
// as was planned; and files that say something else are refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/cpu.h"
#include "core/error.h"
#include "kernels/cuda/stream.h"
#include "kernels/layout/rng.h"
#include "model/factored_tensor.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using test::ModelCopy;

namespace {

constexpr std::int64_t kRank = 5;

// Eighths from -1 to 1, so that sums of products are the same in floats and doubles.
std::vector<float> eighths(std::size_t count, std::uint64_t seed) {
    std::vector<float> out(count);
    for (std::size_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(static_cast<int>(philox(seed, i).v[0] % 17) - 8) / 8;
    return out;
}
std::vector<std::byte> bytes_of(const std::vector<float>& values) {
    std::vector<std::byte> out(values.size() * sizeof(float));
    std::memcpy(out.data(), values.data(), out.size());
    return out;
}

// A model, and the same with every matrix of a layer but q in factors.
struct Pair {
    ModelCopy whole, factored;
};
Pair make_pair(const std::string& golden) {
    Pair out;
    out.whole = out.factored = ModelCopy::as_gguf(test::golden_directory(golden), "f32");
    for (std::size_t i = 0; i < out.whole.specs.size(); ++i) {
        const std::string name = out.whole.specs[i].name;
        const auto dims = out.whole.specs[i].dims;
        if (!name.starts_with("blk.") || dims.size() != 2 || name.ends_with("attn_q.weight"))
            continue;
        const auto rows = static_cast<std::int64_t>(dims[0]);
        const auto cols = static_cast<std::int64_t>(dims[1]);
        const std::vector<float> a = eighths(static_cast<std::size_t>(kRank * cols), 2 * i),
                                 b = eighths(static_cast<std::size_t>(rows * kRank), 2 * i + 1);
        std::vector<float> product(static_cast<std::size_t>(rows * cols));
        for (std::int64_t r = 0; r < rows; ++r)
            for (std::int64_t k = 0; k < kRank; ++k)
                for (std::int64_t c = 0; c < cols; ++c)
                    product[static_cast<std::size_t>(r * cols + c)] +=
                        b[static_cast<std::size_t>(r * kRank + k)] *
                        a[static_cast<std::size_t>(k * cols + c)];
        out.whole.data[i] = bytes_of(product);
        const std::size_t at = out.factored.index(name);
        out.factored.remove(at);
        const auto add = [&](const std::string& factor, std::int64_t n, std::int64_t m,
                             const std::vector<float>& values) {
            out.factored.specs.push_back(
                {factor,
                 TensorType::kF32,
                 {static_cast<std::uint64_t>(n), static_cast<std::uint64_t>(m)}});
            out.factored.data.push_back(bytes_of(values));
        };
        add(factor_a_name(name), kRank, cols, a);
        add(factor_b_name(name), rows, kRank, b);
        out.factored.metadata.set(std::string(kFormatKey) + name,
                                  describe_factors({rows, cols}, kRank));
    }
    return out;
}

struct Run {
    std::vector<double> logits;
    std::vector<std::int32_t> greedy;
    std::uint64_t ram = 0;
};
RunnerOptions options_on(Device device) {
    RunnerOptions options;
    options.device = device;
    options.isa = best_isa();
    options.activations = Activations::kF32;
    options.kv.context_tokens = 64;
    options.kv.type_k = options.kv.type_v = "f32";
    return options;
}
Run run(const std::string& path, const RunnerOptions& options,
        std::span<const std::int32_t> tokens) {
    Team team(2);
    auto source = ModelSource::open(path);
    const auto others = Ledger::process().current_bytes(Tier::kRam);
    Ledger::process().reset_peaks();
    Run out;
    Runner runner(std::move(source), options, team);
    out.logits = test::all_logits(runner, tokens);
    out.ram = Ledger::process().peak_bytes(Tier::kRam) - others;
    out.greedy = test::greedy(runner, tokens, 5);
    return out;
}
std::uint64_t planned_ram(const std::string& path, const RunnerOptions& options,
                          std::int64_t tokens) {
    Plan plan;
    Runner::add_to_plan(plan, *ModelSource::open(path), options, tokens, 1, tokens);
    return plan.total_bytes(Tier::kRam);
}
double most_difference(const Run& a, const Run& b) {
    REQUIRE(a.logits.size() == b.logits.size());
    double most = 0;
    for (std::size_t i = 0; i < a.logits.size(); ++i)
        most = std::max(most, std::abs(a.logits[i] - b.logits[i]));
    return most;
}
double largest(const Run& run) {
    double most = 0;
    for (const double v : run.logits) most = std::max(most, std::abs(v));
    return most;
}

// The error of opening and loading; empty when there is none.
std::string refusal(const ModelCopy& model, const std::string& path) {
    model.write_gguf(path);
    try {
        Team team(2);
        const Runner runner(ModelSource::open(path), {}, team);
    } catch (const Error& e) {
        CHECK_MESSAGE(e.exit() == Exit::kBadData, e.what());
        const std::string text = e.what();
        CHECK_MESSAGE(text.find(path) != std::string::npos, text);
        return text;
    }
    return {};
}
bool mentions(const std::string& text, const std::string& part) {
    CAPTURE(text);
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("factors: a model computes what their products do, at once and from disk") {
    const test::TempDir directory;
    const std::string whole = directory / "whole.gguf", factored = directory / "factored.gguf";
    for (const char* name : {"llama-untied", "llama-tied", "gemma3"}) {
        CAPTURE(name);
        const Pair pair = make_pair(name);
        pair.whole.write_gguf(whole);
        pair.factored.write_gguf(factored);
        CHECK(largest_rank(*ModelSource::open(factored)) == kRank);
        const auto& tokens = test::golden_model(name).prompts[1].tokens;
        const auto count = std::ssize(tokens);
        // In doubles sums differ by rounding alone.
        const Run want = run(whole, options_on(Device::kRef), tokens);
        const Run got = run(factored, options_on(Device::kRef), tokens);
        CHECK(most_difference(want, got) <= 1e-9 * largest(want));
        const Run cpu = run(factored, options_on(Device::kCpu), tokens);
        CHECK(most_difference(cpu, got) <= 1e-3 * largest(want));
        for (RunnerOptions options : {options_on(Device::kCpu), options_on(Device::kRef)}) {
            const Run all = run(factored, options, tokens);
            CHECK(all.ram == planned_ram(factored, options, count));
            options.weight_bytes = 0;
            for (const std::int64_t step : {64, 5}) {
                options.step_tokens = step;
                const Run streamed = run(factored, options, tokens);
                CHECK(streamed.logits == all.logits);
                CHECK(streamed.ram == planned_ram(factored, options, count));
            }
        }
        // Half of the weights are read for a token.
        const auto bytes = [&](const std::string& path) {
            Team team(1);
            return Runner(ModelSource::open(path), options_on(Device::kCpu), team)
                .bytes_per_token(1);
        };
        CHECK(bytes(factored) < bytes(whole));
    }
}

TEST_CASE("cuda: factors there, some there, and streamed" *
          doctest::skip(std::string_view(cuda::build_kind()) == "none")) {
    const test::TempDir directory;
    const std::string path = directory / "factored.gguf";
    const auto& tokens = test::golden_model("llama-untied").prompts[1].tokens;
    make_pair("llama-untied").factored.write_gguf(path);
    const Run cpu = run(path, options_on(Device::kCpu), tokens);
    for (const std::int64_t layers : {-1, 1}) {
        for (const bool streamed : {false, true}) {
            RunnerOptions options = options_on(Device::kCuda);
            options.cuda.layers = layers;
            if (streamed) options.cuda.vram_bytes = 0;
            const Run device = run(path, options, tokens);
            CHECK(most_difference(device, cpu) <= 2e-4 * largest(cpu));
            CHECK(device.greedy == cpu.greedy);
            CHECK(device.ram == planned_ram(path, options, std::ssize(tokens)));
        }
    }
}

TEST_CASE("factors: what the key says has to be what is there") {
    const test::TempDir directory;
    const std::string path = directory / "m.gguf", name = "blk.1.ffn_up.weight";
    const std::string key = std::string(kFormatKey) + name;
    const ModelCopy good = make_pair("llama-untied").factored;
    REQUIRE(refusal(good, path) == "");
    const Json said = parse_json(good.metadata.get_string(key), "key");
    const auto with = [&](const std::string& field, Json value) {
        ModelCopy copy = good;
        Json json = said;
        json.set(field, std::move(value));
        copy.metadata.set(key, json.dump());
        return refusal(copy, path);
    };
    CHECK(mentions(with("rank", kRank + 1), "of another shape or type"));
    CHECK(mentions(with("rank", 0), "'rank' from 1 to"));
    CHECK(mentions(with("rank", -1), "'rank' from 1 to"));
    CHECK(mentions(with("rank", std::int64_t{1} << 40), "'rank' from 1 to"));
    CHECK(mentions(with("version", 2), "of a version"));
    CHECK(mentions(with("shape", JsonArray{80, 40}), "is not of shape"));
    CHECK(with("shape", 7) != "");
    Json step = Json::object();
    step.set("scale", 1);
    CHECK(mentions(with("linear", step), "run-time step"));
    CHECK(mentions(with("format", "low-rank2"), "not known here"));

    for (const char* factor : {".a", ".b"}) {
        CAPTURE(factor);
        ModelCopy copy = good;
        const std::size_t at = copy.index(name + factor);
        copy.remove(at);
        CHECK(mentions(refusal(copy, path), "has no factor"));
        copy = good;
        std::swap(copy.specs[at].dims[0], copy.specs[at].dims[1]);
        CHECK(mentions(refusal(copy, path), "of another shape or type"));
        copy = good;
        copy.specs[at].type = TensorType::kI32;
        CHECK(mentions(refusal(copy, path), "of another shape or type"));
        copy = good;
        const float bad = std::numeric_limits<float>::quiet_NaN();
        std::memcpy(copy.data[at].data() + 8, &bad, sizeof bad);
        CHECK(mentions(refusal(copy, path), name + factor));
        // A factor in factors.
        copy = good;
        copy.metadata.set(key + factor, copy.metadata.get_string(key).data());
        CHECK(refusal(copy, path) != "");
    }
    // The matrix as well as its factors; factors without a key; and of a matrix of no layer.
    ModelCopy copy = good;
    copy.specs.push_back(copy.specs[copy.index("blk.0.ffn_up.weight.a")]);
    copy.data.push_back(copy.data[copy.index("blk.0.ffn_up.weight.a")]);
    copy.specs.back().name = name;
    CHECK(mentions(refusal(copy, path), "is not part of a llama model"));
    copy = good;
    copy.metadata.erase(key);
    CHECK(mentions(refusal(copy, path), "'" + name + "' is missing"));
    copy = good;
    copy.metadata.set(std::string(kFormatKey) + "output.weight", said.dump());
    CHECK(mentions(refusal(copy, path), "of no matrix of a layer"));
}
