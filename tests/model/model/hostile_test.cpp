// SPDX-License-Identifier: Apache-2.0
// Spoiled models: every missing or misshapen tensor, every config value out of range and every
// non-finite weight is an error of kind "bad data" with one line that names the culprit.
#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using test::ModelCopy;

namespace {

// The error of opening (and loading) the model; empty when there is none.
std::string refusal(const std::string& path, bool load = false) {
    try {
        auto source = ModelSource::open(path);
        if (load) {
            Team team(2);
            const Runner runner(std::move(source), {}, team);
        }
    } catch (const Error& e) {
        CHECK_MESSAGE(e.exit() == Exit::kBadData, e.what());
        const std::string text = e.what();
        CHECK(text.find('\n') == std::string::npos);
        CHECK_MESSAGE(text.find(path) != std::string::npos, text);
        return text;
    }
    return {};
}

bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Removed first: some file systems flush a file that is cut and written again.
void write_config(const std::string& directory, const Json& config) {
    std::filesystem::remove(directory + "/config.json");
    test::spew(directory + "/config.json", config.dump());
}

const Json kOddValues[] = {Json(),
                           Json(0),
                           Json(-1),
                           Json(1),
                           Json(3),
                           Json(std::int64_t{1} << 31),
                           Json(std::numeric_limits<std::int64_t>::max()),
                           Json(1e300),
                           Json(-0.5),
                           Json("text"),
                           Json(true),
                           Json::array(),
                           Json::object()};

}  // namespace

TEST_CASE("hostile: each missing, shorter or unknown tensor is named") {
    for (const char* name : {"llama-tied", "gemma3-scaled"}) {
        const ModelCopy good = ModelCopy::of_hf(test::golden_model(name).directory);
        const test::TempDir dir;
        good.write_hf(dir.path());
        CHECK(refusal(dir.path()) == "");
        for (std::size_t i = 0; i < good.specs.size(); ++i) {
            const std::string tensor = good.specs[i].name;
            ModelCopy copy = good;
            copy.remove(i);
            copy.write_hf(dir.path());
            CHECK(mentions(refusal(dir.path()), "'" + tensor + "' is missing"));

            copy = good;
            copy.specs[i].dims[0] -= 1;
            copy.data[i].resize(copy.data[i].size() / good.specs[i].dims[0] *
                                copy.specs[i].dims[0]);
            copy.write_hf(dir.path());
            CHECK(mentions(refusal(dir.path()), tensor));

            copy = good;
            copy.specs[i].dims.push_back(1);
            copy.write_hf(dir.path());
            CHECK(mentions(refusal(dir.path()), tensor));

            copy = good;
            copy.specs[i].type = TensorType::kI16;
            copy.data[i].resize(copy.data[i].size() /
                                (good.specs[i].type == TensorType::kF32 ? 2 : 1));
            copy.write_hf(dir.path());
            CHECK(mentions(refusal(dir.path()), tensor));
        }
        ModelCopy copy = good;
        copy.specs.push_back({"model.layers.0.self_attn.sinks", TensorType::kF32, {1}});
        copy.data.emplace_back(4);
        copy.write_hf(dir.path());
        CHECK(mentions(refusal(dir.path()), "self_attn.sinks"));
    }
}

TEST_CASE("hostile: no value of any config.json key gets past the checks with a fault") {
    for (const auto& golden : test::golden_models()) {
        const ModelCopy good = ModelCopy::of_hf(golden.directory);
        const test::TempDir dir;
        good.write_hf(dir.path());
        for (const auto& [key, value] : good.config.as_members("config")) {
            for (const Json& odd : kOddValues) {
                Json config = good.config;
                config.set(key, odd);
                write_config(dir.path(), config);
                const std::string text = refusal(dir.path());
                if (!text.empty()) CHECK_MESSAGE(mentions(text, ": "), text);
            }
        }
        for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                                "num_key_value_heads", "intermediate_size", "vocab_size"}) {
            for (const Json& odd : {Json(0), Json(-1), Json(7), Json(1 << 20), Json("4")}) {
                Json config = good.config;
                config.set(key, odd);
                if (config.find(key)->dump() == good.config.find(key)->dump()) continue;
                write_config(dir.path(), config);
                INFO(golden.name, ' ', key, ' ', odd.dump());
                CHECK(refusal(dir.path()) != "");
            }
        }
    }
}

