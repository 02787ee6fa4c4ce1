// SPDX-License-Identifier: Apache-2.0
// Writers that are killed and go on: never other files than the undisturbed ones.
#include <doctest/doctest.h>

#include <filesystem>
#include <map>

#include "core/error.h"
#include "io/checkpoint_log.h"
#include "io/gguf_split.h"
#include "io/gguf_writer.h"
#include "io/hf_directory.h"
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

void write_from(TensorWriter& writer, TensorWriter::Position at,
                const std::vector<TensorSpec>& tensors = kTensors) {
    for (std::size_t t = at.tensor; t < tensors.size(); ++t) {
        const std::uint64_t size = *tensor_bytes(tensors[t].type, tensors[t].dims);
        for (std::uint64_t i = t == at.tensor ? at.offset : 0; i < size; ++i) {
            const std::byte byte = byte_of(t, i);
            writer.write(t, i, {&byte, 1});
        }
    }
}

// What precedes `at`, and nothing more.
void write_until(TensorWriter& writer, TensorWriter::Position at,
                 const std::vector<TensorSpec>& tensors = kTensors) {
    for (std::size_t t = 0; t < tensors.size() && t <= at.tensor; ++t) {
        const std::uint64_t size = *tensor_bytes(tensors[t].type, tensors[t].dims);
        for (std::uint64_t i = 0; i < (t == at.tensor ? at.offset : size); ++i) {
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

// Every file below a directory, by its path there.
std::map<std::string, std::string> files_in(const std::string& directory) {
    std::map<std::string, std::string> out;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
        if (entry.is_regular_file())
            out[std::filesystem::relative(entry.path(), directory).string()] =
                slurp(entry.path().string());
    }
    return out;
}

// One tensor a file.
GgufParts parts_in(const TempDir& dir) {
    GgufSplit split;
    split.max_tensors = 1;
    return {dir / "m", metadata(), kTensors, split};
}

std::map<std::string, std::string> undisturbed_parts() {
    const TempDir dir;
    GgufSplitWriter writer(parts_in(dir), IfExists::kRefuse);
    write_from(writer, {});
    writer.finish();
    return files_in(dir.path());
}

TensorWriter::Position go_on_with_parts(const TempDir& dir) {
    GgufSplitWriter writer(parts_in(dir), IfExists::kRefuse, kBuild);
    const auto start = writer.start();
    write_from(writer, start);
    writer.finish();
    return start;
}

// Wide and narrow types: safetensors stores them in another order.
const std::vector<TensorSpec> kMixed = {{"a", TensorType::kI8, {40}},
                                        {"b", TensorType::kF32, {5, 5}},
                                        {"c", TensorType::kI8, {7}},
                                        {"d", TensorType::kF32, {3}}};
const std::vector<SideFile> kSides = {side_file("config.json", "{}")};

SafetensorsOptions hf_options(std::uint64_t shard_bytes, const std::string& build = kBuild) {
    SafetensorsOptions options;
    options.max_shard_bytes = shard_bytes;
    options.build = build;
    return options;
}

std::map<std::string, std::string> undisturbed_directory(std::uint64_t shard_bytes) {
    const TempDir dir;
    HfDirectoryWriter writer(dir / "hf", kMixed, kSides, hf_options(shard_bytes, ""));
    write_from(writer, {}, kMixed);
    writer.finish();
    return files_in(dir.path());
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

TEST_CASE("checkpoints: several GGUF files go on in the file where the run was killed") {
    for (const TensorWriter::Position at :
         {TensorWriter::Position{0, 10}, {0, 40}, {1, 0}, {1, 123}, {2, 0}, {2, 7}, {3, 0}}) {
        CAPTURE(at.tensor);
        CAPTURE(at.offset);
        const TempDir dir;
        {
            GgufSplitWriter writer(parts_in(dir), IfExists::kRefuse, kBuild);
            write_until(writer, at);
            writer.checkpoint(at);
        }
        CHECK(dir.entries() == 6);
        const auto start = go_on_with_parts(dir);
        CHECK((start.tensor > at.tensor || start.offset == at.offset));
        CHECK(files_in(dir.path()) == undisturbed_parts());
    }
}

TEST_CASE("checkpoints: a file before good ones has changed: they are written again, and whole") {
    const TempDir dir;
    {
        GgufSplitWriter writer(parts_in(dir), IfExists::kRefuse, kBuild);
        write_from(writer, {});
        writer.checkpoint({2, 3});
    }
    const std::string first = gguf_part_path(dir / "m", 1, 3) + ".partial";
    std::string bytes = slurp(first);
    bytes[bytes.size() - 64] ^= 1;
    spew(first, bytes);
    is(go_on_with_parts(dir), {0, 0});
    CHECK(files_in(dir.path()) == undisturbed_parts());
}

// Every part settled, the last of them committed: as a kill in finish() leaves them.
static void leave_committed(const TempDir& dir, std::size_t from) {
    const GgufParts parts = parts_in(dir);
    for (std::size_t p = 0; p < parts.parts.size(); ++p) {
        const GgufParts::Part& part = parts.parts[p];
        GgufWriter writer(part.path, part.metadata, part.tensors, IfExists::kRefuse, kBuild);
        for (std::uint64_t i = 0; i < *tensor_bytes(kTensors[p].type, kTensors[p].dims); ++i) {
            const std::byte byte = byte_of(p, i);
            writer.write(0, i, {&byte, 1});
        }
        writer.file().settle();
        if (p >= from) writer.file().commit();
    }
}

TEST_CASE("checkpoints: files that a run killed at its end had named already are taken back") {
    for (const std::size_t from : {0, 1, 2, 3}) {
        CAPTURE(from);
        const TempDir dir;
        leave_committed(dir, from);
        CHECK(std::filesystem::exists(gguf_part_path(dir / "m", 3, 3)) == (from < 3));
        is(go_on_with_parts(dir), {3, 0});
        CHECK(files_in(dir.path()) == undisturbed_parts());
    }
}

TEST_CASE("checkpoints: a run killed while it forgot them ends when it is run again") {
    for (const std::size_t forgotten : {1, 2}) {
        CAPTURE(forgotten);
        const TempDir dir;
        leave_committed(dir, 0);
        for (std::size_t p = 1; p <= forgotten; ++p) {
            const std::string file = gguf_part_path(dir / "m", p, 3);
            REQUIRE(std::filesystem::remove(CheckpointedFile::log_path(file)));
        }
        {  // killed once more
            GgufSplitWriter writer(parts_in(dir), IfExists::kRefuse, kBuild);
            is(writer.start(), {0, 0});
        }
        is(go_on_with_parts(dir), {0, 0});
        CHECK(files_in(dir.path()) == undisturbed_parts());
    }
}

TEST_CASE("checkpoints: a file that is not what the run wrote is never taken for its own") {
    const TempDir dir;
    leave_committed(dir, 2);
    const std::string last = gguf_part_path(dir / "m", 3, 3);
    std::string bytes = slurp(last);
    bytes[bytes.size() - 32] ^= 1;
    spew(last, bytes);
    CHECK_THROWS_AS(go_on_with_parts(dir), Error);
    CHECK(slurp(last) == bytes);
}

TEST_CASE("checkpoints: a directory goes on from them, whatever order its files have inside") {
    for (const std::uint64_t shard : {std::uint64_t{1000}, std::uint64_t{110}}) {
        const auto want = undisturbed_directory(shard);
        for (std::size_t t = 0; t < kMixed.size(); ++t) {
            for (const std::uint64_t offset : {0, 4}) {
                CAPTURE(shard);
                CAPTURE(t);
                CAPTURE(offset);
                const TempDir dir;
                {
                    HfDirectoryWriter writer(dir / "hf", kMixed, kSides, hf_options(shard));
                    write_until(writer, {t, offset}, kMixed);
                    writer.checkpoint({t, offset});
                }
                CHECK_FALSE(std::filesystem::exists(dir / "hf"));
                spew(dir / "hf.partial/stray.json", "left by another run");
                HfDirectoryWriter writer(dir / "hf", kMixed, kSides, hf_options(shard));
                write_from(writer, writer.start(), kMixed);
                writer.finish();
                CHECK(files_in(dir.path()) == want);
            }
        }
    }
}

TEST_CASE("checkpoints: a directory in its stored order starts where the checkpoint is") {
    std::vector<TensorSpec> sorted = {kMixed[1], kMixed[3], kMixed[0], kMixed[2]};
    const TempDir dir;
    {
        HfDirectoryWriter writer(dir / "hf", sorted, kSides, hf_options(1000));
        write_from(writer, {}, sorted);
        writer.checkpoint({2, 17});
    }
    HfDirectoryWriter writer(dir / "hf", sorted, kSides, hf_options(1000));
    is(writer.start(), {2, 17});
}

TEST_CASE("checkpoints: what is abandoned leaves nothing") {
    const TempDir dir;
    {
        HfDirectoryWriter hf(dir / "hf", kMixed, kSides, hf_options(110));
        GgufSplitWriter several(parts_in(dir), IfExists::kRefuse, kBuild);
        GgufWriter one(dir / "one.gguf", metadata(), kTensors, IfExists::kRefuse, kBuild);
        write_from(hf, {}, kMixed);
        write_from(several, {});
        write_from(one, {});
        hf.checkpoint({2, 0});
        several.checkpoint({2, 0});
        one.checkpoint({2, 0});
        CHECK(files_in(dir.path()).size() == 2 * (3 + 3 + 1) + 2);  // and index, config
        hf.abandon();
        several.abandon();
        one.abandon();
    }
    CHECK(dir.entries() == 0);
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
