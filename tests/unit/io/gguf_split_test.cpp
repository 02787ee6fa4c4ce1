// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_split.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

Metadata some_metadata() {
    Metadata m;
    m.set("general.architecture", std::string("none-we-know"));
    m.set("none-we-know.width", std::uint32_t{7});
    return m;
}

// Tensors of these many bytes.
std::vector<TensorSpec> tensors_of(std::initializer_list<std::uint64_t> bytes) {
    std::vector<TensorSpec> specs;
    for (const std::uint64_t n : bytes)
        specs.push_back({"t" + std::to_string(specs.size()), TensorType::kI8, {n}});
    return specs;
}

std::vector<std::size_t> counts(const GgufParts& parts) {
    std::vector<std::size_t> out;
    for (const GgufParts::Part& part : parts.parts) out.push_back(part.tensors.size());
    return out;
}

std::vector<std::byte> contents(std::size_t tensor, std::size_t bytes) {
    std::vector<std::byte> out(bytes);
    for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(i * 31 + tensor);
    return out;
}

void fill(TensorWriter& writer, const std::vector<TensorSpec>& specs) {
    for (std::size_t i = 0; i < specs.size(); ++i)
        writer.write(i, 0, contents(i, specs[i].dims[0]));
}

using Counts = std::vector<std::size_t>;

}  // namespace

TEST_CASE("gguf split: a file takes tensors up to the size, padding counted, or to the number") {
    const Metadata m = some_metadata();
    const auto specs = tensors_of({64, 33, 64, 200, 1, 1, 1});
    CHECK(counts({"p", m, specs, {.max_bytes = 128}}) == Counts{2, 1, 1, 3});  // 33 is padded to 64
    CHECK(counts({"p", m, specs, {.max_bytes = 127}}) == Counts{1, 1, 1, 1, 3});
    CHECK(counts({"p", m, specs, {.max_bytes = 100'000}}) == Counts{7});
    CHECK(counts({"p", m, specs, {.max_tensors = 3}}) == Counts{3, 3, 1});
    CHECK(counts({"p", m, specs, {.max_bytes = 128, .max_tensors = 2}}) == Counts{2, 1, 1, 2, 1});
    CHECK(counts({"p", m, specs, {.max_tensors = 4, .empty_first = true}}) == Counts{0, 4, 3});
    CHECK(counts({"p", m, {}, {.max_tensors = 4}}) == Counts{0});
    CHECK(gguf_part_path("a/b", 3, 12) == "a/b-00003-of-00012.gguf");
    std::vector<TensorSpec> many(GgufParts::kMost + 1, specs[0]);
    for (std::size_t i = 0; i < many.size(); ++i) many[i].name += std::to_string(i);
    CHECK_THROWS_AS((void)GgufParts("p", m, many, {.max_tensors = 1}), Error);
}

TEST_CASE("gguf split: the first file has every key, each has the three of its own, in order") {
    Metadata m = some_metadata();
    m.set("split.count", std::uint16_t{9});
    m.set("general.alignment", std::uint32_t{64});
    const GgufParts parts("p", m, tensors_of({10, 10}), {.max_tensors = 1});
    REQUIRE(parts.parts.size() == 2);
    const auto keys = [](const Metadata& metadata) {
        std::string out;
        for (const auto& [key, value] : metadata.entries()) out += key + ' ';
        return out;
    };
    CHECK(keys(parts.parts[0].metadata) ==
          "general.architecture none-we-know.width general.alignment split.no split.tensors.count "
          "split.count ");
    CHECK(keys(parts.parts[1].metadata) ==
          "general.alignment split.no split.tensors.count split.count ");
    for (const std::size_t i : {0U, 1U}) {
        const Metadata& part = parts.parts[i].metadata;
        CHECK(std::get<std::uint16_t>(*part.find("split.no")) == i);
        CHECK(std::get<std::uint16_t>(*part.find("split.count")) == 2);
        CHECK(std::get<std::int32_t>(*part.find("split.tensors.count")) == 2);
    }
}

TEST_CASE("gguf split: what is written is read as one model, of the size foretold") {
    const TempDir dir;
    const auto specs = tensors_of({64, 33, 64, 200, 1, 1, 1});
    const GgufParts parts(dir / "m", some_metadata(), specs, {.max_bytes = 128});
    {
        GgufSplitWriter writer(parts, IfExists::kRefuse);
        fill(writer, specs);
        CHECK(dir.entries() == 4);
        CHECK_FALSE(std::filesystem::exists(parts.parts[0].path));
        writer.finish();
        CHECK(writer.file_bytes() == parts.file_bytes());
    }
    CHECK(dir.entries() == 4);
    const auto file = ModelFile::open(parts.parts[0].path);
    CHECK(file->file_bytes() == parts.file_bytes());
    CHECK(file->metadata().entries().size() == 2);
    REQUIRE(file->tensors().size() == specs.size());
    for (std::size_t i = 0; i < specs.size(); ++i) {
        CHECK(file->tensors()[i].name == specs[i].name);
        std::vector<std::byte> bytes(specs[i].dims[0]);
        file->read(file->tensors()[i], 0, bytes);
        CHECK(bytes == contents(i, bytes.size()));
    }
}

TEST_CASE("gguf split: with bytes missing, or a file in the way, no file appears") {
    const TempDir dir;
    const auto specs = tensors_of({64, 64});
    const GgufParts parts(dir / "m", some_metadata(), specs, {.max_tensors = 1});
    {
        GgufSplitWriter writer(parts, IfExists::kRefuse);
        writer.write(1, 0, contents(1, 64));
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    CHECK(dir.entries() == 0);
    spew(parts.parts[1].path, "here");
    CHECK_THROWS_AS(GgufSplitWriter(parts, IfExists::kRefuse), Error);
    CHECK(dir.entries() == 1);
    CHECK(slurp(parts.parts[1].path) == "here");
}