TEST_CASE("hostile: no value of any GGUF key gets past the checks with a fault") {
    const std::vector<MetaValue> odd_values = {
        std::uint32_t{0},
        std::int32_t{-1},
        std::uint32_t{1},
        std::uint64_t{1} << 63,
        std::uint8_t{3},
        1e30F,
        std::numeric_limits<float>::quiet_NaN(),
        -1.0,
        std::string("x"),
        true,
        std::int64_t{1} << 40,
        std::make_shared<const MetaArray>(MetaArray{std::vector<std::uint8_t>{1, 0}, true}),
        std::make_shared<const MetaArray>(MetaArray{std::vector<float>{}, false}),
        std::make_shared<const MetaArray>(MetaArray{std::vector<float>{1, 2}, false}),
        std::make_shared<const MetaArray>(MetaArray{std::vector<std::int32_t>{4, 2}, false}),
        std::make_shared<const MetaArray>(
            MetaArray{std::vector<std::uint64_t>{std::uint64_t{1} << 63, 2}, false})};
    for (const char* model : {"llama3-rope", "gemma3-scaled"}) {
        const auto& golden = test::golden_model(model);
        const test::TempDir dir;
        const std::string path = dir / "model.gguf";
        const ModelCopy good = ModelCopy::as_gguf(golden.directory, "f32");
        good.write_gguf(path);
        CHECK(refusal(path) == "");
        const std::string prefix = std::string(good.metadata.get_string("general.architecture"));
        std::vector<std::string> keys = {prefix + ".attention.scale", prefix + ".rope.scaling.type",
                                         prefix + ".rope.scaling.factor",
                                         prefix + ".attention.sliding_window_pattern",
                                         prefix + ".expert_count"};
        for (const auto& [key, value] : good.metadata.entries()) keys.push_back(key);
        for (const std::string& key : keys) {
            for (const MetaValue& odd : odd_values) {
                ModelCopy copy = good;
                copy.metadata.set(key, odd);
                copy.write_gguf(path);
                INFO(golden.name, ' ', key);
                (void)refusal(path);
            }
        }
        for (const char* key :
             {"block_count", "embedding_length", "attention.head_count", "context_length",
              "feed_forward_length", "attention.layer_norm_rms_epsilon"}) {
            ModelCopy copy = good;
            copy.metadata.erase(prefix + "." + key);
            copy.write_gguf(path);
            CHECK(mentions(refusal(path), std::string(key) + "' is missing"));
        }
    }
}

TEST_CASE("hostile: sizes of layers are as many as layers, in range, and those of the tensors") {
    const test::TempDir dir;
    const std::string path = dir / "model.gguf";
    const ModelCopy good = ModelCopy::as_gguf(test::golden_model("llama-untied").directory, "f32");
    const auto refused = [&](const char* key, MetaElements list, bool is_bool = false) {
        ModelCopy copy = good;
        copy.metadata.set(std::string("llama.") + key,
                          std::make_shared<const MetaArray>(MetaArray{std::move(list), is_bool}));
        copy.write_gguf(path);
        return refusal(path);
    };
    using Ints = std::vector<std::int32_t>;
    // What a number said, twice.
    CHECK(refused("feed_forward_length", Ints{80, 80}) == "");
    CHECK(refused("attention.head_count", Ints{6, 6}) == "");
    CHECK(refused("attention.head_count_kv", std::vector<std::uint64_t>{2, 2}) == "");
    CHECK(mentions(refused("feed_forward_length", Ints{80}), "lists 1 layers, expected 2"));
    CHECK(mentions(refused("feed_forward_length", Ints{80, 80, 80}), "lists 3 layers"));
    CHECK(mentions(refused("feed_forward_length", Ints{}), "array of integers"));
    CHECK(
        mentions(refused("feed_forward_length", std::vector<float>{80, 80}), "array of integers"));
    CHECK(mentions(refused("feed_forward_length", std::vector<std::uint8_t>{1, 1}, true),
                   "array of integers"));
    CHECK(mentions(refused("feed_forward_length", Ints{80, 0}), "is 0, expected 1 to"));
    CHECK(mentions(refused("feed_forward_length", Ints{-80, 80}), "is -80, expected 1 to"));
    CHECK(mentions(
        refused("feed_forward_length", std::vector<std::uint64_t>{80, std::uint64_t{1} << 63}),
        "expected 1 to"));
    CHECK(mentions(refused("feed_forward_length", Ints{80, 64}), "blk.1.ffn_gate.weight"));
    CHECK(mentions(refused("attention.head_count", Ints{6, 4}), "blk.1.attn_q.weight"));
    CHECK(mentions(refused("attention.head_count_kv", Ints{2, 4}), "expected a divisor of the 6"));
    CHECK(mentions(refused("attention.head_count_kv", Ints{1, 2}), "blk.0.attn_k.weight"));
    CHECK(mentions(refused("block_count", Ints{2, 2}), "block_count"));
}

