// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <unistd.h>

#include "core/error.h"
#include "io/gguf_writer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

struct Part {
    std::uint16_t number = 0, count = 3;
    std::string tensor;
    bool has_keys = true;
};

void write_part(const std::string& path, const Part& part, std::int32_t tensors_total = 2) {
    Metadata m;
    if (part.number == 0) m.set("general.architecture", std::string("llama"));
    if (part.has_keys) {
        m.set("split.no", part.number);
        m.set("split.count", part.count);
        m.set("split.tensors.count", tensors_total);
    }
    std::vector<TensorSpec> specs;
    if (!part.tensor.empty()) specs.push_back({part.tensor, TensorType::kI8, {40}});
    GgufWriter writer(path, m, specs, IfExists::kReplace);
    const std::vector<std::byte> bytes(40, static_cast<std::byte>(part.number));
    if (!specs.empty()) writer.write(0, 0, bytes);
    writer.finish();
}

std::string part_path(const TempDir& dir, int number) {
    return dir / ("m-0000" + std::to_string(number) + "-of-00003.gguf");
}

void write_good(const TempDir& dir) {
    write_part(part_path(dir, 1), {0, 3, ""});
    write_part(part_path(dir, 2), {1, 3, "a"});
    write_part(part_path(dir, 3), {2, 3, "b"});
}

void refused(const std::string& path, Exit exit, std::string_view why) {
    try {
        (void)ModelFile::open(path);
        FAIL_CHECK("accepted");
    } catch (const Error& e) {
        CAPTURE(std::string(e.what()));
        CHECK(e.exit() == exit);
        CHECK(std::string_view(e.what()).find(why) != std::string_view::npos);
    }
}

}  // namespace

TEST_CASE("split gguf: parts are one model; their own keys are not the model's") {
    const TempDir dir;
    write_good(dir);
    const auto file = ModelFile::open(part_path(dir, 1));
    CHECK(file->files().size() == 3);
    CHECK(file->metadata().entries().size() == 1);
    REQUIRE(file->tensors().size() == 2);
    for (const char* name : {"a", "b"}) {
        const TensorEntry& t = file->get(name);
        CHECK(file->map(t)[39] == static_cast<std::byte>(t.shard));
        std::vector<std::byte> bytes(t.bytes);
        file->read(t, 0, bytes);
        CHECK(bytes[0] == static_cast<std::byte>(t.shard));
        file->drop_pages(t);
    }
}

TEST_CASE("split gguf: missing, swapped, misnamed and inconsistent parts are refused") {
    const TempDir dir;
    write_good(dir);
    refused(part_path(dir, 2), Exit::kUsage, "-00001-of-00003.gguf");
    REQUIRE(::link(part_path(dir, 1).c_str(), (dir / "renamed.gguf").c_str()) == 0);
    refused(dir / "renamed.gguf", Exit::kUsage, "must be named ...-00001-of-00003.gguf");
    write_part(part_path(dir, 3), {1, 3, "b"});
    refused(part_path(dir, 1), Exit::kBadData, "do not say part 3 of 3");
    write_part(part_path(dir, 3), {2, 4, "b"});
    refused(part_path(dir, 1), Exit::kBadData, "do not say part 3 of 3");
    write_part(part_path(dir, 3), {2, 3, "b", false});
    refused(part_path(dir, 1), Exit::kBadData, "key 'split.no' is missing");
    write_part(part_path(dir, 3), {2, 3, "a"});
    refused(part_path(dir, 1), Exit::kBadData, "'a' occurs in two parts");
    write_part(part_path(dir, 3), {2, 3, ""});
    refused(part_path(dir, 1), Exit::kBadData, "says 2 tensors, the parts hold 1");
    ::unlink(part_path(dir, 3).c_str());
    refused(part_path(dir, 1), Exit::kNoInput, "m-00003-of-00003.gguf: cannot open");
    write_part(part_path(dir, 1), {0, 60000, ""});
    refused(part_path(dir, 1), Exit::kBadData, "'split.count' is 60000");
}
