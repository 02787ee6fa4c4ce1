// SPDX-License-Identifier: Apache-2.0
// Adapters as files: what PEFT wrote (scripts/make_golden_adapter.py) comes back as it was from
// either container, whatever container the model is in, and nothing damaged or foreign is taken.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "core/error.h"
#include "io/gguf_writer.h"
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
