// SPDX-License-Identifier: Apache-2.0
// MatMul-free models: the tiny one of scripts/make_golden_hgrn.py against what NumPy computes with
// it in double.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/error.h"
#include "core/ledger.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "model/block.h"
#include "model/random_model.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

const std::string kDirectory = test::golden_directory("hgrn-bit");

template <class T>
std::vector<T> golden(const std::string& name) {
    const auto file = ModelFile::open(kDirectory + ".golden.safetensors");
    const TensorEntry& entry = file->get(name);
    std::vector<T> out(entry.bytes / sizeof(T));
    file->read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

RunnerOptions on(Device device, Isa isa = Isa::kPortable) {
    RunnerOptions options;
    options.device = device;
    options.isa = isa;
    return options;
}

// A random model whose rows are whole blocks of 256.
std::unique_ptr<ModelSource> wide_model(const test::TempDir& directory) {
    const std::string config = directory / "config.json";
    test::spew(config, R"({"model_type": "hgrn_bit", "vocab_size": 90, "hidden_size": 256,
        "num_hidden_layers": 3, "hidden_ratio": 2, "hidden_act": "swish", "num_heads": 1,
        "intermediate_size": null, "rms_norm_eps": 9.5367431640625e-07, "max_position_embeddings": 96,
        "initializer_range": 0.5})");
    return std::make_unique<ModelSource>(random_model(config, 11));
}

std::vector<std::int32_t> some_tokens(std::int64_t count, std::int64_t vocab) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i < count; ++i)
        tokens.push_back(static_cast<std::int32_t>((i * i * 7 + 3 * i + 1) % vocab));
    return tokens;
}

std::vector<float> rows_of(const ModelSource& source, const std::string& tensor) {
    const SourceTensor& t = *source.find(tensor);
    std::vector<float> rows(static_cast<std::size_t>(t.rows() * t.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(t, 0, t.rows(), rows.data(), scratch);
    return rows;
}

// Largest difference of two rows of logits, to the size of the row.
double relative(std::span<const double> a, std::span<const double> b) {
    REQUIRE(a.size() == b.size());
    double worst = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        worst = std::max(worst, std::abs(a[i] - b[i]));
        size = std::max(size, std::abs(b[i]));
    }
    return worst / size;
}

}  // namespace

TEST_CASE("hgrn_bit: the reference device computes what NumPy does") {
    Team team(2);
    Runner runner(ModelSource::open(kDirectory), on(Device::kRef), team);
    for (const std::string number : {"0", "1"}) {
        const auto prompt = golden<std::int32_t>("prompt." + number);
        const auto wanted = golden<double>("logits." + number);
        CHECK(relative(test::all_logits(runner, prompt), wanted) < 1e-12);
        const auto greedy = golden<std::int32_t>("greedy." + number);
        CHECK(test::greedy(runner, prompt, greedy.size()) == greedy);
    }
}

TEST_CASE("hgrn_bit: every instruction set computes what NumPy does") {
    Team team(2);
    for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
        CAPTURE(level);
        Runner runner(ModelSource::open(kDirectory), on(Device::kCpu, static_cast<Isa>(level)),
                      team);
        for (const std::string number : {"0", "1"}) {
            const auto prompt = golden<std::int32_t>("prompt." + number);
            const auto wanted = golden<double>("logits." + number);
            CHECK(relative(test::all_logits(runner, prompt), wanted) < 1e-4);
            const auto greedy = golden<std::int32_t>("greedy." + number);
            CHECK(test::greedy(runner, prompt, greedy.size()) == greedy);
        }
    }
}

TEST_CASE("hgrn_bit: a checkpoint's matrices are read as codes times one scale that F16 holds") {
    const auto source = ModelSource::open(kDirectory);
    int matrices = 0;
    for (const SourceTensor& tensor : source->tensors()) {
        if (!tensor.packed) continue;
        CAPTURE(tensor.name);
        ++matrices;
        const std::string stored = tensor.packed->entries().front()->name;
        const auto scale = golden<double>("scale." + stored)[0];
        const auto codes = golden<std::int8_t>("codes." + stored);
        const float rounded = f16_to_f32(f32_to_f16(static_cast<float>(scale)));
        const std::vector<float> rows = rows_of(*source, tensor.name);
        for (std::size_t i = 0; i < codes.size(); ++i)
            REQUIRE(rows[i] == rounded * static_cast<float>(codes[i]));
        for (const float w : rows) REQUIRE((w == 0 || std::abs(w) == rounded));
    }
    CHECK(matrices == 2 * 6 + 1);
}

TEST_CASE("hgrn_bit: lower bounds are sums of a softmax over layers, without the first layer's") {
    const auto source = ModelSource::open(kDirectory);
    const auto wanted = golden<double>("lower_bounds");
    const std::vector<double>& got = source->spec().lower_bounds;
    REQUIRE(got.size() == wanted.size());
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(std::abs(got[i] - wanted[i]) < 1e-14);
    for (std::size_t c = 0; c < got.size() / 2; ++c) CHECK(got[c] == 0);
}

