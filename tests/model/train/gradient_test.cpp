// SPDX-License-Identifier: Apache-2.0
// Loss and gradients of whole tiny models against PyTorch and PEFT (scripts/make_golden_train.py),
// on the reference device, the CPU's levels and the CUDA device of this build.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "core/cpu.h"
#include "io/json.h"
#include "ops/cuda_context.h"
#include "tests/support/golden_model.h"
#include "train/pass.h"
#include "train/trained_store.h"

using namespace thimble;
using namespace thimble::train;
using Part = ParameterId::Part;

namespace {

bool no_device() { return std::string_view(cuda::build_kind()) == "none"; }

std::uint64_t mix(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}
float fill(std::uint64_t number, std::uint64_t e) {
    const auto u = static_cast<double>(mix(e + (number << 40)) >> 40) / 16777216.0;
    return static_cast<float>((u - 0.5) / 2);
}

struct Golden {
    explicit Golden(const std::string& name)
        : json(read_json_file(std::string(THIMBLE_TESTS_DIR) + "/golden/train/" + name + ".json")) {
        for (const Json& document : json.find("documents")->as_array(name)) {
            const auto& ids = document.find("tokens")->as_array(name);
            documents.push_back(std::ssize(ids));
            for (const Json& id : ids) tokens.push_back(static_cast<std::int32_t>(id.as_int(name)));
            for (const Json& id : document.find("targets")->as_array(name))
                targets.push_back(static_cast<std::int32_t>(id.as_int(name)));
        }
    }
    [[nodiscard]] const Json* find(const std::string& name) const {
        return json.find("cases")->find(name);
    }
    [[nodiscard]] std::uint64_t number_of(const std::string& name) const {
        const auto& filled = json.find("filled")->as_array("filled");
        for (std::size_t i = 0; i < filled.size(); ++i)
            if (filled[i].as_string("filled") == name) return i + 1;
        FAIL("no matrix " << name);
        return 0;
    }
    Json json;
    std::vector<std::int32_t> tokens, targets;
    std::vector<std::int64_t> documents;
};

std::string hf_name(const SourceTensor& tensor) {
    return tensor_name(tensor.rule->hf, tensor.layer);
}

// A model in training, with adapters filled as the script fills them.
struct Trained {
    Trained(const std::string& name, const Golden& golden, const std::string& method_text,
            Device device, Isa isa, const PassOptions& how, int threads = 2)
        : source(ModelSource::open(test::golden_model(name).directory)),
          team(threads),
          method(make_method(method_text, "--method")) {
        exec.device = device, exec.isa = isa, exec.activations = Activations::kF32;
        exec.products = Products::kDense;
        exec.team = &team;
        if (device == Device::kCuda) {
            Exec host = exec;
            host.device = Device::kCpu;
            cuda = std::make_unique<CudaContext>(host);
            exec.cuda = cuda.get();
        }
        PassOptions options = how;
        options.most_tokens = std::ssize(golden.tokens);
        Exec dry = exec;
        dry.dry = true;
        {
            const auto paper_method = make_method(method_text, "--method");
            ParameterSet paper;
            TrainedStore on_paper(*source, dry, *paper_method, paper, {});
            bytes = Pass::measure(*source, dry, on_paper, paper, options);
        }
        store = std::make_unique<TrainedStore>(*source, exec, *method, parameters,
                                               TrainedStore::Room{});
        store->load();
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            method->initialise(*source, parameters, i, 1);
            adapt(golden, i);
        }
        store->refresh();
        for (std::size_t i = 0; i < parameters.size(); ++i) {
            if (!parameters[i].name.ends_with(".lengths")) continue;
            for (std::int64_t e = 0; e < parameters[i].info.elements(); ++e)
                parameters[i].values[e] *= 1.25f;
        }
        store->refresh();
        pass = std::make_unique<Pass>(*source, exec, *store, options);
        pass->allocate(bytes);
        parameters.zero_gradients(exec);
    }

