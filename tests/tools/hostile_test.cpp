// SPDX-License-Identifier: Apache-2.0
// Spoiled models and places that cannot be written, given to every tool that reads a model: the
// right exit code, one line on stderr, nothing on stdout and nothing half-written.
#include <doctest/doctest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "io/safetensors_writer.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr const char* kModel = "llama-tied";

// A GGUF copy with one token per printable character.
ModelCopy complete_copy() {
    ModelCopy copy = ModelCopy::as_gguf(golden_model(kModel).directory, "f32");
    const std::uint64_t vocab = copy.specs[copy.index("token_embd.weight")].dims[0];
    std::vector<std::string> pieces = {"<unk>", "<s>", "</s>"};
    for (char c = '!'; pieces.size() < vocab; ++c) pieces.emplace_back(1, c);
    std::vector<std::int32_t> kinds(vocab, 1);
    kinds[0] = 2, kinds[1] = kinds[2] = 3;
    const auto set = [&](const char* key, MetaElements elements) {
        copy.metadata.set(key,
                          std::make_shared<const MetaArray>(MetaArray{std::move(elements), false}));
    };
    copy.metadata.set("tokenizer.ggml.model", std::string("llama"));
    set("tokenizer.ggml.tokens", std::move(pieces));
    set("tokenizer.ggml.scores", std::vector<float>(vocab, 0.0F));
    set("tokenizer.ggml.token_type", std::move(kinds));
    copy.metadata.set("tokenizer.ggml.unknown_token_id", std::uint32_t{0});
    copy.metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{1});
    copy.metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{2});
    return copy;
}

struct Setting {
    TemporaryDirectory directory;
    std::string good = directory.file("good.gguf"), model = directory.file("model.gguf");
    std::string text = directory.write("text.txt", std::string(200, 'a'));
    std::string out = directory.file("out");
    std::string bytes;

    Setting() {
        complete_copy().write_gguf(good);
        bytes = read_file(good);
        write_file(model, bytes);
    }
    // Every way in which a tool reads `path`.
    [[nodiscard]] std::vector<std::vector<std::string>> commands(const std::string& path) const {
        return {{tool_path("run"), "-m", path, "-p", "abc", "-n", "2", "--temp", "0", "-q"},
                {tool_path("evaluate"), "-m", path, "-f", text, "-c", "16", "-o", out, "-q"},
                {tool_path("evaluate"), "-m", good, "--reference", path, "-f", text, "-c", "16",
                 "-o", out, "-q"},
                {tool_path("quantize"), "-m", path, "-o", out, "--format", "q8_0", "-q"}};
    }
    void spoil(std::size_t at, char value) const {
        std::string spoiled = bytes;
        spoiled[at] = value;
        std::filesystem::remove(model);
        write_file(model, spoiled);
    }
    [[nodiscard]] std::size_t header_bytes() const {
        std::uint64_t least = bytes.size();
        const auto opened = ModelFile::open(good);
        for (const TensorEntry& t : opened->tensors()) least = std::min(least, t.offset);
        return least;
    }
};

std::string joined(const std::vector<std::string>& command) {
    std::string out;
    for (const std::string& word : command) out += word + ' ';
    return out;
}

std::ptrdiff_t entries(const std::string& directory) {
    return std::distance(std::filesystem::directory_iterator(directory),
                         std::filesystem::directory_iterator());
}

void check_refused(const ProcessResult& r, int exit, const std::string& mentions) {
    CAPTURE(r.err);
    CHECK(r.exit == exit);
    CHECK(r.out.empty());
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
    CHECK(r.err.find(mentions) != std::string::npos);
}

// All tools refuse `path`, and leave nothing.
void check_all_refuse(const Setting& s, const std::string& path, int exit,
                      const std::string& mentions) {
    const std::ptrdiff_t before = entries(s.directory.path());
    for (const auto& command : s.commands(path)) {
        INFO(joined(command));
        check_refused(run_process(command), exit, mentions);
        CHECK(entries(s.directory.path()) == before);
    }
}

