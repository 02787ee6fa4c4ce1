// SPDX-License-Identifier: Apache-2.0
// Adapters as files: what PEFT wrote (scripts/make_golden_adapter.py) comes back as it was from
// either container, whatever container the model is in, and nothing damaged or foreign is taken.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "io/safetensors_writer.h"
#include "model/adapter.h"
#include "tests/support/golden_adapter.h"
#include "tests/support/golden_model.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

struct Loaded {
    Loaded(const std::string& path, const ModelSource& source)
        : file(path, source), memory(file.value_bytes(), Purpose::kWeights) {
        adapter = file.read(memory.data());
    }
    AdapterFile file;
    Buffer memory;
    Adapter adapter;
};

std::vector<float> values(const float* data, std::int64_t count) {
    return data == nullptr ? std::vector<float>() : std::vector<float>(data, data + count);
}

void check_same(const Adapter& a, const Adapter& b) {
    CHECK(a.settings.rslora == b.settings.rslora);
    CHECK(a.settings.dora == b.settings.dora);
    CHECK(a.settings.base_model == b.settings.base_model);
    REQUIRE(a.matrices.size() == b.matrices.size());
    for (std::size_t i = 0; i < a.matrices.size(); ++i) {
        const AdapterMatrix &m = a.matrices[i], &n = b.matrices[i];
        CAPTURE(m.tensor->name);
        CHECK(m.tensor->name == n.tensor->name);
        CHECK(m.rank == n.rank);
        CHECK(m.alpha == n.alpha);
        CHECK(values(m.a, m.rank * m.in()) == values(n.a, m.rank * m.in()));
        CHECK(values(m.b, m.rank * m.out()) == values(n.b, m.rank * m.out()));
        CHECK(values(m.lengths, m.out()) == values(n.lengths, m.out()));
    }
}

// Name, shape and bytes of every tensor.
std::map<std::string, std::pair<std::vector<std::uint64_t>, std::vector<std::byte>>> tensors_of(
    const std::string& path) {
    const auto file = ModelFile::open(path);
    std::map<std::string, std::pair<std::vector<std::uint64_t>, std::vector<std::byte>>> out;
    for (const TensorEntry& entry : file->tensors()) {
        auto& [dims, bytes] = out[entry.name];
        dims = entry.dims;
        bytes.resize(entry.bytes);
        file->read(entry, 0, bytes);
    }
    return out;
}

std::string gguf_of(const test::GoldenAdapter& golden, const test::TempDir& dir) {
    const std::string path = dir / "model.gguf";
    test::ModelCopy::as_gguf(golden.model->directory, "f32").write_gguf(path);
    return path;
}

}  // namespace

TEST_CASE(
    "adapter: read and written again, PEFT's tensors are the same bytes under both containers") {
    for (const test::GoldenAdapter& golden : test::golden_adapters()) {
        CAPTURE(golden.name);
        const test::TempDir dir;
        for (const std::string& model : {golden.model->directory, gguf_of(golden, dir)}) {
            CAPTURE(model);
            const auto source = ModelSource::open(model);
            const Loaded loaded(golden.directory, *source);
            CHECK(loaded.adapter.settings.base_model == golden.model->name);
            write_peft(dir / "again", *source, loaded.adapter, {.if_exists = IfExists::kReplace});
            CHECK(tensors_of(dir / "again/adapter_model.safetensors") ==
                  tensors_of(golden.directory + "/adapter_model.safetensors"));
            const Loaded again(dir / "again", *source);
            check_same(loaded.adapter, again.adapter);
        }
    }
}

TEST_CASE(
    "adapter: a GGUF adapter holds the same terms, a scale by rank's root too, but not DoRA") {
    for (const test::GoldenAdapter& golden : test::golden_adapters()) {
        CAPTURE(golden.name);
        const test::TempDir dir;
        const auto source = ModelSource::open(golden.model->directory);
        const Loaded loaded(golden.directory, *source);
        const std::string path = dir / "adapter.gguf";
        if (loaded.adapter.settings.dora) {
            CHECK_THROWS_WITH_AS(write_gguf_adapter(path, *source, loaded.adapter, {}),
                                 doctest::Contains("write a PEFT directory, or merge"), Error);
            CHECK(dir.entries() == 0);
            continue;
        }
        write_gguf_adapter(path, *source, loaded.adapter, {});
        const Loaded again(path, *source);
        CHECK(again.adapter.settings.base_model == golden.model->name);
        REQUIRE(again.adapter.matrices.size() == loaded.adapter.matrices.size());
        for (std::size_t i = 0; i < loaded.adapter.matrices.size(); ++i) {
            const AdapterMatrix &m = loaded.adapter.matrices[i], &n = again.adapter.matrices[i];
            CAPTURE(m.tensor->name);
            CHECK(m.tensor == n.tensor);
            CHECK(values(m.a, m.rank * m.in()) == values(n.a, m.rank * m.in()));
            const double was = adapter_scale(loaded.adapter.settings, m);
            const double is = adapter_scale(again.adapter.settings, n);
            double worst = 0;
            for (std::int64_t e = 0; e < m.out() * m.rank; ++e) {
                worst = std::max(worst, std::abs(was * static_cast<double>(m.b[e]) -
                                                 is * static_cast<double>(n.b[e])));
            }
            CHECK(worst < 1e-6);
        }
    }
}

