// SPDX-License-Identifier: Apache-2.0
// The loss head with a vocabulary of 128 Ki tokens: the dense loss and gradients, and what it
// holds.
#include <doctest/doctest.h>

#include <cmath>

#include "core/cpu.h"
#include "model/random_model.h"
#include "tests/support/temp_dir.h"
#include "train/pass.h"
#include "train/trained_store.h"

using namespace thimble;
using namespace thimble::train;

namespace {

std::unique_ptr<ModelSource> model(const test::TempDir& directory, int hidden, int vocab) {
    const auto n = [](int value) { return std::to_string(value); };
    const std::string path = directory / "config.json";
    write_text_file(
        path,
        R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",)"
        R"("num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,)"
        R"("max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "hidden_act": "silu",)"
        R"("tie_word_embeddings": true, "initializer_range": 0.5, "hidden_size": )" +
            n(hidden) + R"(, "intermediate_size": )" + n(2 * hidden) + R"(, "vocab_size": )" +
            n(vocab) + "}",
        IfExists::kReplace);
    return std::make_unique<ModelSource>(random_model(path, 3));
}

Exec exec_of(Team& team, Activations activations) {
    Exec exec;
    exec.isa = best_isa(), exec.team = &team;
    exec.activations = activations, exec.products = Products::kDense;
    return exec;
}

}  // namespace

TEST_CASE("128 Ki tokens: the loss and gradients without logits in memory are those with all") {
    const test::TempDir directory;
    constexpr int kVocab = 1 << 17;
    constexpr std::int64_t kTokens = 70;  // more than a chunk
    const auto source = model(directory, 64, kVocab);
    Team team(2);
    const Exec exec = exec_of(team, Activations::kF32);
    Exec dry = exec;
    dry.dry = true;
    const auto method = make_method("full", "test"), paper_method = make_method("full", "test");
    ParameterSet parameters, paper;
    TrainedStore store(*source, exec, *method, parameters, {});
    TrainedStore on_paper(*source, dry, *paper_method, paper, {});
    store.load();
    for (std::size_t i = 0; i < parameters.size(); ++i)
        method->initialise(*source, parameters, i, 1);
    store.refresh();
    std::vector<std::int32_t> tokens, targets;
    for (std::int32_t i = 0; i < kTokens; ++i) {
        tokens.push_back(i * 1871 % kVocab);
        targets.push_back(i % 9 == 4 ? kNoTarget : i * 7919 % kVocab);
    }
    targets[0] = 0, targets[1] = kVocab - 1;
    const std::vector<std::int64_t> documents = {kTokens};

    struct Result {
        double loss = 0;
        std::vector<std::vector<float>> gradients;
    };
    const auto run = [&](LossKind kind) {
        PassOptions options;
        options.loss = kind, options.most_tokens = kTokens;
        Pass pass(*source, exec, store, options);
        pass.allocate(Pass::measure(*source, dry, on_paper, paper, options));
        parameters.zero_gradients(exec);
        Result result;
        result.loss = pass.train({tokens, targets, documents}, 1.0 / kTokens, parameters).loss;
        for (const Parameter& p : parameters.items()) {
            const auto* g = static_cast<const float*>(p.gradient.data);
            result.gradients.emplace_back(g, g + p.info.elements());
        }
        return result;
    };
    const Result dense = run(LossKind::kDense);
    CHECK(dense.loss > 0);
    for (const LossKind kind : {LossKind::kCut, LossKind::kChunked}) {
        const Result other = run(kind);
        CHECK(other.loss == doctest::Approx(dense.loss).epsilon(1e-6));
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            double worst = 0, largest = 0;
            for (std::size_t e = 0; e < dense.gradients[i].size(); ++e) {
                const auto a = static_cast<double>(dense.gradients[i][e]);
                worst = std::max(worst, std::abs(a - static_cast<double>(other.gradients[i][e])));
                largest = std::max(largest, std::abs(a));
            }
            CHECK(largest > 0);
            CHECK_MESSAGE(worst <= 1e-5 * largest, parameters[i].name);
        }
    }
}

TEST_CASE("8192 tokens of 128256: the head holds less than a hundredth of the logits") {
    const test::TempDir directory;
    constexpr std::int64_t kTokens = 8192, kHidden = 2048;
    const auto source = model(directory, kHidden, 128256);
    Team team(2);
    const double logits = 4.0 * kTokens * 128256;
    for (const std::string what : {"full", "full:weights=bf16", "lora"}) {
        for (const Activations activations : {Activations::kF32, Activations::kBf16}) {
            Exec exec = exec_of(team, activations);
            exec.dry = true;
            const auto method = make_method(what, "test");
            ParameterSet parameters;
            TrainedStore store(*source, exec, *method, parameters, {});
            const auto held = [&](LossKind kind) {
                Workspace workspace;
                exec.workspace = &workspace;
                const View x{reinterpret_cast<std::byte*>(64), DType::kF32, kTokens, kHidden,
                             kHidden};
                const UnitSpec& unit = store.specs().back();
                const Lease head = store.acquire({UnitKind::kHead, 0});
                (void)loss_backward(
                    exec, head, unit.vector("output_norm"), unit.matrix("output"),
                    {.kind = kind, .x = x, .targets = {}, .epsilon = 1e-5, .scale = 1}, parameters,
                    x);
                // Nothing that the pass holds beside it is for the head.
                PassOptions options;
                options.loss = kind, options.most_tokens = kTokens, options.most_document = 512;
                CHECK(Pass::measure(*source, exec, store, parameters, options).workspace >=
                      workspace.peak());
                return static_cast<double>(workspace.peak());
            };
            CAPTURE(what);
            CHECK(held(LossKind::kDense) > logits);
            CHECK(held(LossKind::kCut) < 0.01 * logits);
            CHECK(held(LossKind::kChunked) < 0.01 * logits);
            MESSAGE(what << ": cut " << held(LossKind::kCut) / logits << ", chunked "
                         << held(LossKind::kChunked) / logits << " of the logits");
        }
    }
}
