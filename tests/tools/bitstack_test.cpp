// SPDX-License-Identifier: Apache-2.0
// compress --method bitstack and the tools that run what it writes, as a user runs them.
#include <doctest/doctest.h>

#include <filesystem>

#include "io/json.h"
#include "model/source.h"
#include "model/stacked_tensor.h"
#include "tests/support/models.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

std::int64_t at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return node->as_int("report");
}

ProcessResult tool(const char* name, std::vector<std::string> arguments,
                   const std::string& input = {}) {
    arguments.insert(arguments.begin(), tool_path(name));
    return run_process(arguments, {.input = input});
}

struct Setting {
    TemporaryDirectory directory;
    std::string in = directory.file("in.gguf"), out = directory.file("out.gguf");
    std::string report = directory.file("report.json");

    void compress(const std::string& golden, std::vector<std::string> more = {}) const {
        write_tiny_model(in, golden);
        more.insert(more.begin(), {"--method", "bitstack", in, "-o", out, "--rank", "4", "--levels",
                                   "6", "--json", report, "-q"});
        const ProcessResult r = tool("compress", std::move(more));
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
    }
    [[nodiscard]] ProcessResult run(std::vector<std::string> more,
                                    const std::string& input = {}) const {
        more.insert(more.begin(), {"-m", out, "--temp", "0", "--json", report});
        return tool("run", std::move(more), input);
    }
    [[nodiscard]] Json read_report() const { return parse_json(read_file(report), "report"); }
};

const std::vector<std::string> kPrompt = {"-p", "some words to go on from", "-n", "8"};

std::vector<std::string> with(std::vector<std::string> a, const std::vector<std::string>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
}

}  // namespace

TEST_CASE("bitstack: a budget chooses how many blocks are loaded; less than one each is refused") {
    const Setting s;
    s.compress("llama-tied");
    const ProcessResult whole = s.run(with(kPrompt, {"-q"}));
    CAPTURE(whole.err);
    REQUIRE(whole.exit == 0);
    const std::int64_t all = at(s.read_report(), {"size", "all_blocks"});
    CHECK(at(s.read_report(), {"size", "blocks"}) == all);
    const std::int64_t most = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});

    const ProcessResult refused = s.run(with(kPrompt, {"--max-memory", "ram=1", "--dry-run"}));
    CHECK(refused.exit == 77);
    CHECK(s.run(with(kPrompt, {"--max-memory", "ram=1"})).exit == 77);
    CHECK(refused.err.find("with one block of each matrix the model needs") != std::string::npos);
    const std::int64_t least = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});
    REQUIRE(least < most);
    std::int64_t before = 0;
    for (std::int64_t part = 0; part <= 6; ++part) {
        const std::int64_t asked = least + part * (most - least) / 6;
        const ProcessResult r =
            s.run(with(kPrompt, {"--max-memory", "ram=" + std::to_string(asked)}));
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        const Json report = s.read_report();
        const std::int64_t blocks = at(report, {"size", "blocks"});
        CHECK((part == 0 ? blocks == all / 6 : blocks > before));
        before = blocks;
        const std::int64_t predicted = at(report, {"plan", "tiers", "ram", "peak_bytes"});
        CHECK(predicted <= asked);
        CHECK(at(report, {"size", "peak_bytes"}) == predicted);
        CHECK(at(report, {"measured", "ram", "peak_bytes"}) <= asked);
    }
    CHECK(before == all);
}