    // "blk.0.attn_q.weight.lora_a" -> its tensor
    [[nodiscard]] const SourceTensor& tensor_of(const std::string& name) const {
        return *source->find(name.substr(0, name.rfind('.')));
    }
    static std::string peft_name(const std::string& hf, const std::string& parameter) {
        const std::string module = hf.substr(0, hf.rfind('.'));
        if (parameter.ends_with(".lora_a")) return module + ".lora_A.weight";
        if (parameter.ends_with(".lora_b")) return module + ".lora_B.weight";
        return module + ".lora_magnitude_vector.weight";
    }
    // Row of the Hugging Face tensor that row r of a parameter corresponds to.
    static std::int64_t hf_row(const SourceTensor& tensor, const Parameter& p, std::int64_t r) {
        return tensor.source_row && !p.name.ends_with(".lora_a") ? tensor.source_row(r) : r;
    }
    void adapt(const Golden& golden, std::size_t i) {
        Parameter& p = parameters[i];
        if (p.tensor != nullptr || p.name.ends_with(".lengths")) return;
        const SourceTensor& tensor = tensor_of(p.name);
        const std::uint64_t number = golden.number_of(peft_name(hf_name(tensor), p.name));
        for (std::int64_t r = 0; r < p.info.shape.rows; ++r) {
            for (std::int64_t c = 0; c < p.info.shape.cols; ++c) {
                const std::int64_t e = hf_row(tensor, p, r) * p.info.shape.cols + c;
                p.values[r * p.info.shape.cols + c] = fill(number, static_cast<std::uint64_t>(e));
            }
        }
    }
    LossSums run(const Golden& golden) {
        const auto count = std::count_if(golden.targets.begin(), golden.targets.end(),
                                         [](std::int32_t t) { return t >= 0; });
        const LossSums sums = pass->train({golden.tokens, golden.targets, golden.documents},
                                          1.0 / static_cast<double>(count), parameters);
        parameters.collect_gradients(exec);
        method->finish_gradients(exec, parameters);
        return sums;
    }
    [[nodiscard]] double gradient(const Parameter& p, std::int64_t r, std::int64_t c) const {
        return exec.dtype() == DType::kF64 ? p.gradient.row<double>(r)[c]
                                           : static_cast<double>(p.gradient.row<float>(r)[c]);
    }
    // The script's sums, and the norm of the gradient.
    std::pair<std::vector<double>, double> sums(const Parameter& p) const {
        const SourceTensor& tensor = p.tensor != nullptr ? *p.tensor : tensor_of(p.name);
        std::vector<double> out(16);
        double norm = 0;
        // A vector's rows are its elements.
        const bool vector = p.info.shape.rows == 1;
        const Shape2 shape = vector ? Shape2{p.info.shape.cols, 1} : p.info.shape;
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            for (std::int64_t c = 0; c < shape.cols; ++c) {
                const double g = vector ? gradient(p, 0, r) : gradient(p, r, c);
                norm += g * g;
                const auto e = static_cast<std::uint64_t>(hf_row(tensor, p, r) * shape.cols + c);
                for (std::uint64_t k = 0; k < out.size(); ++k)
                    out[k] += (mix(e + (k << 40)) & 1) != 0 ? -g : g;
            }
        }
        return {out, std::sqrt(norm)};
    }

    std::unique_ptr<ModelSource> source;
    Team team;
    Exec exec;
    std::unique_ptr<CudaContext> cuda;
    std::unique_ptr<Method> method;
    ParameterSet parameters;
    std::unique_ptr<TrainedStore> store;
    std::unique_ptr<Pass> pass;
    PassBytes bytes;
};

// Relative error of the worst sum, in units of the gradient's norm; a sum of n signs of elements
// grows like that.
void compare(const Trained& trained, const Json& wanted, double tolerance) {
    std::size_t seen = 0;
    for (const Parameter& p : trained.parameters.items()) {
        const SourceTensor& tensor = p.tensor != nullptr ? *p.tensor : trained.tensor_of(p.name);
        const std::string name =
            p.tensor != nullptr ? hf_name(tensor) : Trained::peft_name(hf_name(tensor), p.name);
        const Json* gradients = wanted.find("gradients")->find(name);
        REQUIRE_MESSAGE(gradients != nullptr, name);
        ++seen;
        const auto [sums, norm] = trained.sums(p);
        for (std::size_t k = 0; k < sums.size(); ++k) {
            const double golden = gradients->as_array(name)[k].as_double(name);
            CHECK_MESSAGE(std::abs(sums[k] - golden) <= tolerance * (norm + 1e-12),
                          name << ": sum " << k << " is " << sums[k] << ", PyTorch's " << golden
                               << ", norm " << norm);
        }
    }
    CHECK(seen == wanted.find("gradients")->as_members("gradients").size());
}

constexpr const char* kModels[] = {"llama-tied", "llama-untied", "llama3-rope", "gemma3",
                                   "gemma3-scaled"};
const std::map<std::string, std::string> kMethods = {{"full", "full"},
                                                     {"lora", "lora:rank=4,alpha=12"},
                                                     {"rslora", "lora:rank=4,alpha=12,rslora"},
                                                     {"dora", "lora:rank=4,alpha=12,dora"}};

}  // namespace

TEST_CASE("loss and gradients of tiny models are PyTorch's") {
    for (const std::string name : kModels) {
        const Golden golden(name);
        for (const auto& [label, text] : kMethods) {
            const Json* wanted = golden.find(label);
            if (wanted == nullptr) continue;
            CAPTURE(name);
            CAPTURE(label);
            const double loss = wanted->find("loss")->as_double(name);
            {
                Trained exact(name, golden, text, Device::kRef, Isa::kPortable, {});
                CHECK(exact.run(golden).loss == doctest::Approx(loss).epsilon(1e-7));
                compare(exact, *wanted, 3e-5);  // transformers computes norms and rotations in F32
            }
            Trained quick(name, golden, text, Device::kCpu, best_isa(), {});
            CHECK(quick.run(golden).loss == doctest::Approx(loss).epsilon(1e-5));
            compare(quick, *wanted, 2e-4);
        }
    }
}

