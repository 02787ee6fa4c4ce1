// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <algorithm>

#include "core/error.h"
#include "io/model_file.h"
#include "io/safetensors_writer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::vector<TensorSpec> kTensors = {
    {"u8", TensorType::kU8, {3}},       {"f32", TensorType::kF32, {5, 7}},
    {"none", TensorType::kI64, {0, 7}}, {"bf16", TensorType::kBF16, {1, 3, 5}},
    {"scalar", TensorType::kF64, {}},   {"f8", TensorType::kF8_E5M2, {9}}};

std::vector<std::byte> contents(std::size_t tensor) {
    std::vector<std::byte> bytes(*tensor_bytes(kTensors[tensor].type, kTensors[tensor].dims));
    for (std::size_t b = 0; b < bytes.size(); ++b)
        bytes[b] = static_cast<std::byte>(tensor * 31 + b);
    return bytes;
}

void write_all(const std::string& path, const SafetensorsOptions& options) {
    SafetensorsWriter writer(path, kTensors, options);
    for (std::size_t i = kTensors.size(); i-- > 0;) writer.write(i, 0, contents(i));
    writer.finish();
}

void check_all(const ModelFile& file) {
    REQUIRE(file.tensors().size() == kTensors.size());
    CHECK(file.container() == Container::kHuggingFace);
    CHECK(file.metadata().entries().empty());
    for (std::size_t i = 0; i < kTensors.size(); ++i) {
        CAPTURE(kTensors[i].name);
        const TensorEntry& entry = file.get(kTensors[i].name);
        CHECK(entry.type == kTensors[i].type);
        CHECK(entry.dims == kTensors[i].dims);
        std::vector<std::byte> bytes(entry.bytes);
        file.read(entry, 0, bytes);
        CHECK(bytes == contents(i));
        CHECK(entry.offset % find_tensor_type(entry.type)->block_bytes == 0);
    }
}

}  // namespace

TEST_CASE("safetensors: single file and directory round trip") {
    const TempDir dir;
    write_all(dir / "a.safetensors", {});
    check_all(*ModelFile::open(dir / "a.safetensors"));
    CHECK(ModelFile::open(dir / "a.safetensors")->config().is_null());
    spew(dir / "config.json", R"({"model_type":"llama"})");
    CHECK(ModelFile::open(dir / "a.safetensors")->config().is_object());

    write_all(dir / "model", {});
    CHECK(slurp(dir / "model/model.safetensors") == slurp(dir / "a.safetensors"));
    spew(dir / "model/config.json", R"({"model_type":"llama"})");
    const auto file = ModelFile::open(dir / "model");
    check_all(*file);
    CHECK(file->config().find("model_type")->as_string("") == "llama");
    CHECK(file->files() == std::vector<std::string>{dir / "model/model.safetensors"});
}

TEST_CASE("safetensors: shards by size, with an index") {
    const TempDir dir;
    for (const std::uint64_t limit : {1u, 30u, 145u, 165u}) {
        CAPTURE(limit);
        SafetensorsOptions options;
        options.max_shard_bytes = limit;
        const std::string path = dir / std::to_string(limit);
        write_all(path, options);
        spew(path + "/config.json", "{}");
        const auto file = ModelFile::open(path);
        check_all(*file);
        CHECK(file->files().size() == (limit == 1 ? 5 : limit == 30 ? 4 : 2));
        const Json index = read_json_file(path + "/model.safetensors.index.json");
        CHECK(index.find("metadata")->find("total_size")->as_int("") == 3 + 140 + 30 + 8 + 9);
    }
    // A single file would win over the shards when the directory is opened.
    write_all(dir / "190", {});
    SafetensorsOptions options;
    options.max_shard_bytes = 30;
    CHECK_THROWS_AS(write_all(dir / "190", options), Error);
}

TEST_CASE("safetensors writer: nothing is left when it is not finished") {
    const TempDir dir;
    SafetensorsOptions options;
    for (const std::uint64_t limit : {30u, 1000u}) {
        options.max_shard_bytes = limit;
        { const SafetensorsWriter writer(dir / "model", kTensors, options); }
        CHECK(dir.entries() == 0);
        {
            SafetensorsWriter writer(dir / "model", kTensors, options);
            writer.write(0, 0, contents(0));
            CHECK_THROWS_AS(writer.finish(), Error);
            CHECK_THROWS_AS(writer.write(0, 1, contents(0)), Error);
        }
        CHECK(dir.entries() == 0);
    }
    for (const TensorSpec& bad : std::vector<TensorSpec>{{"", TensorType::kF32, {1}},
                                                         {"__metadata__", TensorType::kF32, {1}},
                                                         {"q", TensorType::kQ4_0, {32}},
                                                         {"big", TensorType::kF32, {1ull << 62}}}) {
        CAPTURE(bad.name);
        CHECK_THROWS_AS(SafetensorsWriter(dir / "a.safetensors", {bad}, options), Error);
    }
    CHECK_THROWS_AS(SafetensorsWriter(dir / "a.safetensors", {kTensors[0], kTensors[0]}, options),
                    Error);
    CHECK(dir.entries() == 0);
}