TEST_CASE(
    "hgrn_bit: the same ternary weights give the same logits in every format that holds them") {
    const test::TempDir directory;
    const auto source = wide_model(directory);
    CHECK(source->spec().ffn == 512);
    const std::vector<std::int32_t> tokens = some_tokens(30, source->spec().vocab);
    const auto plain = test::ModelCopy::as_gguf(*source, "f32");
    Team team(2);
    const auto logits = [&](const test::ModelCopy& copy, Device device) {
        const std::string path = directory / "copy.gguf";
        copy.write_gguf(path);
        Runner runner(ModelSource::open(path), on(device, best_isa()), team);
        return test::all_logits(runner, tokens);
    };
    const std::vector<double> wanted = logits(plain, Device::kRef);
    for (const char* format : {"f16", "tq1_0", "tq2_0"}) {
        CAPTURE(format);
        auto packed = test::ModelCopy::as_gguf(*source, format);
        const std::size_t embedding = packed.index("token_embd.weight");
        packed.specs[embedding] = plain.specs[embedding];
        packed.data[embedding] = plain.data[embedding];
        CHECK(logits(packed, Device::kRef) == wanted);
        CHECK(relative(logits(packed, Device::kCpu), wanted) < 0.05);
        const auto read = ModelSource::open(directory / "copy.gguf");
        for (const SourceTensor& tensor : source->tensors()) {
            if (tensor.packed) CHECK(rows_of(*read, tensor.name) == rows_of(*source, tensor.name));
        }
    }
    // As it is in the checkpoint, ternarised as it is read.
    Runner runner(wide_model(directory), on(Device::kRef), team);
    CHECK(test::all_logits(runner, tokens) == wanted);
}

TEST_CASE("hgrn_bit: a prompt in pieces, or layer by layer, gives the bits of token after token") {
    const test::TempDir directory;
    const std::vector<std::int32_t> tokens = some_tokens(80, 90);
    Team team(2);
    for (const Device device : {Device::kRef, Device::kCpu}) {
        const auto runner_of = [&](std::int64_t step) {
            RunnerOptions options = on(device, best_isa());
            options.step_tokens = step;
            return std::make_unique<Runner>(wide_model(directory), options, team);
        };
        const std::vector<double> wanted = test::all_logits(*runner_of(1), tokens);
        for (const std::int64_t step : {7, 66, 80})
            CHECK(test::all_logits(*runner_of(step), tokens) == wanted);

        const auto runner = runner_of(32);
        const std::span<const std::int32_t> all(tokens);
        const std::span<const std::int32_t> texts[] = {all.first(50), all};
        const std::int64_t hidden = runner->spec().hidden;
        std::vector<std::byte> memory(130 * static_cast<std::size_t>(hidden) * sizeof(double));
        const View rows{memory.data(), runner->exec().dtype(), 130, hidden, hidden};
        REQUIRE(runner->sweep(texts, rows, nullptr, {}));
        std::vector<double> swept;
        runner->head(rows.slice_rows(50, 80), nullptr, [&](std::int64_t, View out) {
            for (std::int64_t r = 0; r < out.rows; ++r) {
                for (std::int64_t c = 0; c < out.cols; ++c)
                    swept.push_back(out.dtype == DType::kF64
                                        ? out.row<double>(r)[c]
                                        : static_cast<double>(out.row<float>(r)[c]));
            }
        });
        CHECK(swept == wanted);
    }
}

TEST_CASE("hgrn_bit: forks and cuts go on as if nothing else had been read") {
    Team team(2);
    Runner runner(ModelSource::open(kDirectory), on(Device::kCpu, best_isa()), team);
    const auto prompt = golden<std::int32_t>("prompt.1");
    const std::span<const std::int32_t> all(prompt);
    std::vector<double> last;
    const auto feed = [&](SeqId seq, std::span<const std::int32_t> tokens) {
        last.clear();
        runner.forward(seq, tokens, 1, [&](std::int64_t, View row) {
            last.assign(row.row<float>(0), row.row<float>(0) + row.cols);
        });
        return last;
    };
    KvEngine& kv = runner.kv();
    const SeqId seq = kv.open();
    const std::vector<double> wanted = feed(seq, all);
    kv.truncate(seq, 25);
    const SeqId fork = kv.fork(seq);
    CHECK(feed(seq, all.first(10)) != wanted);
    CHECK(feed(fork, all.subspan(25)) == wanted);
    kv.truncate(seq, 25);
    CHECK(feed(seq, all.subspan(25)) == wanted);
    kv.truncate(fork, 0);
    CHECK(feed(fork, all) == wanted);
    CHECK(kv.bytes(fork) == kv.bytes(seq));
    kv.close(seq);
    kv.close(fork);
}

