// SPDX-License-Identifier: Apache-2.0
// Checkpoints that other packages have quantised (scripts/make_golden_import.py): the same weights
// as those packages decode, the same logits as transformers with them, and codes kept in GGUF.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>

#include "core/cpu.h"
#include "core/error.h"
#include "format/weight_format.h"
#include "io/sha256.h"
#include "model/source.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Checkpoint {
    std::string name;
    LayoutId layout;
    LayoutParams params;
};
const std::vector<Checkpoint> kCheckpoints = {
    {"gptq-4bit", LayoutId::k_affine, {4, 32, ScaleType::kF16}},
    {"gptq-4bit-act-order", LayoutId::k_affine, {4, 0, ScaleType::kF16}},
    {"gptq-3bit", LayoutId::k_affine, {3, 64, ScaleType::kF16}},
    {"gptq-2bit", LayoutId::k_affine, {2, 64, ScaleType::kF16}},
    {"gptq-8bit", LayoutId::k_affine, {8, 64, ScaleType::kF16}},
    {"awq", LayoutId::k_affine, {4, 32, ScaleType::kF16}},
    {"bnb-nf4", LayoutId::k_nf4, {4, 64, ScaleType::kF32}},
    {"bnb-nf4-nested", LayoutId::k_nf4, {4, 64, ScaleType::kNested}},
    {"bnb-fp4", LayoutId::k_nf4, {4, 64, ScaleType::kF32}},
    {"ct-int4", LayoutId::k_affine, {4, 32, ScaleType::kBF16}},
    {"ct-int8-channel", LayoutId::k_affine, {8, 64, ScaleType::kBF16}},
    {"ct-mxfp4", LayoutId::k_mxfp4, {}},
    {"mxfp4", LayoutId::k_mxfp4, {}},
};

std::string directory_of(const Checkpoint& c) {
    return std::string(THIMBLE_TESTS_DIR) + "/golden/import/" + c.name;
}