TEST_CASE("cuda: loss and gradients of tiny models are PyTorch's" * doctest::skip(no_device())) {
    for (const std::string name : kModels) {
        const Golden golden(name);
        for (const auto& [label, text] : kMethods) {
            const Json* wanted = golden.find(label);
            if (wanted == nullptr) continue;
            CAPTURE(name);
            CAPTURE(label);
            Trained device(name, golden, text, Device::kCuda, best_isa(), {});
            CHECK(device.run(golden).loss ==
                  doctest::Approx(wanted->find("loss")->as_double(name)).epsilon(1e-5));
            compare(device, *wanted, 2e-4);
        }
    }
}

TEST_CASE("checkpoints and kinds of loss change gradients by rounding at most") {
    const Golden golden("gemma3");
    for (const Device device : {Device::kRef, Device::kCpu, Device::kCuda}) {
        if (device == Device::kCuda && no_device()) continue;
        Trained plain("gemma3", golden, "full", device, best_isa(), {.checkpoint_layers = 0});
        const double loss = plain.run(golden).loss;
        for (const std::int64_t every : {1, 2, 3, 7}) {
            for (const LossKind kind : {LossKind::kCut, LossKind::kChunked, LossKind::kDense}) {
                CAPTURE(every);
                if (device == Device::kCuda && every != 2) continue;  // which takes its time
                Trained other("gemma3", golden, "full", device, best_isa(),
                              {.checkpoint_layers = every, .loss = kind});
                CHECK(other.run(golden).loss == doctest::Approx(loss).epsilon(1e-6));
                // A segment computed anew gives the same bits.
                const bool same_bits = kind == LossKind::kCut;
                for (std::size_t i = 0; i < plain.parameters.size(); ++i) {
                    const Parameter &a = plain.parameters[i], &b = other.parameters[i];
                    double worst = 0, norm = 0;
                    for (std::int64_t r = 0; r < a.info.shape.rows; ++r) {
                        for (std::int64_t c = 0; c < a.info.shape.cols; ++c) {
                            const double g = plain.gradient(a, r, c);
                            worst = std::max(worst, std::abs(g - other.gradient(b, r, c)));
                            norm = std::max(norm, std::abs(g));
                        }
                    }
                    CHECK_MESSAGE(worst <= (same_bits ? 0.0 : 1e-5 * norm), a.name);
                }
            }
        }
    }
}

TEST_CASE("gradients are finite differences of the loss, in double") {
    const double step = 1.0 / 4096;
    for (const auto& [name, text] : {std::pair("gemma3", "full"),
                                     {"llama-untied", "full"},
                                     {"llama-untied", kMethods.at("dora").c_str()}}) {
        CAPTURE(text);
        const Golden golden(name);
        const auto count = std::count_if(golden.targets.begin(), golden.targets.end(),
                                         [](std::int32_t t) { return t >= 0; });
        Trained model(name, golden, text, Device::kRef, Isa::kPortable, {});
        (void)model.run(golden);
        std::uint64_t draw = 1;
        for (std::size_t i = 0; i < model.parameters.size(); ++i) {
            Parameter& p = model.parameters[i];
            // DoRA holds the rows' lengths constant in backward, so only the trained lengths'
            // gradients are those of the loss.
            if (p.tensor == nullptr && !p.name.ends_with(".lengths")) continue;
            const auto e = static_cast<std::int64_t>(mix(draw++) %
                                                     static_cast<std::uint64_t>(p.info.elements()));
            const float before = p.values[e];
            const auto loss_at = [&](double value) {
                p.values[e] = static_cast<float>(value);
                model.store->refresh();
                return model.pass->evaluate({golden.tokens, golden.targets, golden.documents}).loss;
            };
            const double up =
                static_cast<double>(static_cast<float>(static_cast<double>(before) + step));
            const double down =
                static_cast<double>(static_cast<float>(static_cast<double>(before) - step));
            const double slope =
                (loss_at(up) - loss_at(down)) / (up - down) / static_cast<double>(count);
            (void)loss_at(static_cast<double>(before));
            const auto [sums, norm] = model.sums(p);
            const double g = model.gradient(p, e / p.info.shape.cols, e % p.info.shape.cols);
            // The third derivative bounds the difference's own error: step^2 times a few norms.
            CHECK_MESSAGE(std::abs(slope - g) <= 1e-5 * (norm + 1e-3),
                          p.name << ": " << slope << " and " << g << ", norm " << norm);
        }
    }
}
