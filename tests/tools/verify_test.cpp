// SPDX-License-Identifier: Apache-2.0
// quantize verify as a user runs it.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "io/gguf_writer.h"
#include "io/json.h"
#include "io/sha256.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult verify(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
    const std::vector<std::string> command = {tool_path("quantize"), "verify"};
    arguments.insert(arguments.begin(), command.begin(), command.end());
    return run_process(arguments, options);
}

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf");

    explicit Setting(const std::string& format = "q8_0") {
        ModelCopy::as_gguf(golden_model("llama-tied").directory, format).write_gguf(model);
    }
    // Writes over bytes of one tensor.
    void spoil(const std::string& tensor, std::uint64_t offset, std::string_view bytes) const {
        const std::uint64_t place = ModelFile::open(model)->get(tensor).offset + offset;
        std::string text = read_file(model);
        text.replace(place, bytes.size(), bytes);
        write_file(model, text);
    }
};

bool says(const ProcessResult& r, const std::string& text) {
    INFO(r.err);
    return r.err.find(text) != std::string::npos;
}

std::string tensor_bytes_of(const ModelFile& file, const TensorEntry& entry) {
    std::string bytes(entry.bytes, '\0');
    file.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
}

}  // namespace

TEST_CASE("verify: prints the file's sum as sha256sum does, and takes it back") {
    const Setting s;
    const std::string sum = sha256_of(read_file(s.model));
    const ProcessResult r = verify({s.model});
    CAPTURE(r.err);
    CHECK(r.exit == 0);
    CHECK(r.out == sum + "  " + s.model + "\n");
    CHECK(verify({s.model, "--sha256", sum, "-t", "3"}).exit == 0);
    std::string upper = sum;
    for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    CHECK(verify({s.model, "--sha256", upper}).exit == 0);
    const ProcessResult other = verify({s.model, "--sha256", std::string(64, 'a')});
    CHECK(other.exit == 65);
    CHECK(says(other, sum));
    CHECK(verify({s.model, "--sha256", "abc"}).exit == 2);
    const std::string sums = s.directory.write("SHA256SUMS", r.out);
    CHECK(verify({s.model, "--manifest", sums}).exit == 0);
}

TEST_CASE("verify: a manifest holds each tensor's sum and that of all their data") {
    const Setting s;
    const std::string manifest = s.directory.file("model.manifest");
    REQUIRE(verify({s.model, "--write-manifest", manifest}).exit == 0);
    const auto file = ModelFile::open(s.model);
    std::string want, all;
    for (const TensorEntry& entry : file->tensors()) {
        const std::string bytes = tensor_bytes_of(*file, entry);
        want += "sha256    " + sha256_of(bytes) + "  " + s.model + ":" + entry.name + "\n";
        all += bytes;
    }
    want += "sha256    " + sha256_of(all) + "  " + s.model + "\n";
    CHECK(read_file(manifest) == want);
    CHECK(verify({s.model, "--write-manifest", manifest}).exit == 73);
    CHECK(verify({s.model, "--write-manifest", manifest, "--overwrite"}).exit == 0);

    const std::string renamed = s.directory.file("renamed.gguf");
    std::filesystem::rename(s.model, renamed);
    CHECK(verify({renamed, "-c", manifest}).exit == 0);
    std::filesystem::rename(renamed, s.model);

    s.spoil("blk.1.ffn_up.weight", 40, "\x01\x02\x03");
    const ProcessResult changed = verify({s.model, "--check", manifest});
    CHECK(changed.exit == 65);
    CHECK(says(changed, "all tensors: its SHA-256 is another"));
    CHECK(says(changed, "tensor 'blk.1.ffn_up.weight': its SHA-256 is another"));
    CHECK(says(changed, "and 1 more"));

    write_file(manifest, want + "sha256 " + std::string(64, '0') + " model.gguf:absent\n");
    CHECK(says(verify({s.model, "-c", manifest}), "names 'model.gguf:absent'"));
    write_file(manifest, want.substr(want.find('\n') + 1));
    CHECK(
        says(verify({s.model, "-c", manifest}), "tensor 'token_embd.weight': not in the manifest"));
}