// "blk.0.attn_q.weight" -> "model.layers.0.self_attn.q_proj"
std::string module_of(const std::string& name) {
    static const std::pair<const char*, const char*> kParts[] = {
        {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
        {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"},
        {"ffn_gate", "mlp.gate_proj"},  {"ffn_up", "mlp.up_proj"},
        {"ffn_down", "mlp.down_proj"},
    };
    for (const auto& [own, theirs] : kParts) {
        if (name == std::string("blk.0.") + own + ".weight")
            return std::string("model.layers.0.") + theirs;
    }
    return "";
}

template <class T>
std::vector<T> read(const ModelFile& file, const std::string& name) {
    const TensorEntry& entry = file.get(name);
    std::vector<T> out(entry.bytes / sizeof(T));
    file.read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

// Rows in the checkpoint's order; a zero is positive.
std::vector<float> stored_weights(const ModelSource& source, const SourceTensor& tensor) {
    const std::int64_t cols = tensor.cols();
    std::vector<float> canonical(static_cast<std::size_t>(tensor.rows() * cols));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, tensor.rows(), canonical.data(), scratch);
    std::vector<float> out(canonical.size());
    for (std::int64_t r = 0; r < tensor.rows(); ++r) {
        const std::int64_t at = tensor.source_row ? tensor.source_row(r) : r;
        for (std::int64_t k = 0; k < cols; ++k)
            out[static_cast<std::size_t>(at * cols + k)] =
                canonical[static_cast<std::size_t>(r * cols + k)] + 0.0f;
    }
    return out;
}

std::string hexadecimal(const std::vector<std::uint8_t>& bytes) {
    std::string out;
    for (const std::uint8_t b : bytes) {
        out += "0123456789abcdef"[b >> 4];
        out += "0123456789abcdef"[b & 15];
    }
    return out;
}

RunnerOptions on(Device device, Isa isa = Isa::kPortable) {
    RunnerOptions options;
    options.device = device;
    options.isa = isa;
    options.activations = Activations::kF32;
    options.kv.type_k = options.kv.type_v = "f32";
    return options;
}

double worst(const ModelSpec& spec, std::span<const double> a, std::span<const double> b) {
    REQUIRE(a.size() == b.size());
    const auto vocab = static_cast<std::size_t>(spec.vocab);
    double ratio = 0;
    for (std::size_t at = 0; at < a.size(); at += vocab) {
        const double allowed = rounding_tolerance(spec, a.subspan(at, vocab), 0x1p-24);
        for (std::size_t i = at; i < at + vocab; ++i) {
            const double error = std::abs(a[i] - b[i]);
            ratio = std::isfinite(error) ? std::max(ratio, error / allowed) : INFINITY;
        }
    }
    return ratio;
}

template <class Fn>
Error error_of(Fn&& fn) {
    try {
        fn();
    } catch (const Error& e) {
        return e;
    }
    return Error(Exit::kDone, "nothing", "was thrown");
}

}  // namespace

TEST_CASE("imported checkpoints: every weight has the bits that the method's package decodes") {
    for (const Checkpoint& checkpoint : kCheckpoints) {
        CAPTURE(checkpoint.name);
        const auto source = ModelSource::open(directory_of(checkpoint));
        const auto golden = ModelFile::open(directory_of(checkpoint) + ".golden.safetensors");
        int compared = 0;
        for (const SourceTensor& tensor : source->tensors()) {
            const std::string module = module_of(tensor.name);
            if (module.empty()) continue;
            CAPTURE(module);
            CHECK(tensor.layout() == checkpoint.layout);
            const bool ffn_down = tensor.name == "blk.0.ffn_down.weight";
            if (checkpoint.params.group == tensor.cols() || !ffn_down)
                CHECK(tensor.form.params == checkpoint.params);
            const std::vector<float> weights = stored_weights(*source, tensor);
            if (golden->find("weight." + module) != nullptr)
                CHECK(weights == read<float>(*golden, "weight." + module));
            Sha256 sum;
            sum.update(std::as_bytes(std::span(weights)));
            CHECK(sum.finish() == hexadecimal(read<std::uint8_t>(*golden, "sha256." + module)));
            ++compared;
        }
        CHECK(compared == 7);
    }
}

TEST_CASE("imported checkpoints: rows read in pieces are those of the whole") {
    for (const Checkpoint& checkpoint : kCheckpoints) {
        CAPTURE(checkpoint.name);
        const auto source = ModelSource::open(directory_of(checkpoint));
        for (const char* name :
             {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_down.weight"}) {
            CAPTURE(name);
            const SourceTensor& tensor = *source->find(name);
            const auto cols = static_cast<std::size_t>(tensor.cols());
            std::vector<float> whole(static_cast<std::size_t>(tensor.rows()) * cols), piece;
            std::vector<std::byte> scratch;
            source->read_rows(tensor, 0, tensor.rows(), whole.data(), scratch);
            for (const auto& [first, count] : {std::pair{0, 1}, {5, 7}, {15, 2}, {31, 1}}) {
                piece.assign(static_cast<std::size_t>(count) * cols, NAN);
                source->read_rows(tensor, first, count, piece.data(), scratch);
                CHECK(std::memcmp(piece.data(),
                                  whole.data() + static_cast<std::size_t>(first) * cols,
                                  piece.size() * sizeof(float)) == 0);
            }
        }
    }
}

TEST_CASE("imported checkpoints: logits agree with transformers, on every device and in GGUF") {
    Team team(2);
    TempDir directory;
    for (const Checkpoint& checkpoint : kCheckpoints) {
        CAPTURE(checkpoint.name);
        const auto golden = ModelFile::open(directory_of(checkpoint) + ".golden.safetensors");
        const auto prompt = read<std::int32_t>(*golden, "prompt.0");
        const auto wanted32 = read<float>(*golden, "logits.0");
        const std::vector<double> wanted(wanted32.begin(), wanted32.end());
        Runner reference(ModelSource::open(directory_of(checkpoint)), on(Device::kRef), team);
        CHECK(worst(reference.spec(), all_logits(reference, prompt), wanted) < 1);

        const std::string path = directory / "model.gguf";
        ModelCopy::as_packed_gguf(directory_of(checkpoint)).write_gguf(path);
        for (int level = 0; level <= static_cast<int>(best_isa()); ++level) {
            const RunnerOptions options = on(Device::kCpu, static_cast<Isa>(level));
            Runner runner(ModelSource::open(directory_of(checkpoint)), options, team);
            const auto logits = all_logits(runner, prompt);
            CHECK(worst(runner.spec(), logits, wanted) < 1);
            Runner again(ModelSource::open(path), options, team);
            CHECK(all_logits(again, prompt) == logits);
        }
    }
}

TEST_CASE("imported checkpoints: methods and options that are not known are refused by name") {
    TempDir directory;
    const std::string path = directory / "model";
    const auto refused = [&](const std::string& name, const char* key, Json value) {
        ModelCopy copy =
            ModelCopy::of_hf(std::string(THIMBLE_TESTS_DIR) + "/golden/import/" + name);
        Json config = *copy.config.find("quantization_config");
        config.set(key, std::move(value));
        copy.config.set("quantization_config", std::move(config));
        copy.write_hf(path);
        const Error e = error_of([&] { (void)ModelSource::open(path); });
        CAPTURE(e.what());
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where().find(std::string("quantization_config.") + key) != std::string::npos);
    };
    refused("gptq-4bit", "quant_method", "gptpq");
    refused("gptq-4bit", "bits", 5);
    refused("gptq-4bit", "checkpoint_format", "marlin");
    refused("gptq-4bit", "grop_size", 32);
    refused("awq", "version", "gemv");
    refused("bnb-nf4", "load_in_8bit", true);
    refused("bnb-nf4", "bnb_4bit_quant_storage", "bfloat16");
    refused("ct-int4", "format", "nvfp4-pack-quantized");
    refused("ct-int4", "kv_cache_scheme", parse_json("{\"num_bits\":8}", "test"));
}

TEST_CASE("imported checkpoints: tensors that do not fit together are refused") {
    TempDir directory;
    const std::string path = directory / "model";
    const auto refused = [&](const std::string& name, const std::string& tensor, auto&& spoil) {
        CAPTURE(name);
        CAPTURE(tensor);
        ModelCopy copy =
            ModelCopy::of_hf(std::string(THIMBLE_TESTS_DIR) + "/golden/import/" + name);
        spoil(copy, copy.index(tensor));
        copy.write_hf(path);
        const Error e = error_of([&] {
            Team team(1);
            Runner runner(ModelSource::open(path), on(Device::kRef), team);
        });
        CAPTURE(e.what());
        CHECK(e.exit() == Exit::kBadData);
    };
    const auto removed = [](ModelCopy& copy, std::size_t i) { copy.remove(i); };
    const auto retyped = [](ModelCopy& copy, std::size_t i) {
        copy.specs[i].type = TensorType::kF32;
    };
    const auto bad_index = [](ModelCopy& copy, std::size_t i) {
        const std::int32_t bad = 2;
        std::memcpy(copy.data[i].data(), &bad, sizeof bad);
    };
    const auto not_finite = [](ModelCopy& copy, std::size_t i) {
        std::fill(copy.data[i].begin(), copy.data[i].begin() + 4, std::byte{0xff});
    };
    const std::string up = "model.layers.0.mlp.up_proj.";
    refused("gptq-4bit", up + "qzeros", removed);
    refused("gptq-4bit", up + "qweight", retyped);
    refused("gptq-4bit", up + "scales", not_finite);
    refused("gptq-4bit-act-order", up + "g_idx", bad_index);
    refused("awq", up + "scales", removed);
    refused("bnb-nf4-nested", up + "weight.nested_absmax", removed);
    refused("bnb-nf4-nested", up + "weight.nested_absmax", not_finite);
    refused("bnb-nf4", up + "weight.absmax", not_finite);
    refused("bnb-nf4", up + "weight.quant_map", removed);
    refused("ct-int4", up + "weight_scale", removed);
}

TEST_CASE("planes in GGUF: what does not fit its description is refused") {
    TempDir directory;
    const std::string path = directory / "model.gguf";
    ModelCopy::as_packed_gguf(directory_of(kCheckpoints[1])).write_gguf(path);
    const std::string tensor = "blk.0.ffn_up.weight", key = std::string(kFormatKey) + tensor;
    const auto refused = [&](const char* from, const char* to) {
        CAPTURE(to);
        const auto file = ModelFile::open(path);
        ModelCopy copy;
        copy.metadata = file->metadata();
        for (const TensorEntry& entry : file->tensors()) {
            copy.specs.push_back({entry.name, entry.type, entry.dims});
            copy.data.push_back(read<std::byte>(*file, entry.name));
        }
        std::string text(*copy.metadata.find_string(key));
        const std::size_t at = text.find(from);
        REQUIRE(at != std::string::npos);
        text.replace(at, std::strlen(from), to);
        copy.metadata.set(key, text);
        const std::string bad = directory / "bad.gguf";
        copy.write_gguf(bad);
        const Error e = error_of([&] { (void)ModelSource::open(bad); });
        CAPTURE(e.what());
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where().find(key) != std::string::npos);
    };
    refused("affine", "afine");
    refused("affine", "nf4");
    refused("affine", "q8_0");
    refused("\"version\":1", "\"version\":2");
    refused("\"linear\":{}", "\"linear\":{\"permutation\":\"p\"}");
    refused("[128,64]", "[64,128]");
    refused("\"codes\"", "\"cods\"");
    refused("\"u8\"", "\"i16\"");
    refused("\"f16\"", "\"bf16\"");
    refused("\"shape\"", "\"shap\"");
}
