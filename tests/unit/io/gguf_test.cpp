// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <numeric>

#include "core/error.h"
#include "core/ledger.h"
#include "io/gguf_writer.h"
#include "io/model_file.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

template <class T>
MetaValue array_of(std::vector<T> elements) {
    return std::make_shared<const MetaArray>(MetaArray{std::move(elements), false});
}

Metadata every_type() {
    Metadata m("every type");
    m.set("u8", std::uint8_t{200});
    m.set("i8", std::int8_t{-100});
    m.set("u16", std::uint16_t{60000});
    m.set("i16", std::int16_t{-30000});
    m.set("u32", std::uint32_t{4'000'000'000});
    m.set("i32", std::int32_t{-2'000'000'000});
    m.set("f32", 1.5f);
    m.set("true", true);
    m.set("false", false);
    m.set("string", std::string("caf\xc3\xa9\0x", 7));
    m.set("empty", std::string());
    m.set("u64", ~std::uint64_t{0});
    m.set("i64", std::int64_t{-5'000'000'000});
    m.set("f64", 0.1);
    m.set("a.u8", array_of<std::uint8_t>({1, 2, 3}));
    m.set("a.i8", array_of<std::int8_t>({-1}));
    m.set("a.u16", array_of<std::uint16_t>({1, 65535}));
    m.set("a.i16", array_of<std::int16_t>({-1, 1}));
    m.set("a.u32", array_of<std::uint32_t>({7}));
    m.set("a.i32", array_of<std::int32_t>({-7}));
    m.set("a.f32", array_of<float>({0.5f, -0.0f}));
    m.set("a.string", array_of<std::string>({"a", "", "\xff\xfe"}));
    m.set("a.u64", array_of<std::uint64_t>({}));
    m.set("a.i64", array_of<std::int64_t>({INT64_MIN}));
    m.set("a.f64", array_of<double>({1e300}));
    m.set("a.bool",
          std::make_shared<const MetaArray>(MetaArray{std::vector<std::uint8_t>{0, 1, 1}, true}));
    return m;
}

const std::vector<TensorSpec> kTensors = {{"w", TensorType::kQ4_0, {3, 64}},
                                          {"scalar", TensorType::kF32, {}},
                                          {"none", TensorType::kF16, {4, 0}},
                                          {"v", TensorType::kBF16, {5}},
                                          {"e", TensorType::kI8, {2, 3, 4, 5}}};

void write_model(const std::string& path, const Metadata& metadata,
                 const std::vector<TensorSpec>& tensors) {
    GgufWriter writer(path, metadata, tensors, IfExists::kReplace);
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        std::vector<std::byte> bytes(*tensor_bytes(tensors[i].type, tensors[i].dims));
        for (std::size_t b = 0; b < bytes.size(); ++b)
            bytes[b] = static_cast<std::byte>(i * 31 + b);
        const auto all = std::span<const std::byte>(bytes);
        const std::size_t half = all.size() / 2;
        writer.write(i, half, all.subspan(half));  // any order
        writer.write(i, 0, all.first(half));
    }
    writer.finish();
}

}  // namespace

TEST_CASE("gguf: every metadata type and tensor survives; a rewrite is byte-identical") {
    const TempDir dir;
    write_model(dir / "a.gguf", every_type(), kTensors);
    const auto file = ModelFile::open(dir / "a.gguf");
    CHECK(file->file_bytes() == GgufWriter::predict(every_type(), kTensors).file_bytes);
    CHECK(file->container() == Container::kGguf);
    REQUIRE(file->metadata().entries().size() == every_type().entries().size());
    CHECK(file->metadata().find_string("string")->size() == 7);
    CHECK(std::get<std::uint64_t>(*file->metadata().find("u64")) == ~std::uint64_t{0});

    REQUIRE(file->tensors().size() == kTensors.size());
    std::vector<TensorSpec> specs;
    for (const TensorEntry& t : file->tensors()) specs.push_back({t.name, t.type, t.dims});
    {
        GgufWriter writer(dir / "b.gguf", file->metadata(), specs, IfExists::kRefuse);
        for (std::size_t i = 0; i < specs.size(); ++i) {
            CHECK(specs[i].name == kTensors[i].name);
            CHECK(specs[i].dims == kTensors[i].dims);
            const TensorEntry& t = file->tensors()[i];
            std::vector<std::byte> bytes(t.bytes);
            file->read(t, 0, bytes);
            const auto mapped = file->map(t);
            CHECK(std::equal(bytes.begin(), bytes.end(), mapped.begin(), mapped.end()));
            if (!bytes.empty()) CHECK(bytes[0] == static_cast<std::byte>(i * 31));
            writer.write(i, 0, bytes);
        }
        CHECK(dir.entries() == 2);  // a.gguf, b.gguf.partial
        writer.finish();
    }
    CHECK(slurp(dir / "a.gguf") == slurp(dir / "b.gguf"));
    CHECK(dir.entries() == 2);
}

TEST_CASE("gguf: an alignment of the metadata's own is kept and obeyed") {
    const TempDir dir;
    Metadata m;
    m.set("general.alignment", std::uint32_t{256});
    write_model(dir / "a.gguf", m, kTensors);
    const auto opened = ModelFile::open(dir / "a.gguf");
    for (const TensorEntry& t : opened->tensors()) CHECK(t.offset % 256 == 0);
}

TEST_CASE("gguf writer: nothing is left when it is not finished, incomplete or refused") {
    const TempDir dir;
    const Metadata none;
    { const GgufWriter writer(dir / "a.gguf", none, kTensors, IfExists::kRefuse); }
    CHECK(dir.entries() == 0);
    {
        GgufWriter writer(dir / "a.gguf", none, kTensors, IfExists::kRefuse);
        CHECK_THROWS_AS(writer.finish(), Error);
    }
    CHECK(dir.entries() == 0);
    for (const TensorSpec& bad : std::vector<TensorSpec>{
             {std::string(64, 'n'), TensorType::kF32, {1}},
             {"", TensorType::kF32, {1}},
             {"u8", TensorType::kU8, {1}},
             {"five", TensorType::kF32, {1, 1, 1, 1, 1}},
             {"ragged", TensorType::kQ4_0, {33}},
             {"huge", TensorType::kF32, {std::uint64_t{1} << 40, std::uint64_t{1} << 40}},
         }) {
        CAPTURE(bad.name);
        const std::vector<TensorSpec> specs = {bad};
        CHECK_THROWS_AS((void)GgufWriter::predict(none, specs), Error);
    }
    const std::vector<TensorSpec> twice = {kTensors[0], kTensors[0]};
    CHECK_THROWS_AS((void)GgufWriter::predict(none, twice), Error);
    GgufWriter writer(dir / "a.gguf", none, kTensors, IfExists::kRefuse);
    const std::vector<std::byte> bytes(3);
    CHECK_THROWS_AS(writer.write(3, 8, bytes), Error);  // tensor "v" has 10 bytes
}

TEST_CASE("metadata: getters check type and range and name the key") {
    const Metadata m = every_type();
    CHECK(*m.find_int("i8") == -100);
    CHECK(*m.find_number("i8") == -100.0);
    CHECK(m.get_int("u16", 0, 60000) == 60000);
    CHECK_FALSE(m.find_int("absent"));
    CHECK_THROWS_WITH_AS((void)m.get_int("u16", 0, 59999),
                         "every type: key 'u16' is 60000, expected 0 to 59999", Error);
    CHECK_THROWS_WITH_AS((void)m.get_string("absent"), "every type: key 'absent' is missing",
                         Error);
    CHECK_THROWS_AS((void)m.find_int("u64"), Error);  // does not fit
    CHECK_THROWS_AS((void)m.find_int("true"), Error);
    CHECK_THROWS_AS((void)m.find_int("f32"), Error);
    CHECK_THROWS_AS((void)m.find_number("string"), Error);
    CHECK_THROWS_AS((void)m.find_string("u8"), Error);
    CHECK_THROWS_AS((void)m.find_array("u8"), Error);
    CHECK_THROWS_AS((void)m.find_bool("u8"), Error);
    Metadata edited = m;
    edited.erase("u8");
    edited.set("i8", std::int8_t{1});
    edited.set("new", true);
    CHECK(edited.entries()[0].first == "i8");
    CHECK(edited.find_int("i8") == 1);
    CHECK(edited.find("u8") == nullptr);
    CHECK(edited.entries().back().first == "new");
    CHECK(*edited.find_number("f64") == 0.1);
    CHECK(m.find("u8") != nullptr);
}

TEST_CASE("model file: the mapping is charged as weights and dropped pages are released") {
    const TempDir dir;
    const std::vector<TensorSpec> specs = {{"a", TensorType::kI8, {100'000}},
                                           {"b", TensorType::kI8, {100'000}}};
    write_model(dir / "a.gguf", Metadata(), specs);
    const Ledger& ledger = Ledger::process();
    const auto held = [&] { return ledger.current_bytes(Tier::kRam, Purpose::kWeights); };
    const std::uint64_t before = held();
    {
        const auto file = ModelFile::open(dir / "a.gguf");
        CHECK(held() == before);
        (void)file->map(file->get("a"));
        const std::uint64_t whole = (file->file_bytes() + 4095) / 4096 * 4096;
        CHECK(held() - before == whole);
        file->drop_pages(file->get("b"));
        const std::uint64_t kept = held() - before;
        CHECK(kept < whole - 90'000);
        file->drop_pages(file->get("b"));  // once only
        CHECK(held() - before == kept);
        const auto again = file->map(file->get("b"));
        CHECK(held() - before == whole);
        CHECK(again[5] == static_cast<std::byte>(31 + 5));
    }
    CHECK(held() == before);
}
