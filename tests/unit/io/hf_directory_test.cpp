// SPDX-License-Identifier: Apache-2.0
#include "io/hf_directory.h"

#include <doctest/doctest.h>

#include <filesystem>

#include "core/error.h"
#include "io/atomic_directory.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

const std::vector<TensorSpec> kSpecs = {{"a", TensorType::kI8, {40}}, {"b", TensorType::kI8, {8}}};

void fill(TensorWriter& writer) {
    writer.write(0, 0, std::vector<std::byte>(40, std::byte{1}));
    writer.write(1, 0, std::vector<std::byte>(8, std::byte{2}));
}

std::uint64_t bytes_in(const std::string& directory) {
    std::uint64_t sum = 0;
    for (const auto& entry : fs::directory_iterator(directory)) sum += entry.file_size();
    return sum;
}

Exit refusal(const std::string& path, IfExists if_exists) {
    try {
        const AtomicDirectory directory(path, if_exists);
        return Exit::kDone;
    } catch (const Error& e) {
        return e.exit();
    }
}

}  // namespace

TEST_CASE("hf directory: appears whole, of the size foretold, with the files beside the weights") {
    const TempDir dir;
    const std::vector<SideFile> sides = {side_file("config.json", "{}"),
                                         side_file("tokenizer.json", [](const TextSink& sink) {
                                             for (int i = 0; i < 30'000; ++i) sink("piece ");
                                         })};
    CHECK(total_bytes(sides) == 2 + 6 * 30'000);
    for (const std::uint64_t shard : {std::uint64_t{45}, std::uint64_t{1000}}) {
        CAPTURE(shard);
        const std::string path = dir / ("out" + std::to_string(shard));
        SafetensorsOptions options;
        options.max_shard_bytes = shard;
        const auto predicted = SafetensorsWriter::predict(path, kSpecs, options);
        {
            HfDirectoryWriter writer(path, kSpecs, sides, options);
            CHECK(writer.file_bytes() == predicted.file_bytes + total_bytes(sides));
            fill(writer);
            CHECK_FALSE(fs::exists(path));
            writer.finish();
        }
        CHECK(bytes_in(path) == predicted.file_bytes + total_bytes(sides));
        CHECK_FALSE(fs::exists(path + ".partial"));
        CHECK(slurp(path + "/config.json") == "{}");
        CHECK(slurp(path + "/tokenizer.json").substr(179'990) == "ece piece ");
        const auto file = ModelFile::open(path);
        CHECK(file->files().size() == predicted.shards.size());
        CHECK(predicted.shards.size() == (shard == 45 ? 2 : 1));
        std::vector<std::byte> bytes(8);
        file->read(file->get("b"), 0, bytes);
        CHECK(bytes[7] == std::byte{2});
    }
}

TEST_CASE("hf directory: unfinished work leaves nothing") {
    const TempDir dir;
    {
        HfDirectoryWriter writer(dir / "out", kSpecs, {side_file("x.json", "{}")}, {});
        CHECK(dir.entries() == 1);
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    CHECK(dir.entries() == 0);
    const SideFile liar{"x.json", 5, [](const TextSink& sink) { sink("four"); }};
    CHECK_THROWS_AS(HfDirectoryWriter(dir / "out", kSpecs, {liar}, {}), Error);
    CHECK(dir.entries() == 0);
}

TEST_CASE("hf directory: a filled directory is kept, or replaced when only a model is in it") {
    const TempDir dir;
    const std::string path = dir / "out";
    fs::create_directory(path);
    CHECK(refusal(path, IfExists::kRefuse) == Exit::kDone);  // empty
    spew(path + "/old.json", "old");
    CHECK(refusal(path, IfExists::kRefuse) == Exit::kCannotCreate);
    SafetensorsOptions options;
    options.if_exists = IfExists::kReplace;
    {
        HfDirectoryWriter writer(path + "/", kSpecs, {side_file("config.json", "{}")}, options);
        fill(writer);
        CHECK(slurp(path + "/old.json") == "old");
        writer.finish();
    }
    CHECK_FALSE(fs::exists(path + "/old.json"));
    CHECK(fs::exists(path + "/config.json"));
    CHECK(dir.entries() == 1);
    spew(path + "/thesis.tex", "years of work");
    CHECK(refusal(path, IfExists::kReplace) == Exit::kCannotCreate);
    fs::remove(path + "/thesis.tex");
    fs::create_directory(path + "/sub");
    CHECK(refusal(path, IfExists::kReplace) == Exit::kCannotCreate);
    spew(dir / "file", "x");
    CHECK(refusal(dir / "file", IfExists::kReplace) == Exit::kCannotCreate);
    CHECK(dir.entries() == 2);
}

TEST_CASE("hf directory: the rest of a killed run is taken over, two writers are told apart") {
    const TempDir dir;
    fs::create_directory(dir / "out.partial");
    spew(dir / "out.partial/model.safetensors.partial", "half");
    {
        const AtomicDirectory one(dir / "out", IfExists::kRefuse);
        CHECK(fs::is_empty(dir / "out.partial"));
        CHECK(refusal(dir / "out", IfExists::kRefuse) == Exit::kCannotCreate);
        CHECK(fs::exists(dir / "out.partial"));
    }
    CHECK(dir.entries() == 0);
}

TEST_CASE("hf directory: weights, indexes and hidden files are not among the side files") {
    const TempDir dir;
    for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json",
                             "pytorch_model.bin", ".hidden", "tokenizer.model"}) {
        spew(dir / name, std::string(5000, name[0]));
    }
    fs::create_directory(dir / "original");
    const auto sides = side_files_of(dir.path());
    REQUIRE(sides.size() == 2);
    CHECK(sides[0].name == "config.json");
    CHECK(sides[1].name == "tokenizer.model");
    std::string text;
    sides[1].write([&](std::string_view piece) { text += piece; });
    CHECK(text == std::string(5000, 't'));
}