TEST_CASE("adapter: terms stored as f16 and bf16 come back rounded") {
    const test::GoldenAdapter& golden = test::golden_adapter("rslora");
    const auto source = ModelSource::open(golden.model->directory);
    const Loaded loaded(golden.directory, *source);
    const test::TempDir dir;
    for (const auto& [type, epsilon] :
         {std::pair{TensorType::kF16, 0x1p-11}, std::pair{TensorType::kBF16, 0x1p-8}}) {
        write_peft(dir / "peft", *source, loaded.adapter,
                   {.type = type, .if_exists = IfExists::kReplace});
        write_gguf_adapter(dir / "adapter.gguf", *source, loaded.adapter,
                           {.type = type, .if_exists = IfExists::kReplace});
        for (const std::string& path : {dir / "peft", dir / "adapter.gguf"}) {
            const Loaded again(path, *source);
            for (std::size_t i = 0; i < loaded.adapter.matrices.size(); ++i) {
                const AdapterMatrix &m = loaded.adapter.matrices[i], &n = again.adapter.matrices[i];
                double worst = 0, changed = 0;
                for (std::int64_t e = 0; e < m.rank * m.in(); ++e) {
                    const auto was = static_cast<double>(m.a[e]), is = static_cast<double>(n.a[e]);
                    worst = std::max(worst, std::abs(was - is) - 1e-7 - epsilon * std::abs(was));
                    changed += was != is ? 1 : 0;
                }
                CHECK(worst <= 0);
                CHECK(changed > 0);
            }
        }
    }
}

namespace {

// The adapter as JSON and tensors, to be spoiled.
struct Spoiled {
    Json config;
    std::vector<TensorSpec> specs;
    std::vector<std::vector<std::byte>> data;

