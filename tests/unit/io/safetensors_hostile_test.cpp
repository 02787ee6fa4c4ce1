// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "core/error.h"
#include "io/safetensors.h"
#include "tests/support/temp_dir.h"
#include "tests/unit/io/raw_files.h"

using namespace thimble;
using namespace thimble::test;

namespace {

SafetensorsHeader parse(std::string_view bytes) {
    Cursor cursor(std::as_bytes(std::span(bytes)), "hostile.safetensors");
    return parse_safetensors_header(cursor, bytes.size());
}

void refused(std::string_view bytes, std::string_view why) {
    CAPTURE(bytes.substr(0, 200));
    CAPTURE(why);
    try {
        (void)parse(bytes);
        FAIL_CHECK("accepted");
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where() == "hostile.safetensors");
        CAPTURE(e.problem());
        CHECK(e.problem().find(why) != std::string::npos);
    }
}

void refused(const std::string& header, std::size_t data_bytes, std::string_view why) {
    refused(raw_safetensors(header, data_bytes), why);
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
}
std::string with_shape(const std::string& shape, const std::string& offsets = "[0,8]") {
    return "{" + entry("a", "F32", shape, offsets) + "}";
}

// An open directory must end like this.
void directory_refused(const TempDir& dir, Exit exit, std::string_view why) {
    CAPTURE(why);
    try {
        (void)ModelFile::open(dir.path());
        FAIL_CHECK("accepted");
    } catch (const Error& e) {
        CHECK(e.exit() == exit);
        CAPTURE(std::string(e.what()));
        CHECK(std::string_view(e.what()).find(why) != std::string_view::npos);
    }
}

}  // namespace

TEST_CASE("safetensors hostile: the files that the cases below spoil are good") {
    CHECK(parse(raw_safetensors("{}", 0)).tensors.empty());
    CHECK(parse(raw_safetensors("{}   ", 0)).tensors.empty());
    CHECK(parse(raw_safetensors(with_shape("[2]"), 8)).tensors[0].bytes == 8);
    const auto two = parse(raw_safetensors(
        "{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "U8", "[3]", "[8,11]") + "," +
            entry("z", "F16", "[0,4]", "[8,8]") + "," + entry("a", "F64", "[]", "[0,8]") + "}",
        11));
    REQUIRE(two.tensors.size() == 3);
    CHECK(two.tensors[0].name == "a");  // by offset
    CHECK(two.tensors[1].name == "z");
    CHECK(two.metadata.find("format")->as_string("") == "pt");
}