TEST_CASE("hostile: architectures and features that are not supported are named") {
    const test::TempDir dir;
    ModelCopy copy = ModelCopy::of_hf(test::golden_model("llama3-rope").directory);
    copy.write_hf(dir.path());
    const auto with = [&](const std::string& key, Json value) {
        Json config = copy.config;
        config.set(key, std::move(value));
        write_config(dir.path(), config);
        return refusal(dir.path());
    };
    CHECK(mentions(with("model_type", "lama"), "did you mean 'llama'"));
    CHECK(mentions(with("hidden_act", "gelu"), "'gelu'"));
    Json bits = Json::object();
    bits.set("bits", 4);
    CHECK(mentions(with("quantization_config", bits), "quant_method': '' is not supported"));
    CHECK(mentions(with("quantization_config", 4), "expected an object"));
    const auto with_rope = [&](const std::string& key, Json value) {
        Json rope = *copy.config.find("rope_parameters");
        rope.set(key, std::move(value));
        return with("rope_parameters", rope);
    };
    CHECK(mentions(with_rope("rope_type", "yarn"), "'yarn'"));
    CHECK(mentions(with_rope("high_freq_factor", 1.0), "high_freq_factor"));
    CHECK(mentions(with_rope("factor", 0), "factor"));
    CHECK(mentions(with("rope_parameters", 7), "rope_parameters"));
    CHECK(with("architectures", Json()) == "");
}

TEST_CASE("hostile: a weight that is not a finite number is refused at load, by name") {
    const test::TempDir dir;
    const ModelCopy hf = ModelCopy::of_hf(test::golden_model("llama-untied").directory);
    for (std::size_t i = 0; i < hf.specs.size(); ++i) {
        for (const float value :
             {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
            ModelCopy copy = hf;
            std::memcpy(copy.data[i].data() + copy.data[i].size() - sizeof value, &value,
                        sizeof value);
            copy.write_hf(dir.path());
            CHECK(refusal(dir.path(), true) != "");
        }
    }
    const std::string path = dir / "packed.gguf";
    const ModelCopy packed = ModelCopy::as_gguf(test::golden_model("llama-tied").directory, "q8_0");
    packed.write_gguf(path);
    CHECK(refusal(path, true) == "");
    for (std::size_t i = 0; i < packed.specs.size(); ++i) {
        if (packed.specs[i].type != TensorType::kQ8_0) continue;
        ModelCopy copy = packed;
        const std::uint16_t infinite = 0x7c00;  // the last block's scale
        std::memcpy(copy.data[i].data() + copy.data[i].size() - 34, &infinite, sizeof infinite);
        copy.write_gguf(path);
        CHECK(mentions(refusal(path, true), packed.specs[i].name));
    }
    ModelCopy copy = ModelCopy::as_gguf(test::golden_model("llama3-rope").directory, "f32");
    for (const float value : {0.0F, -1.0F, std::numeric_limits<float>::quiet_NaN()}) {
        std::memcpy(copy.data[copy.index("rope_freqs.weight")].data(), &value, sizeof value);
        copy.write_gguf(path);
        CHECK(mentions(refusal(path), "rope_freqs.weight"));
    }
}
