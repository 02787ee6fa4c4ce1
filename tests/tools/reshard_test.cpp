// SPDX-License-Identifier: Apache-2.0
// quantize split and quantize merge as a user runs them.
#include <doctest/doctest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "io/gguf_writer.h"
#include "io/json.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

ProcessResult quantize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    return run_process(arguments);
}

std::ptrdiff_t entries(const std::string& directory) {
    return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), parts = directory.file("part");
    std::string first;

    Setting() { write_tiny_model(model, "llama-tied"); }
    void split(const std::string& flag, const std::string& value) {
        const ProcessResult r = quantize({"split", "-m", model, "-o", parts, flag, value, "-q"});
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        first = r.out.substr(0, r.out.find('\n'));
    }
};

bool mentions(const ProcessResult& r, const std::string& text) {
    INFO(r.err);
    return r.err.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("split: merged again, the parts are the original byte for byte") {
    for (const auto& [flag, value] :
         {std::pair{"--split-max-size", "20kB"}, std::pair{"--split-max-tensors", "7"},
          std::pair{"--shard-size", "1G"}}) {
        CAPTURE(flag);
        Setting s;
        s.split(flag, value);
        const auto file = ModelFile::open(s.first);
        const bool one = value == std::string("1G");
        CHECK((file->files().size() == 1) == one);
        if (one) continue;
        const std::string merged = s.directory.file("merged.gguf");
        const ProcessResult r = quantize({"merge", "-m", s.first, "-o", merged, "-q"});
        CAPTURE(r.err);
        CHECK(r.exit == 0);
        CHECK(r.out == merged + "\n");
        CHECK(read_file(merged) == read_file(s.model));
    }
}

TEST_CASE("split: every tool reads the parts as the model") {
    Setting s;
    s.split("--split-max-tensors", "5");
    const auto answer = [](const std::string& model) {
        return run_process(
            {tool_path("run"), "-m", model, "-p", "abc", "-n", "8", "--temp", "0", "-q"});
    };
    const ProcessResult whole = answer(s.model), parts = answer(s.first);
    CHECK(parts.exit == 0);
    CHECK(parts.out == whole.out);
    CHECK(whole.out.size() > 3);
}

TEST_CASE("split: an architecture that we do not know is carried over all the same") {
    const TemporaryDirectory directory;
    const std::string model = directory.file("strange.gguf");
    Metadata m;
    m.set("general.architecture", std::string("strange"));
    const std::vector<TensorSpec> specs = {{"x", TensorType::kIQ2_XS, {3, 256}},
                                           {"y.z", TensorType::kI64, {2, 1, 5}}};
    {
        GgufWriter writer(model, m, specs, IfExists::kRefuse);
        for (std::size_t i = 0; i < specs.size(); ++i) {
            const auto bytes = *tensor_bytes(specs[i].type, specs[i].dims);
            writer.write(i, 0, std::vector<std::byte>(bytes, static_cast<std::byte>(i + 1)));
        }
        writer.finish();
    }
    const std::string prefix = directory.file("s"), merged = directory.file("m.gguf");
    REQUIRE(quantize({"split", model, "-o", prefix, "--split-max-tensors", "1", "-q"}).exit == 0);
    REQUIRE(quantize({"merge", prefix + "-00001-of-00002.gguf", "-o", merged, "-q"}).exit == 0);
    CHECK(read_file(merged) == read_file(model));
}

TEST_CASE("split: a Hugging Face directory becomes shards and one file again, side files too") {
    const TemporaryDirectory directory;
    const std::string source = golden_model("llama-untied").directory;
    const std::string one = directory.file("one"), shards = directory.file("shards");
    REQUIRE(quantize({"merge", "-m", source, "-o", one, "-q"}).exit == 0);
    REQUIRE(fs::exists(one + "/model.safetensors"));
    CHECK(read_file(one + "/config.json") == read_file(source + "/config.json"));
    const ProcessResult r = quantize({"split", one, "-o", shards, "--shard-size", "20kB", "-q"});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(fs::exists(shards + "/model.safetensors.index.json"));
    const auto before = ModelCopy::of_hf(source), after = ModelCopy::of_hf(shards);
    REQUIRE(after.specs.size() == before.specs.size());
    for (const TensorSpec& spec : before.specs) {
        CAPTURE(spec.name);
        CHECK(after.specs[after.index(spec.name)].dims == spec.dims);
        CHECK(after.data[after.index(spec.name)] == before.data[before.index(spec.name)]);
    }
}

TEST_CASE("split: the dry run foretells the bytes of all files, and writes none") {
    Setting s;
    const std::string json = s.directory.file("report.json");
    const auto total = [&] {
        const Json report = parse_json(read_file(json), json);
        return report.find("plan")->find("output_bytes")->as_int("report");
    };
    const std::vector<std::string> command = {"split",        "-m",   s.model,  "-o", s.parts,
                                              "--shard-size", "30kB", "--json", json, "-q"};
    std::vector<std::string> dry = command;
    dry.emplace_back("--dry-run");
    REQUIRE(quantize(dry).exit == 0);
    CHECK(entries(s.directory.path()) == 2);
    const std::int64_t foretold = total();
    const ProcessResult r = quantize(command);
    REQUIRE(r.exit == 0);
    const auto file = ModelFile::open(r.out.substr(0, r.out.find('\n')));
    CHECK(file->files().size() > 2);
    CHECK(file->file_bytes() == static_cast<std::uint64_t>(foretold));
}

TEST_CASE("split and merge: what cannot be done is refused in one line, with nothing written") {
    Setting s;
    const std::string out = s.directory.file("out");
    const auto refused = [&](const std::vector<std::string>& arguments, int exit,
                             const std::string& text) {
        const std::ptrdiff_t before = entries(s.directory.path());
        const ProcessResult r = quantize(arguments);
        CHECK(r.exit == exit);
        CHECK(mentions(r, text));
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK(entries(s.directory.path()) == before);
    };
    refused({"split", s.model, "-o", out}, 2, "--split-max-size");
    refused({"split", s.model, "-o", out, "--split-max-size", "big"}, 2, "--split-max-size");
    refused({"merge", s.model, "-o", out}, 2, "one file already");
    refused({"split", s.model, "-o", out, "--split-max-size", "1M", "--max-memory", "ram=1MiB"}, 77,
            "ram");
    refused({"split", s.model, "-o", out, "--split-max-size", "1M", "--max-memory", "disk=10kB"},
            77, "disk");
    refused({"split", golden_model("llama-tied").directory, "-o", out, "--split-max-tensors", "3"},
            2, "GGUF only");
    s.split("--split-max-tensors", "7");
    refused({"merge", s.first, "-o", s.model}, 73, "it exists");
    refused({"merge", s.first, "-o", s.first, "--overwrite"}, 2, "also the input");
    refused({"split", s.first, "-o", s.parts, "--split-max-tensors", "7", "--overwrite"}, 2,
            "also the input");
    std::string last = s.first;
    last.replace(last.find("-00001-"), 7, "-00003-");
    fs::remove(last);
    refused({"merge", s.first, "-o", out}, 66, last);
}

TEST_CASE("split: a full disk is 74, and nothing is left") {
    Setting s;
    const std::string disk = s.directory.file("disk");
    fs::create_directory(disk);
    if (::geteuid() != 0 || ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
        MESSAGE("SKIPPED: needs root to mount a small tmpfs");
        return;
    }
    const ProcessResult gguf =
        quantize({"split", s.model, "-o", disk + "/part", "--split-max-size", "20kB", "-q"});
    CHECK(gguf.exit == 74);
    CHECK(entries(disk) == 0);
    const ProcessResult hf =
        quantize({"merge", golden_model("llama-untied").directory, "-o", disk + "/hf", "-q"});
    CHECK(hf.exit == 74);
    CHECK(mentions(hf, "disk/hf"));
    CHECK(entries(disk) == 0);
    CHECK(::umount2(disk.c_str(), MNT_DETACH) == 0);
}