bool may_become_another_user() {
    return ::geteuid() == 0 && ::access("/usr/bin/setpriv", X_OK) == 0;
}

}  // namespace

TEST_CASE("hostile: the model that the cases below spoil is good") {
    const Setting s;
    for (const auto& command : s.commands(s.model)) {
        const ProcessResult r = run_process(command);
        INFO(joined(command));
        CAPTURE(r.err);
        CHECK(r.exit == 0);
        std::filesystem::remove(s.out);
    }
}

TEST_CASE("hostile: a cut model is bad data for every tool") {
    const Setting s;
    for (const std::size_t length : {std::size_t{0}, std::size_t{3}, std::size_t{10},
                                     s.header_bytes() / 2, s.header_bytes(), s.bytes.size() - 1}) {
        CAPTURE(length);
        std::filesystem::remove(s.model);
        write_file(s.model, s.bytes.substr(0, length));
        check_all_refuse(s, s.model, 65, s.model);
    }
}

TEST_CASE("hostile: a flipped header byte is bad data or harmless, never a fault") {
    const Setting s;
    const std::size_t header = s.header_bytes();
    int refused = 0;
    for (std::size_t at = 0; at < header; at += at < 32 ? 5 : header / 24) {
        CAPTURE(at);
        s.spoil(at, static_cast<char>(s.bytes[at] ^ 0x40));
        for (const auto& command : s.commands(s.model)) {
            INFO(joined(command));
            const ProcessResult r = run_process(command);
            if (r.exit != 0) {
                check_refused(r, 65, "");
                CHECK_FALSE(std::filesystem::exists(s.out));
                ++refused;
            }
            std::filesystem::remove(s.out);
        }
    }
    CHECK(refused > 20);  // the changes do reach the checks
}

TEST_CASE("hostile: a NaN weight is named by every tool") {
    const Setting s;
    const auto file = ModelFile::open(s.good);
    const TensorEntry& tensor = file->get("blk.1.ffn_up.weight");
    std::string spoiled = s.bytes;
    const float nan = NAN;
    std::memcpy(spoiled.data() + tensor.offset + 5 * sizeof nan, &nan, sizeof nan);
    write_file(s.model, spoiled);
    check_all_refuse(s, s.model, 65, "blk.1.ffn_up.weight");
}

TEST_CASE("hostile: missing files and shards are named by every tool") {
    const Setting s;
    check_all_refuse(s, s.directory.file("absent.gguf"), 66, "absent.gguf");

    const ModelCopy copy = ModelCopy::of_hf(golden_model(kModel).directory);
    const std::string sharded = s.directory.file("sharded");
    SafetensorsOptions options;
    options.max_shard_bytes = 40'000;
    {
        SafetensorsWriter writer(sharded, copy.specs, options);
        for (std::size_t i = 0; i < copy.specs.size(); ++i) writer.write(i, 0, copy.data[i]);
        writer.finish();
    }
    write_file(sharded + "/config.json", copy.config.dump());
    std::string last;
    for (const auto& entry : std::filesystem::directory_iterator(sharded)) {
        const std::string name = entry.path().filename().string();
        if (name.ends_with(".safetensors")) last = std::max(last, name);
    }
    REQUIRE(last.starts_with("model-0000"));
    std::filesystem::remove(sharded + "/" + last);
    check_all_refuse(s, sharded, 66, last);
    std::filesystem::remove(sharded + "/model.safetensors.index.json");
    check_all_refuse(s, sharded, 66, "model.safetensors");
}

