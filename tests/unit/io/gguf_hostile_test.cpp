// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "core/error.h"
#include "tests/unit/io/raw_files.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::uint32_t kF32 = 0, kQ4_0 = 2;
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

// The file is refused as bad data, and the message says why.
void refused(const RawGguf& file, std::string_view why) {
    CAPTURE(why);
    try {
        (void)parse_gguf(file.bytes());
        FAIL_CHECK("accepted");
    } catch (const Error& e) {
        CHECK(e.exit() == Exit::kBadData);
        CHECK(e.where() == "hostile.gguf");
        CAPTURE(e.problem());
        CHECK(e.problem().find(why) != std::string::npos);
        CHECK(e.problem().find('\n') == std::string::npos);
    }
}

RawGguf one_tensor(std::initializer_list<std::uint64_t> dims, std::uint32_t type,
                   std::uint64_t offset, std::size_t data_bytes) {
    return RawGguf().header(1, 0).tensor("w", dims, type, offset).data(data_bytes);
}

RawGguf one_key(GgufType type) { return RawGguf().header(0, 1).key("k", type); }

}  // namespace

TEST_CASE("gguf hostile: the files that the cases below spoil are good") {
    CHECK(parse_gguf(RawGguf().header(0, 0).bytes()).tensors.empty());
    CHECK(parse_gguf(RawGguf().header(0, 0, 2).bytes()).version == 2);
    CHECK(parse_gguf(one_tensor({32, 2}, kQ4_0, 0, 36).bytes()).tensors[0].bytes == 36);
    CHECK(parse_gguf(one_key(GgufType::kU32).u32(7).bytes()).metadata.find_int("k") == 7);
    CHECK(parse_gguf(RawGguf()
                         .header(1, 1)
                         .key("general.alignment", GgufType::kU32)
                         .u32(64)
                         .tensor("w", {4}, kF32, 64)
                         .data(80, 64)
                         .bytes())
              .tensors[0]
              .offset == 192);
    // In any order in the file.
    CHECK(parse_gguf(RawGguf()
                         .header(2, 0)
                         .tensor("b", {4}, kF32, 32)
                         .tensor("a", {4}, kF32, 0)
                         .data(48)
                         .bytes())
              .tensors.size() == 2);
}

TEST_CASE("gguf hostile: magic, version, byte order") {
    refused(RawGguf().u32(0x46464547).u32(3).u64(0).u64(0), "does not begin with 'GGUF'");
    refused(RawGguf(), "magic needs 4 x 1 bytes but only 0 are left");
    for (const std::uint32_t version : {0u, 1u, 4u, 0xffffffffu})
        refused(RawGguf().header(0, 0, version), "version " + std::to_string(version));
    refused(RawGguf().header(0, 0, 0x03000000), "big-endian");
}

