// SPDX-License-Identifier: Apache-2.0
// A GGUF writer that is killed and goes on: never another file than the undisturbed one.
#include <doctest/doctest.h>

#include <filesystem>

#include "core/error.h"
#include "io/checkpoint_log.h"
#include "io/gguf_writer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::vector<TensorSpec> kTensors = {
    {"a", TensorType::kI8, {40}}, {"b", TensorType::kI8, {3, 100}}, {"c", TensorType::kI8, {7}}};
constexpr const char* kBuild = "build 1";

Metadata metadata(const std::string& name = "x") {
    Metadata m;
    m.set("general.architecture", std::string("test"));
    m.set("general.name", name);
    return m;
}

std::byte byte_of(std::size_t tensor, std::uint64_t offset) {
    return static_cast<std::byte>(1 + 31 * tensor + offset);
}

void write_from(GgufWriter& writer, TensorWriter::Position at) {
    for (std::size_t t = at.tensor; t < kTensors.size(); ++t) {
        const std::uint64_t size = *tensor_bytes(kTensors[t].type, kTensors[t].dims);
        for (std::uint64_t i = t == at.tensor ? at.offset : 0; i < size; ++i) {
            const std::byte byte = byte_of(t, i);
            writer.write(t, i, {&byte, 1});
        }
    }
}

struct Killed {
    TempDir dir;
    std::string path = dir / "m.gguf", partial = path + ".partial";
    std::string log = partial + ".checkpoints";

    // Everything up to `at` written, the checkpoints made, then the end without finish().
    explicit Killed(const std::vector<TensorWriter::Position>& checkpoints) {
        GgufWriter writer(path, metadata(), kTensors, IfExists::kRefuse, kBuild);
        write_from(writer, {});
        for (const auto& at : checkpoints) writer.checkpoint(at);
    }
    // Bytes before `good` stay, the rest of the partial file becomes rubbish.
    void spoil_from(std::uint64_t good) const {
        std::string bytes = slurp(partial);
        for (std::size_t i = good; i < bytes.size(); ++i) bytes[i] = 'X';
        spew(partial, bytes);
    }
    // The position that a new run starts from; it then ends properly.
    TensorWriter::Position go_on(const Metadata& m = metadata(),
                                 std::string_view build = kBuild) const {
        GgufWriter writer(path, m, kTensors, IfExists::kRefuse, build);
        const auto start = writer.start();
        write_from(writer, start);
        writer.finish();
        return start;
    }
};

const std::string& undisturbed() {
    static const std::string bytes = [] {
        const TempDir dir;
        GgufWriter writer(dir / "m.gguf", metadata(), kTensors, IfExists::kRefuse);
        write_from(writer, {});
        writer.finish();
        return slurp(dir / "m.gguf");
    }();
    return bytes;
}

std::uint64_t offset_of(const std::string& path, const char* tensor) {
    return ModelFile::open(path)->get(tensor).offset;
}

void is(TensorWriter::Position got, TensorWriter::Position want) {
    CHECK(got.tensor == want.tensor);
    CHECK(got.offset == want.offset);
}

}  // namespace

TEST_CASE("checkpoints: a run goes on from the last one, and what follows it counts for nothing") {
    for (const TensorWriter::Position at :
         {TensorWriter::Position{0, 40}, {1, 0}, {1, 100}, {1, 300}, {2, 7}}) {
        CAPTURE(at.tensor);
        CAPTURE(at.offset);
        const Killed k({{0, 10}, at});
        const TempDir whole;
        spew(whole / "m.gguf", undisturbed());
        const std::uint64_t good =
            offset_of(whole / "m.gguf", kTensors[at.tensor].name.c_str()) + at.offset;
        k.spoil_from(good);  // the padding of the last tensor, too
        const auto start = k.go_on();
        CHECK((start.tensor > at.tensor || start.offset == at.offset));
        CHECK(slurp(k.path) == undisturbed());
        CHECK(k.dir.entries() == 1);
    }
}

TEST_CASE("checkpoints: without a single one, a run begins anew") {
    const Killed k({});
    k.spoil_from(0);
    is(k.go_on(), {0, 0});
    CHECK(slurp(k.path) == undisturbed());
}

TEST_CASE("checkpoints: bytes that have changed since are not believed") {
    const Killed k({{0, 20}, {1, 100}, {1, 200}});
    std::string bytes = slurp(k.partial);
    const TempDir whole;
    spew(whole / "m.gguf", undisturbed());
    bytes[offset_of(whole / "m.gguf", "b") + 150] ^= 1;
    spew(k.partial, bytes);
    is(k.go_on(), {1, 100});
    CHECK(slurp(k.path) == undisturbed());
}

TEST_CASE("checkpoints: another header, program or cut file: as much as is sure, or nothing") {
    {
        const Killed k({{1, 200}});
        is(k.go_on(metadata("y")), {0, 0});
        CHECK(slurp(k.path) != undisturbed());
        CHECK(ModelFile::open(k.path)->metadata().find_string("general.name") == "y");
    }
    {
        const Killed k({{1, 200}});
        is(k.go_on(metadata(), "build 2"), {0, 0});
        CHECK(slurp(k.path) == undisturbed());
    }
    {
        const Killed k({{0, 10}, {1, 200}});
        std::filesystem::resize_file(k.partial, std::filesystem::file_size(k.partial) - 200);
        is(k.go_on(), {0, 10});
        CHECK(slurp(k.path) == undisturbed());
    }
    {
        const Killed k({{0, 10}, {1, 200}});
        std::string log = slurp(k.log);
        spew(k.log, log.substr(0, log.size() - 1));  // the last line was not finished
        is(k.go_on(), {0, 10});
        CHECK(slurp(k.path) == undisturbed());
    }
}

TEST_CASE("checkpoints: a run without them drops those that lie there") {
    const Killed k({{1, 200}});
    is(k.go_on(metadata(), ""), {0, 0});
    CHECK(slurp(k.path) == undisturbed());
    CHECK(k.dir.entries() == 1);
}

TEST_CASE("checkpoints: the log is read as far as it is sound") {
    const std::string sum(64, 'a'), head = "thimble checkpoints 1 key\n";
    const auto count = [](const std::string& text) {
        return parse_checkpoints(text, "key").size();
    };
    CHECK(count(head + "5 " + sum + "\n9 " + sum + "\n") == 2);
    CHECK(count(head + "5 " + sum + "\n5 " + sum + "\n") == 1);  // not past the one before
    CHECK(count(head + "5 " + sum + "\n9 " + sum) == 1);
    CHECK(count(head + "5  " + sum + "\n") == 0);
    CHECK(count(head + "-5 " + sum + "\n") == 0);
    CHECK(count(head + "5 " + sum + "a\n") == 0);
    CHECK(count(head + "99999999999999999999 " + sum + "\n") == 0);
    CHECK(count("thimble checkpoints 1 other\n5 " + sum + "\n") == 0);
    CHECK(count("") == 0);
}
