// SPDX-License-Identifier: Apache-2.0
// The tokens that a random llama goes on with, by weight format, KV type and instruction set: the
// same for every prefill chunk and thread count, and those of earlier versions. A kernel made
// faster gives other tokens only with a new line in the table below and a reason for it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "core/cpu.h"
#include "io/atomic_file.h"
#include "model/random_model.h"
#include "model/runner.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

constexpr int kVocab = 128;
constexpr std::size_t kPrompt = 71;  // more than a tile of attention, and no multiple of one
constexpr std::size_t kAnswer = 24;

struct Generated {
    std::vector<std::int32_t> tokens;
    std::vector<float> logits;  // [answer, vocab]
    double margin = INFINITY;   // least lead of a token over the next one, in deviations of its row
    bool operator==(const Generated& other) const {
        return tokens == other.tokens && logits.size() == other.logits.size() &&
               std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
    }
};

std::unique_ptr<ModelSource> random_source(const test::TempDir& directory) {
    const std::string path = directory / "config.json";
    write_text_file(path,
                    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",)"
                    R"("num_hidden_layers": 2, "num_attention_heads": 4,)"
                    R"("num_key_value_heads": 2, "max_position_embeddings": 256,)"
                    R"("rms_norm_eps": 1e-5, "hidden_act": "silu",)"
                    R"("tie_word_embeddings": false, "initializer_range": 0.1,)"
                    R"("hidden_size": 256, "intermediate_size": 512, "vocab_size": )" +
                        std::to_string(kVocab) + "}",
                    IfExists::kReplace);
    return std::make_unique<ModelSource>(random_model(path, 14));
}

double lead(std::span<const float> row) {
    const auto best = std::max_element(row.begin(), row.end());
    float next = -INFINITY;
    for (const float& x : row)
        if (&x != &*best) next = std::max(next, x);
    double squares = 0;
    for (const float x : row) squares += double{x} * double{x};
    return (double{*best} - double{next}) / std::sqrt(squares / kVocab);
}

Generated generate(const std::string& path, const RunnerOptions& options, int threads) {
    Team team(threads);
    Runner runner(ModelSource::open(path), options, team);
    std::vector<std::int32_t> next;
    for (std::size_t i = 0; i < kPrompt; ++i)
        next.push_back(static_cast<std::int32_t>((i * 197 + i * i * 31) % kVocab));
    Generated out;
    const SeqId seq = runner.kv().open();
    while (out.tokens.size() < kAnswer) {
        runner.forward(seq, next, 1, [&](std::int64_t, View rows) {
            const std::span row(rows.row<float>(0), kVocab);
            out.logits.insert(out.logits.end(), row.begin(), row.end());
            out.margin = std::min(out.margin, lead(row));
            next = {
                static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin())};
        });
        out.tokens.push_back(next[0]);
    }
    return out;
}

// FNV-1a over the tokens' bytes, the lowest first.
std::uint64_t hash_of(std::span<const std::int32_t> tokens) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const std::int32_t token : tokens) {
        for (int shift = 0; shift < 32; shift += 8) {
            hash ^= static_cast<std::uint64_t>(token) >> shift & 0xff;
            hash *= 0x100000001b3;
        }
    }
    return hash;
}

// The portable level met float input before it multiplied bytes.
struct Way {
    Isa isa;
    Activations activations = Activations::kAuto;
};
constexpr Way kWays[] = {
    {Isa::kPortable, Activations::kF32}, {Isa::kPortable}, {Isa::kAvx2}, {Isa::kAvx512}};

struct Golden {
    const char* format;
    const char* kv;
    std::uint64_t tokens[4];  // hashes, in the order of kWays
};

constexpr Golden kGolden[] = {
    {"q8_0",
     "f16",
     {0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef}},
    {"q8_0",
     "q8_0",
     {0xca5ab42b00a5bd81, 0xca5ab42b00a5bd81, 0xca5ab42b00a5bd81, 0xca5ab42b00a5bd81}},
    {"q8_0",
     "bf16",
     {0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef}},
    {"q8_0",
     "f32",
     {0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef}},
    {"q4_0",
     "f16",
     {0x648afef99a6d982c, 0xc21cb53b92a43974, 0xc21cb53b92a43974, 0x91dbd2ad44636389}},
    {"q4_0",
     "q8_0",
     {0x648afef99a6d982c, 0x91dbd2ad44636389, 0x648afef99a6d982c, 0x648afef99a6d982c}},
    {"q4_k",
     "f16",
     {0x270f3a730973796d, 0x4343e10fd5152048, 0x4343e10fd5152048, 0x4343e10fd5152048}},
    {"q4_k",
     "q8_0",
     {0x9a00b284cfbf0c9c, 0xcf1ecf8be9772a41, 0xcf1ecf8be9772a41, 0xcf1ecf8be9772a41}},
    {"iq4_nl",
     "f16",
     {0xebe491a703d8a58e, 0xebe491a703d8a58e, 0xebe491a703d8a58e, 0xebe491a703d8a58e}},
    {"iq4_nl",
     "q8_0",
     {0xebe491a703d8a58e, 0xebe491a703d8a58e, 0xebe491a703d8a58e, 0xebe491a703d8a58e}},
    {"bf16",
     "f16",
     {0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef, 0xa85d0ae4c021ffef}},
    {"bf16",
     "q8_0",
     {0x0f03fcddc142f4a3, 0x0f03fcddc142f4a3, 0x0f03fcddc142f4a3, 0x0f03fcddc142f4a3}},
    {"nf4",
     "f16",
     {0xe3e263babc7baa9e, 0x42ff53075ace5a54, 0x131840c9b7fcd721, 0x131840c9b7fcd721}},
    {"nf4",
     "q8_0",
     {0xe3e263babc7baa9e, 0xe3e263babc7baa9e, 0xe3e263babc7baa9e, 0xe3e263babc7baa9e}},
};

}  // namespace

TEST_CASE("tokens: those of earlier versions, for every prefill chunk and thread count") {
    const test::TempDir directory;
    const auto source = random_source(directory);
    std::string written;
    for (const Golden& golden : kGolden) {
        const std::string path = directory / (std::string(golden.format) + ".gguf");
        if (golden.format != written)
            test::ModelCopy::as_gguf(*source, golden.format).write_gguf(path);
        written = golden.format;
        for (std::size_t i = 0; i < std::size(kWays); ++i) {
            const Way& way = kWays[i];
            if (way.isa > best_isa()) continue;
            const std::string what = std::string(golden.format) + " kv " + golden.kv + ' ' +
                                     std::string(name(way.isa)) + " way " + std::to_string(i);
            CAPTURE(what);
            RunnerOptions options;
            options.isa = way.isa, options.activations = way.activations;
            options.kv.type_k = options.kv.type_v = golden.kv;
            options.kv.context_tokens = kPrompt + kAnswer;
            const Generated whole = generate(path, options, 1);
            CHECK(std::set(whole.tokens.begin(), whole.tokens.end()).size() > kAnswer / 2);
            CHECK_MESSAGE(hash_of(whole.tokens) == golden.tokens[i], "margin ", whole.margin);
            for (const int threads : {2, 3}) CHECK(generate(path, options, threads) == whole);
            for (const std::int64_t step : {7, 1}) {
                options.step_tokens = step;
                CHECK(generate(path, options, 1) == whole);
            }
        }
    }
}