TEST_CASE("gguf hostile: counts and lengths beyond the file") {
    refused(RawGguf().header(0, kHuge), "keys; at most");
    refused(RawGguf().header(0, 60'000), "the key table needs 60000");
    refused(RawGguf().header(kHuge, 0), "tensors; at most");
    refused(RawGguf().header(900'000, 0), "the tensor table needs 900000");
    refused(RawGguf().header(0, 1).u64(kHuge).u64(0), "key 0 of 18446744073709551615 bytes");
    refused(RawGguf().header(0, 1).u64(1000).u64(0), "key 0 needs 1000");
    refused(one_key(GgufType::kString).u64(kHuge), "at most 67108864 are accepted");
    refused(one_key(GgufType::kString).u64(65536), "needs 65536");
    for (const auto type : {GgufType::kU8, GgufType::kI16, GgufType::kF32, GgufType::kF64,
                            GgufType::kString, GgufType::kBool, GgufType::kU64}) {
        refused(one_key(GgufType::kArray).put(type).u64(kHuge), "key 'k' needs");
        refused(one_key(GgufType::kArray).put(type).u64(kHuge / 8 + 2), "key 'k' needs");
        refused(one_key(GgufType::kArray).put(type).u64(9).u64(0), "key 'k' needs");
    }
    refused(one_key(GgufType::kArray).put(GgufType::kString).u64(1).u64(kHuge), "at most");
}

TEST_CASE("gguf hostile: keys and values") {
    refused(RawGguf().header(0, 1).key("", GgufType::kU64).u64(1), "empty or not");
    refused(RawGguf().header(0, 1).key("\xff\n", GgufType::kU8).put<std::uint8_t>(1),
            "'\\xff\\x0a' is empty or not UTF-8");
    refused(RawGguf().header(0, 1).key(std::string(70'000, 'k'), GgufType::kU8).u64(0),
            "at most 65536");
    refused(RawGguf().header(0, 2).key("k", GgufType::kU32).u32(1).key("k", GgufType::kU32).u32(1),
            "'k' occurs twice");
    refused(one_key(static_cast<GgufType>(13)).u64(0), "unknown value type 13");
    refused(one_key(GgufType::kArray).u32(13).u64(0), "unknown element type 13");
    refused(one_key(GgufType::kArray).put(GgufType::kArray).u64(1).u32(0).u64(0),
            "arrays of arrays");
    refused(one_key(GgufType::kBool).put<std::uint8_t>(2), "a boolean is 0 or 1");
    refused(one_key(GgufType::kArray).put(GgufType::kBool).u64(1).put<std::uint8_t>(255),
            "a boolean is 0 or 1");
}

TEST_CASE("gguf hostile: alignment") {
    const auto aligned = [](std::uint32_t alignment) {
        return RawGguf().header(0, 1).key("general.alignment", GgufType::kU32).u32(alignment);
    };
    for (const std::uint32_t bad : {0u, 1u, 4u, 24u, 33u, 131072u, 0x80000000u, 0xffffffffu})
        refused(aligned(bad), "power of two from 8 to 65536");
    refused(RawGguf().header(0, 1).key("general.alignment", GgufType::kU64).u64(32),
            "must be a uint32");
    refused(RawGguf().header(0, 1).key("general.alignment", GgufType::kString).text("32"),
            "must be a uint32");
    refused(RawGguf()
                .header(1, 1)
                .key("general.alignment", GgufType::kU32)
                .u32(64)
                .tensor("w", {4}, kF32, 32)
                .data(64, 64),
            "not a multiple of 64");
}

TEST_CASE("gguf hostile: tensors") {
    const std::uint64_t half = std::uint64_t{1} << 32;
    refused(one_tensor({1, 1, 1, 1, 1}, kF32, 0, 64), "5 dimensions");
    refused(RawGguf().header(1, 0).text("w").u32(0xffffffff).u64(1).u32(0).u64(0),
            "4294967295 dimensions");
    refused(one_tensor({kHuge}, kF32, 0, 64), "too large");           // -1
    refused(one_tensor({half, half}, kF32, 0, 64), "too large");      // wraps to 0
    refused(one_tensor({half, half / 4}, kF32, 0, 64), "too large");  // bytes wrap to 0
    refused(one_tensor({half, half, 0}, kF32, 0, 64), "too large");   // hidden by a zero
    refused(one_tensor({half, 3}, kF32, 0, 64), "pass the end");
    refused(one_tensor({33}, kQ4_0, 0, 64), "not a multiple of the block");
    refused(one_tensor({}, kQ4_0, 0, 64), "not a multiple of the block");
    for (const std::uint32_t type : {4u, 5u, 31u, 43u, 1000u, 1003u, 0xffffffffu})
        refused(one_tensor({32}, type, 0, 512), "unknown type " + std::to_string(type));
    refused(one_tensor({4}, kF32, 4, 64), "not a multiple of 32");
    refused(one_tensor({4}, kF32, 64, 64), "pass the end");
    refused(one_tensor({4}, kF32, kHuge - 31, 64), "pass the end");
    refused(one_tensor({17}, kF32, 0, 64), "pass the end");
    refused(RawGguf().header(1, 0).tensor("", {4}, kF32, 0).data(16), "empty or not UTF-8");
    refused(RawGguf().header(1, 0).tensor(std::string(65, 'n'), {4}, kF32, 0).data(16),
            "at most 64");
    refused(RawGguf().header(2, 0).tensor("w", {4}, kF32, 0).tensor("w", {4}, kF32, 32).data(48),
            "'w' occurs twice");
    refused(RawGguf().header(2, 0).tensor("a", {4}, kF32, 0).tensor("b", {4}, kF32, 0).data(48),
            "overlap");
    refused(RawGguf().header(2, 0).tensor("a", {4}, kF32, 32).tensor("b", {9}, kF32, 0).data(48),
            "overlap");
}

TEST_CASE("gguf hostile: many tensors are checked in linear time") {
    RawGguf file;
    const std::uint64_t count = 200'000;
    file.header(count, 0);
    for (std::uint64_t i = 0; i < count; ++i) file.tensor(std::to_string(i), {0}, kF32, 0);
    CHECK(parse_gguf(file.bytes()).tensors.size() == count);
}