TEST_CASE("bitstack: a conversation changes the size between its turns") {
    const Setting s;
    s.compress("llama-tied");
    const std::vector<std::string> talking = {"-i", "--chat", "-n", "3", "--ctx-size", "64"};
    REQUIRE(s.run(with(talking, {"--max-memory", "ram=1", "--dry-run"}), "").exit == 77);
    const std::string least =
        std::to_string(at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"}));
    const std::string talk =
        "hello\n/memory 1\n/memory nonsense\n/memory\n/clear\nagain\n/memory " + least +
        "\n/clear\nand again\n/memory 1GiB\n/clear\nonce more\n";
    const ProcessResult r = s.run(talking, talk);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(r.err.find("the least that this model runs in is") != std::string::npos);
    const Json report = s.read_report();
    const JsonArray& turns = report.find("turns")->as_array("turns");
    REQUIRE(turns.size() == 4);
    std::vector<std::int64_t> blocks;
    for (const Json& turn : turns) blocks.push_back(at(turn, {"size", "blocks"}));
    const std::int64_t all = at(turns[0], {"size", "all_blocks"});
    CHECK(blocks[0] == all);
    CHECK(blocks[1] == all);  // what cannot be is not done
    CHECK(blocks[2] == all / 6);
    CHECK(blocks[3] == all);
    CHECK(std::to_string(at(turns[2], {"size", "peak_bytes"})) == least);

    const ProcessResult of_one_size =
        tool("run", {"-m", s.in, "-i", "--chat", "-n", "2", "--temp", "0"}, "/memory 1GiB\nhi\n");
    CHECK(of_one_size.exit == 0);
    CHECK(of_one_size.err.find("this model has one size") != std::string::npos);
}

TEST_CASE("bitstack: other tools read it, and what they write is an ordinary model again") {
    const Setting s;
    const std::string text = s.directory.file("text.txt");
    std::string words;
    for (int i = 0; i < 200; ++i) words += "word number " + std::to_string(i) + "\n";
    write_file(text, words);
    s.compress("llama-tied", {"--calibration", text, "--ctx-size", "32", "--order", "ppl",
                              "--order-chunks", "2"});
    CHECK(s.read_report().find("matrices")->as_array("matrices")[0].find("scaled")->as_bool("") ==
          true);
    CHECK_FALSE(std::filesystem::exists(s.out + ".blocks"));

    const std::string plain = s.directory.file("plain.gguf");
    const ProcessResult decoded =
        tool("quantize", {"-m", s.out, "-o", plain, "--format", "f32", "-q"});
    CAPTURE(decoded.err);
    REQUIRE(decoded.exit == 0);
    const auto model = ModelSource::open(plain);
    CHECK_FALSE(any_stacked(*model));
    CHECK(model->file().metadata().find(kStackOrderKey) == nullptr);
    // The blocks and the decoded model are one; with fewer blocks they are not.
    const auto differs = [&](std::vector<std::string> more) {
        const ProcessResult r = tool(
            "evaluate", with({"-m", s.out, "--reference", plain, "-f", text, "-c", "32", "--chunks",
                              "4", "--assert", "kld_mean<1e-6", "--json", s.report, "-q"},
                             more));
        CAPTURE(r.err);
        REQUIRE((r.exit == 0 || r.exit == 3));
        return r.exit == 3;
    };
    CHECK_FALSE(differs({}));
    const std::int64_t peak = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});
    CHECK(differs({"--max-memory", "ram=" + std::to_string(peak - 4096)}));

    CHECK(tool("compress", {"--method=bitstack", s.out, "-o", plain + "2", "-q"}).exit == 2);
    CHECK(tool("compress", {"--method=bitstack", s.in, "-o", s.out, "-q"}).exit == 73);
    CHECK(tool("compress", {"--method", "bitstack", s.in, "-o", s.in, "--overwrite"}).exit == 2);
    CHECK(tool("compress", {"--method", "bitstack", s.in, "-o", plain + "3", "--order", "ppl"})
              .exit == 2);
}

TEST_CASE("bitstack: sizes of a real model are within 1 MB of what is asked") {
    const auto model = real_model(kSmolLm2);
    if (!model) return;
    Setting s;
    const ProcessResult made =
        tool("compress", {"--method", "bitstack", *model, "-o", s.out, "--levels", "2", "-q"});
    CAPTURE(made.err);
    REQUIRE(made.exit == 0);
    REQUIRE(s.run(with(kPrompt, {"--max-memory", "ram=1", "--dry-run"})).exit == 77);
    const std::int64_t least = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});
    REQUIRE(s.run(with(kPrompt, {"--dry-run"})).exit == 0);
    const std::int64_t most = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});
    for (std::int64_t i = 0; i < 20; ++i) {
        const std::int64_t asked = least + i * (most - least) / 20;
        const ProcessResult r =
            s.run(with(kPrompt, {"--max-memory", "ram=" + std::to_string(asked), "--dry-run"}));
        REQUIRE(r.exit == 0);
        const std::int64_t got = at(s.read_report(), {"plan", "tiers", "ram", "peak_bytes"});
        CHECK(got <= asked);
        CHECK(got > asked - (1 << 20));
        if (i % 5 != 2) continue;
        REQUIRE(s.run(with(kPrompt, {"--max-memory", "ram=" + std::to_string(asked)})).exit == 0);
        CHECK(at(s.read_report(), {"size", "peak_bytes"}) == got);
        CHECK(at(s.read_report(), {"measured", "ram", "peak_bytes"}) <= asked);
    }
}