TEST_CASE(
    "hgrn_bit: layers read from disk in each pass give the same bits, and the ledger is the plan") {
    const test::TempDir directory;
    const std::string path = directory / "model.gguf";
    auto copy = test::ModelCopy::as_gguf(*wide_model(directory), "tq2_0");
    copy.write_gguf(path);
    const std::vector<std::int32_t> tokens = some_tokens(40, 90);
    const auto count = std::ssize(tokens);
    Team team(2);
    std::vector<std::vector<double>> logits;
    for (const std::uint64_t most : {UINT64_MAX, std::uint64_t{0}}) {
        RunnerOptions options = on(Device::kCpu, best_isa());
        options.weight_bytes = most;
        CHECK((Runner::store_plan(*ModelSource::open(path), options).streamed_layers > 0) ==
              (most == 0));
        Plan plan;
        Runner::add_to_plan(plan, *ModelSource::open(path), options, count, 1, count);
        auto source = ModelSource::open(path);
        const std::uint64_t others = Ledger::process().current_bytes(Tier::kRam);
        Ledger::process().reset_peaks();
        Runner runner(std::move(source), options, team);
        logits.push_back(test::all_logits(runner, tokens));
        CHECK(Ledger::process().peak_bytes(Tier::kRam) - others == plan.total_bytes(Tier::kRam));
    }
    CHECK(logits[0] == logits[1]);
}

TEST_CASE("hgrn_bit: a tap sees the codes that each matrix multiplies") {
    struct Seen final : Tap {
        void input(UnitId unit, std::span<const std::size_t> matrices, View x) override {
            REQUIRE(matrices.size() == 1);
            ++inputs;
            for (std::int64_t r = 0; r < x.rows; ++r) {
                double top = 1e-5;
                for (std::int64_t c = 0; c < x.cols; ++c)
                    top = std::max(top, std::abs(x.row<double>(r)[c]));
                for (std::int64_t c = 0; c < x.cols; ++c) {
                    const double code = x.row<double>(r)[c] * 127 / top;
                    wrong += std::abs(code - std::nearbyint(code)) > 1e-9 ? 1 : 0;
                }
            }
            head |= unit.kind == UnitKind::kHead;
        }
        int inputs = 0, wrong = 0;
        bool head = false;
    } seen;
    Team team(2);
    Runner runner(ModelSource::open(kDirectory), on(Device::kRef), team);
    const auto prompt = golden<std::int32_t>("prompt.0");
    const std::int64_t rows = std::ssize(prompt), hidden = runner.spec().hidden;
    std::vector<double> memory(static_cast<std::size_t>(rows * hidden));
    const View x{memory.data(), DType::kF64, rows, hidden, hidden};
    const std::span<const std::int32_t> texts[] = {prompt};
    REQUIRE(runner.sweep(texts, x, &seen, {}));
    CHECK(seen.inputs == 2 * 6);
    runner.head(x, &seen, {});
    CHECK((seen.head && seen.inputs == 2 * 6 + 1));
    CHECK(seen.wrong == 0);
}

TEST_CASE("hgrn_bit: what a config asks for and no block does is refused") {
    const test::TempDir directory;
    const auto refused = [&](const std::string& key, Json value) {
        test::ModelCopy copy = test::ModelCopy::of_hf(kDirectory);
        copy.config.set(key, std::move(value));
        copy.write_hf(directory / "model");
        try {
            (void)ModelSource::open(directory / "model");
        } catch (const Error& e) {
            CAPTURE(e.problem());
            CHECK(e.exit() == Exit::kBadData);
            CHECK(e.problem().find(key) != std::string::npos);
            return true;
        }
        return false;
    };
    CHECK(refused("use_short_conv", true));
    CHECK(refused("use_lower_bound", false));
    CHECK(refused("expand_ratio", 2));
    CHECK(refused("tie_word_embeddings", true));
    CHECK(refused("hidden_act", "gelu"));
    CHECK_FALSE(refused("num_heads", 4));  // heads change nothing in a recurrence by channel
    CHECK_FALSE(refused("intermediate_size", 256));
}

TEST_CASE("hgrn_bit: weights that are not finite are refused where they are read") {
    const test::TempDir directory;
    test::ModelCopy copy = test::ModelCopy::of_hf(kDirectory);
    const std::size_t tensor = copy.index("model.layers.1.mlp.down_proj.weight");
    const float bad = INFINITY;
    std::memcpy(copy.data[tensor].data() + 400, &bad, sizeof bad);
    copy.write_hf(directory / "model");
    Team team(1);
    CHECK_THROWS_AS((Runner(ModelSource::open(directory / "model"), on(Device::kCpu), team)),
                    Error);
}