TEST_CASE("verify: a scale or weight that is not finite is named by tensor, row and column") {
    const std::string nan16("\xff\x7e", 2), infinite32("\x00\x00\x80\x7f", 4);
    {
        const Setting s("q8_0");  // rows of 64 weights: two blocks of 34 bytes
        s.spoil("blk.1.attn_q.weight", 3 * 68 + 34, nan16);
        const ProcessResult r = verify({s.model, "--json", s.directory.file("r.json")});
        CHECK(r.exit == 65);
        CHECK(says(r, "tensor 'blk.1.attn_q.weight', row 3, block 1"));
        CHECK(says(r, "columns 32 to 63"));
        CHECK(r.out.empty());
        const Json report = parse_json(read_file(s.directory.file("r.json")), "report");
        CHECK(report.find("problems")->as_array("problems").size() == 1);
    }
    {
        const Setting s("f32");
        s.spoil("blk.0.ffn_norm.weight", 4 * 7, infinite32);
        s.spoil("blk.1.ffn_down.weight", 4 * (5 * 96 + 2), infinite32);
        const ProcessResult r = verify({s.model});
        CHECK(r.exit == 65);
        CHECK(says(r, "'blk.0.ffn_norm.weight', row 0, block 7"));
        CHECK(says(r, "'blk.1.ffn_down.weight', row 5, block 2"));
        CHECK(says(r, "(column 2)"));
        CHECK(verify({s.model, "--write-manifest", s.directory.file("m")}).exit == 65);
        CHECK_FALSE(std::filesystem::exists(s.directory.file("m")));
    }
}

TEST_CASE("verify: any container and architecture; unknown types are summed and said to be so") {
    const TemporaryDirectory directory;
    CHECK(verify({golden_model("gemma3").directory}).exit == 0);
    const std::string path = directory.file("m.gguf");
    Metadata m;
    m.set("general.architecture", std::string("martian"));
    GgufWriter writer(path, m,
                      {{"a", TensorType::kIQ1_M, {256}},
                       {"b", TensorType::kI8, {5}},
                       {"c", TensorType::kF64, {2, 3}}},
                      IfExists::kRefuse);
    writer.write(0, 0, std::vector<std::byte>(56, std::byte{0xff}));
    writer.write(1, 0, std::vector<std::byte>(5));
    std::vector<double> doubles(6, 1.5);
    writer.write(2, 0, std::as_bytes(std::span(doubles)));
    writer.finish();
    const ProcessResult r = verify({path});
    CHECK(r.exit == 0);
    CHECK(says(r, "1 tensors of iq1_m"));

    std::string text = read_file(path);
    const double infinite = INFINITY;
    std::memcpy(text.data() + ModelFile::open(path)->get("c").offset + 4 * sizeof(double),
                &infinite, sizeof infinite);
    write_file(path, text);
    CHECK(says(verify({path}), "tensor 'c', row 1, column 1"));
    write_file(path, text.substr(0, text.size() - 40));
    CHECK(verify({path}).exit == 65);
    CHECK(verify({directory.file("absent.gguf")}).exit == 66);
}

TEST_CASE("verify: memory is the plan's, whatever the model's size") {
    const Setting s("f32");
    const ProcessResult r = verify({s.model, "--json", "-", "-q"});
    REQUIRE(r.exit == 0);
    const Json report = parse_json(r.out, "stdout");
    const auto peak = [&](const Json* tiers) {
        return tiers->find("ram")->find("peak_bytes")->as_int("peak");
    };
    CHECK(peak(report.find("plan")->find("tiers")) == peak(report.find("measured")));
    CHECK(peak(report.find("measured")) < std::int64_t{16} << 20);
}