    explicit Spoiled(const std::string& directory)
        : config(read_json_file(directory + "/adapter_config.json")) {
        const auto file = ModelFile::open(directory + "/adapter_model.safetensors");
        for (const TensorEntry& entry : file->tensors()) {
            specs.push_back({entry.name, entry.type, entry.dims});
            file->read(entry, 0, data.emplace_back(entry.bytes));
        }
    }
    void write(const std::string& directory) const {
        std::filesystem::remove_all(directory);
        std::filesystem::create_directory(directory);
        test::spew(directory + "/adapter_config.json", config.dump());
        SafetensorsWriter writer(directory + "/adapter_model.safetensors", specs, {});
        for (std::size_t i = 0; i < specs.size(); ++i) writer.write(i, 0, data[i]);
        writer.finish();
    }
};

// The error of reading it: bad data in one line that names it; empty when there is none.
std::string refusal(const std::string& path, const ModelSource& source) {
    try {
        (void)Loaded(path, source);
    } catch (const Error& e) {
        const std::string text = e.what();
        CHECK_MESSAGE(e.exit() == Exit::kBadData, text);
        CHECK(text.find('\n') == std::string::npos);
        CHECK_MESSAGE(text.find(path) != std::string::npos, text);
        return text;
    }
    return {};
}

bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("adapter: each missing, misshapen, doubled or unknown tensor is named") {
    for (const char* name : {"rslora", "dora-gemma"}) {
        const test::GoldenAdapter& golden = test::golden_adapter(name);
        const auto source = ModelSource::open(golden.model->directory);
        const Spoiled good(golden.directory);
        const test::TempDir dir;
        const std::string path = dir / "adapter";
        good.write(path);
        CHECK(refusal(path, *source) == "");
        for (std::size_t i = 0; i < good.specs.size(); ++i) {
            const std::string tensor = good.specs[i].name;
            CAPTURE(tensor);
            Spoiled bad = good;
            bad.specs.erase(bad.specs.begin() + static_cast<std::ptrdiff_t>(i));
            bad.data.erase(bad.data.begin() + static_cast<std::ptrdiff_t>(i));
            bad.write(path);
            CHECK(refusal(path, *source) != "");

            bad = good;
            bad.specs[i].dims[0] += 1;
            bad.data[i].resize(bad.data[i].size() / good.specs[i].dims[0] * bad.specs[i].dims[0]);
            bad.write(path);
            CHECK(refusal(path, *source) != "");

            bad = good;
            bad.specs[i].dims.push_back(1);
            bad.write(path);
            CHECK(mentions(refusal(path, *source), tensor));

            bad = good;
            bad.specs[i].type = TensorType::kI32;
            bad.write(path);
            CHECK(mentions(refusal(path, *source), tensor));

            bad = good;
            const float none = NAN;
            std::memcpy(bad.data[i].data() + bad.data[i].size() - sizeof(none), &none,
                        sizeof(none));
            bad.write(path);
            CHECK(mentions(refusal(path, *source), tensor));

            bad = good;
            bad.specs[i].name = "base_model.model.model.layers.99." + tensor.substr(37);
            bad.write(path);
            CHECK(mentions(refusal(path, *source), "mismatched adapter"));
        }
        Spoiled bad = good;
        bad.specs[0].name = "base_model.model.model.embed_tokens.lora_embedding_A";
        bad.write(path);
        CHECK(mentions(refusal(path, *source), "adapters of the embedding"));
        bad.specs[0].name = "base_model.model.model.norm.modules_to_save.weight";
        bad.write(path);
        CHECK(mentions(refusal(path, *source), "is no low-rank term"));
        bad.specs[0].name = "base_model.model.lm_head.lora_A.weight";
        bad.write(path);
        CHECK(mentions(refusal(path, *source), "the head of this model is its embedding"));
        bad = good;
        bad.specs.push_back(bad.specs[0]);
        bad.data.push_back(bad.data[0]);
        const std::size_t at = bad.specs[0].name.rfind(".weight");
        bad.specs.back().name = bad.specs[0].name.substr(0, at) + ".default.weight";
        if (at != std::string::npos) {
            bad.write(path);
            CHECK(mentions(refusal(path, *source), "are the same term"));
        }
    }
}

TEST_CASE("adapter: what a config asks for and we have not is refused, not passed over") {
    const test::GoldenAdapter& golden = test::golden_adapter("lora");
    const auto source = ModelSource::open(golden.model->directory);
    const Spoiled good(golden.directory);
    const test::TempDir dir;
    const std::string path = dir / "adapter";
    const auto with = [&](const char* key, Json value) {
        Spoiled bad = good;
        bad.config.set(key, std::move(value));
        bad.write(path);
        return refusal(path, *source);
    };
    CHECK(mentions(with("peft_type", "IA3"), "'peft_type'"));
    CHECK(mentions(with("bias", "all"), "'bias'"));
    CHECK(mentions(with("fan_in_fan_out", true), "'fan_in_fan_out'"));
    CHECK(mentions(with("modules_to_save", JsonArray{"lm_head"}), "'modules_to_save'"));
    CHECK(mentions(with("init_lora_weights", "pissa_niter_4"), "'init_lora_weights'"));
    CHECK(with("init_lora_weights", "gaussian") == "");
    CHECK(mentions(with("use_dora", true), "which DoRA needs"));
    CHECK(mentions(with("r", 4), "have rank 3, the config says 4"));
    CHECK(mentions(with("rank_pattern", Json::object()), "have rank 2, the config says 3"));
    Json pattern = Json::object();
    pattern.set(".*q_proj", 2);
    CHECK(mentions(with("rank_pattern", pattern), "is a pattern"));
    CHECK(with("layers_pattern", "layers") == "");

    const Json odd[] = {Json(),
                        Json(0),
                        Json(-1),
                        Json(1e300),
                        Json(2.5),
                        "text",
                        Json(true),
                        Json(INT64_MAX),
                        Json::array(),
                        Json::object(),
                        JsonArray{Json::object()}};
    for (const auto& [key, value] : good.config.as_members("config")) {
        CAPTURE(key);
        for (const Json& one : odd) {
            const std::string text = with(key.c_str(), one);
            if (!text.empty()) CHECK_MESSAGE(mentions(text, ": "), text);
        }
    }
}

TEST_CASE("adapter: a GGUF adapter cut anywhere, or of another kind or model, is refused") {
    const test::GoldenAdapter& golden = test::golden_adapter("lora-layer");
    const auto source = ModelSource::open(golden.model->directory);
    const Loaded loaded(golden.directory, *source);
    const test::TempDir dir;
    const std::string path = dir / "adapter.gguf";
    write_gguf_adapter(path, *source, loaded.adapter, {});
    const std::string whole = test::slurp(path);
    for (std::size_t end = 0; end < whole.size(); end += end < 640 ? 1 : 97) {
        std::filesystem::remove(path);
        test::spew(path, std::string_view(whole).substr(0, end));
        CHECK(refusal(path, *source) != "");
    }
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string bytes = whole;
        bytes.replace(bytes.find(from), from.size(), to);
        std::filesystem::remove(path);
        test::spew(path, bytes);
        return refusal(path, *source);
    };
    CHECK(mentions(with("gemma3", "gemma2"), "mismatched adapter"));
    CHECK(mentions(with("adapter.type", "adapter.tYpe"), "'adapter.type' is missing"));
    CHECK(mentions(with("lora_a", "lora_c"), "is no low-rank term"));
    CHECK(mentions(with("blk.2.attn_q", "blk.9.attn_q"), "mismatched adapter"));
}