TEST_CASE("safetensors hostile: header") {
    refused("", "the header needs 8");
    refused("1234567", "the header needs 8");
    refused(raw_safetensors("{}", 0).substr(0, 9), "the header needs 2");
    refused(std::string(8, '\xff'), "at most 100000000 are accepted");
    refused(raw_safetensors("", 0), "does not begin with '{'");
    refused(raw_safetensors(" {}", 0), "does not begin with '{'");
    refused(raw_safetensors("[]", 0), "does not begin with '{'");
    refused(raw_safetensors("\xef\xbb\xbf{}", 0), "does not begin with '{'");
    refused(raw_safetensors("{}\n", 0), "more than spaces");
    refused(raw_safetensors("{}x", 0), "more than spaces");
    refused(raw_safetensors(std::string("{}\0", 3), 0), "more than spaces");
    refused(raw_safetensors("{\"a\":}", 0), "not valid JSON");
    refused(raw_safetensors("{\"\xff\":1}", 0), "not valid JSON");
    refused(raw_safetensors("{\"a\":" + std::string(100'000, '['), 0), "more than spaces");
    refused(raw_safetensors("{\"a\":" + std::string(100'000, '[') + "}", 0), "deeper than 3");
    refused(raw_safetensors("{}", 1), "cover 0 of 1");
    refused(raw_safetensors("{\"__metadata__\":{\"a\":1}}", 0), "object of strings");
    refused(raw_safetensors("{\"__metadata__\":[]}", 0), "object of strings");
}

TEST_CASE("safetensors hostile: numbers are plain non-negative integers") {
    for (const char* shape :
         {"[2.0]", "[2e0]", "[-2]", "[\"2\"]", "[null]", "2", "{}", "[18446744073709551618]",
          "[9223372036854775808]", "null", "[true]", "[1,1,1,1,1,1,1,1,2]"}) {
        refused(with_shape(shape), 8, "'shape' must be a list");
    }
    for (const char* offsets : {"[0,8.0]", "[0,8e0]", "[-8,8]", "[0,\"8\"]", "[0,8,9]", "8"})
        refused(with_shape("[2]", offsets), 8, "'data_offsets' must be a list");
    for (const char* offsets :
         {"[]", "[8]", "[8,0]", "[0,9]", "[9223372036854775807,8]", "[0,9223372036854775807]"})
        refused(with_shape("[2]", offsets), 8, "'data_offsets' do not lie");
}

TEST_CASE("safetensors hostile: tensors") {
    refused(with_shape("[3]"), 8, "not the size of the shape");
    refused(with_shape("[1]"), 8, "not the size of the shape");
    refused(with_shape("[4294967296,4294967296]"), 8, "not the size of the shape");
    refused(with_shape("[4611686018427387904,4]"), 8, "not the size of the shape");
    refused(with_shape("[4611686018427387906]"), 8, "not the size of the shape");
    refused("{" + entry("a", "F31", "[2]", "[0,8]") + "}", 8, "not a known type");
    refused("{" + entry("a", "f32", "[2]", "[0,8]") + "}", 8, "not a known type");
    refused("{" + entry("", "F32", "[2]", "[0,8]") + "}", 8, "the name is empty");
    refused("{" + entry(std::string(5000, 'n'), "F32", "[2]", "[0,8]") + "}", 8, "longer than");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "expected an object of");
    refused("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8,
            "expected an object of");
    refused("{\"a\":{\"dtype\":\"F32\",\"shapes\":[2],\"data_offsets\":[0,8]}}", 8, "'shape' must");
    refused("{\"a\":7}", 8, "expected an object of");
    refused(
        "{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("a", "F32", "[2]", "[8,16]") + "}",
        16, "'a' occurs twice");
    refused("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
            "'dtype' occurs twice");
    refused(
        "{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[12,20]") + "}",
        20, "gap or overlap");
    refused(
        "{" + entry("a", "F32", "[2]", "[0,8]") + "," + entry("b", "F32", "[2]", "[4,12]") + "}",
        12, "gap or overlap");
    refused("{" + entry("a", "F32", "[2]", "[4,12]") + "}", 12, "gap or overlap");
    refused("{" + entry("a", "F32", "[2]", "[0,8]") + "}", 9, "cover 8 of 9");
}

TEST_CASE("HF directory: shard names stay inside, every shard and tensor is present once") {
    const auto write_index = [](const TempDir& dir, const std::string& map) {
        spew(dir / "model.safetensors.index.json", "{\"weight_map\":" + map + "}");
    };
    const std::string shard = raw_safetensors(with_shape("[2]"), 8);
    TempDir dir;
    directory_refused(dir, Exit::kNoInput, "config.json");
    spew(dir / "config.json", "[]");
    directory_refused(dir, Exit::kBadData, "config.json: expected an object");
    spew(dir / "config.json", "{}");
    directory_refused(dir, Exit::kNoInput, "neither model.safetensors nor");

    spew(dir / "x.safetensors", shard);
    for (const char* name :
         {"../x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..", ".safetensors",
          "x.bin", "", ".x.safetensors", "x\\u0000.safetensors"}) {
        CAPTURE(name);
        write_index(dir, std::string("{\"a\":\"") + name + "\"}");
        directory_refused(dir, Exit::kBadData, "plain name");
    }
    write_index(dir, "{\"a\":1}");
    directory_refused(dir, Exit::kBadData, "plain name");
    write_index(dir, "[]");
    directory_refused(dir, Exit::kBadData, "'weight_map' must be an object");
    write_index(dir, "{}");
    directory_refused(dir, Exit::kBadData, "0 shards");
    write_index(dir, "{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\"}");
    directory_refused(dir, Exit::kNoInput, "y.safetensors: cannot open");
    spew(dir / "y.safetensors", shard);
    directory_refused(dir, Exit::kBadData, "'a' is not listed in the index for this shard");
    write_index(dir, "{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\"}");
    directory_refused(dir, Exit::kBadData, "'b' of the index is not in this shard");
    write_index(dir, "{\"b\":\"x.safetensors\"}");
    directory_refused(dir, Exit::kBadData, "'a' is not listed");
    write_index(dir, "{\"a\":\"x.safetensors\",\"a\":\"x.safetensors\"}");
    directory_refused(dir, Exit::kBadData, "'a' occurs twice");
    write_index(dir, "{\"a\":\"x.safetensors\"}");
    CHECK(ModelFile::open(dir.path())->get("a").bytes == 8);
}