TEST_CASE("hostile: an output that is an input is refused") {
    const Setting s;
    const std::vector<std::vector<std::string>> commands = {
        {tool_path("quantize"), "-m", s.good, "-o", s.good, "--overwrite"},
        {tool_path("quantize"), "-m", s.good, "-o", s.out, "--json", s.good},
        {tool_path("quantize"), "-m", s.good, "-o", s.out, "--json", s.out},
        {tool_path("evaluate"), "-m", s.good, "-f", s.text, "-c", "16", "-o", s.good},
        {tool_path("evaluate"), "-m", s.good, "-f", s.text, "-c", "16", "-o", s.text},
        {tool_path("evaluate"), "-m", s.good, "-f", s.text, "-c", "16", "--json", s.text},
        {tool_path("evaluate"), "-m", s.model, "--reference", s.good, "-f", s.text, "-c", "16",
         "-o", s.good},
        {tool_path("run"), "-m", s.good, "-p", "a", "-n", "1", "--json", s.good},
        {tool_path("run"), "-m", s.good, "-f", s.text, "-n", "1", "--json", s.text},
        {tool_path("run"), "-m", golden_model(kModel).directory, "-p", "a", "--json",
         golden_model(kModel).directory + "/config.json"}};
    for (const auto& command : commands) {
        INFO(joined(command));
        const ProcessResult r = run_process(command);
        CAPTURE(r.err);
        CHECK(r.exit == 2);
        const bool kept = read_file(s.good) == s.bytes && read_file(s.text).size() == 200;
        REQUIRE(kept);
        CHECK_FALSE(std::filesystem::exists(s.out));
    }
}

TEST_CASE("hostile: a full disk is 74, and nothing is left") {
    const Setting s;
    const std::string disk = s.directory.file("disk");
    std::filesystem::create_directory(disk);
    if (::geteuid() != 0 || ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
        MESSAGE("SKIPPED: needs root to mount a small tmpfs");
        return;
    }
    const std::string out = disk + "/out";
    const ProcessResult quantized =
        run_process({tool_path("quantize"), "-m", s.good, "-o", out, "--format", "f32", "-q"});
    check_refused(quantized, 74, out);
    CHECK(entries(disk) == 0);
    write_file(disk + "/filler", std::string(64 << 10, 'x'));
    for (const auto& [flag, tool] : {std::pair{"-o", "evaluate"}, std::pair{"--json", "evaluate"},
                                     std::pair{"--json", "run"}}) {
        CAPTURE(tool);
        std::vector<std::string> command = {tool_path(tool), "-m", s.good, flag, out, "-q"};
        const auto more = tool == std::string("run")
                              ? std::vector<std::string>{"-p", "a", "-n", "1"}
                              : std::vector<std::string>{"-f", s.text, "-c", "16"};
        command.insert(command.end(), more.begin(), more.end());
        const ProcessResult r = run_process(command);
        CAPTURE(r.err);
        CHECK(r.exit == 74);
        CHECK(r.err.find(out) != std::string::npos);
        CHECK(entries(disk) == 1);
    }
    CHECK(::umount2(disk.c_str(), MNT_DETACH) == 0);
}

TEST_CASE("hostile: an unwritable directory is 73 for a user without rights, and nothing is left") {
    if (!may_become_another_user()) {
        MESSAGE("SKIPPED: needs root to become another user by setpriv");
        return;
    }
    const Setting s;
    std::filesystem::permissions(s.directory.path(), std::filesystem::perms(0755));
    const std::ptrdiff_t before = entries(s.directory.path());
    for (auto command : s.commands(s.good)) {
        if (command[0] == tool_path("run")) command.insert(command.end(), {"--json", s.out});
        command.insert(command.begin(),
                       {"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"});
        INFO(joined(command));
        const ProcessResult r = run_process(command);
        CAPTURE(r.err);
        if (r.exit == 126 || r.exit == 127 ||
            r.err.find("failed to execute") != std::string::npos) {
            MESSAGE("SKIPPED: the other user cannot reach the build directory");
            return;
        }
        CHECK(r.exit == 73);
        CHECK(r.err.find(s.out) != std::string::npos);
        CHECK(entries(s.directory.path()) == before);
    }
}
