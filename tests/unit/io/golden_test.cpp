// SPDX-License-Identifier: Apache-2.0
// Files written by the formats' own packages (scripts/make_golden_io.py) are read as they meant.
#include <doctest/doctest.h>

#include <algorithm>

#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::string golden(const std::string& name) {
    return std::string(THIMBLE_TESTS_DIR) + "/golden/io/" + name;
}

std::vector<TensorSpec> specs_of(const ModelFile& file) {
    std::vector<TensorSpec> specs;
    for (const TensorEntry& t : file.tensors()) specs.push_back({t.name, t.type, t.dims});
    return specs;
}

void check_pattern(const ModelFile& file, const TensorEntry& entry, std::size_t number) {
    CAPTURE(entry.name);
    std::vector<std::byte> bytes(entry.bytes), expected(entry.bytes);
    file.read(entry, 0, bytes);
    for (std::size_t b = 0; b < bytes.size(); ++b) {
        const std::size_t value = (31 * number + b) % 256;
        expected[b] = static_cast<std::byte>(entry.type == TensorType::kBool ? value % 2 : value);
    }
    CHECK(bytes == expected);
}

template <class Writer>
void copy_tensors(ModelFile& file, Writer& writer) {
    for (std::size_t i = 0; i < file.tensors().size(); ++i)
        writer.write(i, 0, file.map(file.tensors()[i]));
    writer.finish();
}

}  // namespace

TEST_CASE("golden gguf: values, tensors, and a byte-identical rewrite") {
    const auto file = ModelFile::open(golden("every_type.gguf"));
    const Metadata& m = file->metadata();
    CHECK(std::get<std::uint8_t>(*m.find("t.u8")) == 200);
    CHECK(std::get<std::int8_t>(*m.find("t.i8")) == -100);
    CHECK(std::get<std::uint16_t>(*m.find("t.u16")) == 60000);
    CHECK(std::get<std::int16_t>(*m.find("t.i16")) == -30000);
    CHECK(std::get<std::uint32_t>(*m.find("t.u32")) == 4'000'000'000u);
    CHECK(std::get<std::int32_t>(*m.find("t.i32")) == -2'000'000'000);
    CHECK(std::get<float>(*m.find("t.f32")) == 1.5f);
    CHECK(std::get<bool>(*m.find("t.bool")));
    CHECK(m.get_string("t.string") == "caf\xc3\xa9");
    CHECK(std::get<std::uint64_t>(*m.find("t.u64")) == ~std::uint64_t{0});
    CHECK(std::get<std::int64_t>(*m.find("t.i64")) == -5'000'000'000);
    CHECK(std::get<double>(*m.find("t.f64")) == 0.1);
    CHECK(std::get<std::vector<std::string>>(m.find_array("t.strings")->elements) ==
          std::vector<std::string>{"a", "", "b"});
    CHECK(std::get<std::vector<std::int32_t>>(m.find_array("t.ints")->elements) ==
          std::vector<std::int32_t>{1, -2, 3});
    CHECK(std::get<std::vector<float>>(m.find_array("t.floats")->elements) ==
          std::vector<float>{0.5f, -1.0f});

    REQUIRE(file->tensors().size() == 4);
    for (std::size_t t = 0; t < 4; ++t) {
        CHECK(file->tensors()[t].dims == std::vector<std::uint64_t>{3, 256});
        check_pattern(*file, file->tensors()[t], t);
    }
    CHECK(file->get("t1.q4_k").type == TensorType::kQ4_K);

    const TempDir dir;
    GgufWriter writer(dir / "copy.gguf", m, specs_of(*file), IfExists::kRefuse);
    copy_tensors(*file, writer);
    CHECK(slurp(dir / "copy.gguf") == slurp(golden("every_type.gguf")));
}

TEST_CASE("golden safetensors: every type, and a byte-identical rewrite") {
    const auto file = ModelFile::open(golden("every_type.safetensors"));
    std::vector<std::string> names;
    for (const TensorEntry& t : file->tensors()) names.push_back(t.name);
    REQUIRE(names.size() == 12);
    std::sort(names.begin(), names.end());
    for (std::size_t t = 0; t < names.size(); ++t) {
        const TensorEntry& entry = file->get(names[t]);
        CHECK(entry.dims == std::vector<std::uint64_t>{3, 5});
        check_pattern(*file, entry, t);
    }
    const TempDir dir;
    SafetensorsWriter writer(dir / "copy.safetensors", specs_of(*file), {});
    copy_tensors(*file, writer);
    CHECK(slurp(dir / "copy.safetensors") == slurp(golden("every_type.safetensors")));
}
