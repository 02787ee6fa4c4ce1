// SPDX-License-Identifier: Apache-2.0
// compress of directories and of other floats, and the layout of DFloat11's authors both ways.
#include <algorithm>

#include "compress_kitchen.h"
#include "io/model_file.h"
#include "io/sha256.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr std::int64_t kHidden = 64;

// As 32 bits, the lower ones random or zero; or as 16 of another kind.
std::string as_f32(const std::string& bf16, bool low) {
    std::string out;
    for (std::size_t i = 0; i < bf16.size(); i += 2) {
        const Philox4 r = philox(77, i);
        out.push_back(low ? static_cast<char>(r.v[0]) : '\0');
        out.push_back(low ? static_cast<char>(r.v[1]) : '\0');
        out.append(bf16, i, 2);
    }
    return out;
}
std::string as_f16(const std::string& bf16) {
    std::string out;
    for (std::size_t i = 0; i < bf16.size(); i += 2) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, &bf16[i], sizeof bits);
        const Philox4 r = philox(78, i);
        const auto half = static_cast<std::uint16_t>(f32_to_f16(bf16_to_f32(bits)) ^ (r.v[0] & 7));
        out.append(reinterpret_cast<const char*>(&half), sizeof half);
    }
    return out;
}

std::vector<Part> layer(int i, std::uint64_t seed) {
    const std::string name = "model.layers." + std::to_string(i) + ".";
    return {{name + "self_attn.q_proj.weight", "BF16", {128, kHidden}, weights(8192, seed)},
            {name + "self_attn.o_proj.weight", "BF16", {kHidden, 128}, weights(8192, seed + 1)},
            {name + "mlp.down_proj.weight", "BF16", {kHidden, 200}, weights(12800, seed + 2)},
            {name + "input_layernorm.weight", "BF16", {kHidden}, weights(kHidden, seed + 3)}};
}
std::string index_of(const std::vector<std::pair<std::string, std::vector<Part>>>& shards) {
    Json map = Json::object();
    for (const auto& [file, parts] : shards)
        for (const Part& part : parts) map.set(part.name, file);
    Json index = Json::object();
    index.set("weight_map", std::move(map));
    return index.dump(2);
}

// A model in two shards.
struct Directory {
    TemporaryDirectory directory;
    std::string in = directory.file("in"), small = directory.file("small"),
                out = directory.file("out");
    std::vector<std::pair<std::string, std::vector<Part>>> shards;
    explicit Directory(bool alike = true) {
        fs::create_directory(in);
        std::vector<Part> first = layer(0, 20), second = layer(1, 30);
        first.push_back(
            {"model.embed_tokens.weight", "BF16", {4000, kHidden}, weights(4000 * kHidden, 40)});
        second.push_back({"other", "F32", {3}, std::string(12, 'o')});
        if (!alike)
            second.push_back({"model.layers.1.mlp.up_proj.weight",
                              "BF16",
                              {80, kHidden},
                              weights(80 * kHidden, 41)});
        shards = {{"model-00001-of-00002.safetensors", first},
                  {"model-00002-of-00002.safetensors", second}};
        for (const auto& [file, parts] : shards) write_file(in + "/" + file, safetensors(parts));
        write_file(in + "/model.safetensors.index.json", index_of(shards));
        write_file(in + "/config.json", R"({"hidden_size": 64, "model_type": "none"})");
        write_file(in + "/tokenizer.model", std::string(5000, 't') + '\0');
    }
    [[nodiscard]] static std::vector<std::string> names(const std::string& path) {
        std::vector<std::string> out;
        for (const auto& entry : fs::directory_iterator(path))
            out.push_back(entry.path().filename().string());
        std::sort(out.begin(), out.end());
        return out;
    }
};

std::string bytes_of(const ModelFile& file, const std::string& tensor) {
    const TensorEntry& entry = file.get(tensor);
    std::string out(entry.bytes, '\0');
    file.read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

}  // namespace

TEST_CASE("compress: F32 and F16 come back, too, and are coded where that pays") {
    const Setting s;
    const std::string w = weights(70 * 1000, 50), random = as_f32(weights(65536, 51), true);
    write_file(s.in, safetensors({{"f32", "F32", {70, 1000}, as_f32(w, true)},
                                  {"f32 of bf16", "F32", {70, 1000}, as_f32(w, false)},
                                  {"f16", "F16", {7, 10, 1000}, as_f16(w)},
                                  {"noise", "F16", {4, 32768}, random}}));
    const Json report = must({s.in, "-o", s.small});
    const JsonArray& tensors = report.find("tensors")->as_array("tensors");
    const auto share = [&](std::size_t i) {
        return number(tensors[i], "stored_bytes") / number(tensors[i], "bytes");
    };
    CHECK(share(0) < 0.85);
    CHECK(share(1) < 0.36);
    CHECK(share(2) < 0.88);
    s.check_round_trip(s.in);
    // What was cut off the low bits is told.
    std::string changed = read_file(s.small);
    const std::size_t at = changed.find(as_f32(w, true).substr(0, 2));
    REQUIRE(at != std::string::npos);
    changed[changed.size() / 2] ^= 1;
    write_file(s.small, changed);
    CHECK(compress({"--decompress", s.small, "-o", s.out}).exit == 65);
}

TEST_CASE("compress: every file of a directory comes back") {
    const Directory d;
    const Json report = must({d.in, "-o", d.small});
    CHECK(number(report, "output_bytes") < number(report, "input_bytes"));
    CHECK(Directory::names(d.small) ==
          std::vector<std::string>{"config.json", "model-00001-of-00002.safetensors.gguf",
                                   "model-00002-of-00002.safetensors.gguf",
                                   "model.safetensors.index.json", "thimble.lossless.json",
                                   "tokenizer.model"});
    must({"--decompress", d.small, "-o", d.out});
    CHECK(Directory::names(d.out) == Directory::names(d.in));
    for (const std::string& name : Directory::names(d.in)) {
        CAPTURE(name);
        CHECK(read_file(d.out + "/" + name) == read_file(d.in + "/" + name));
    }
    must({d.in, "-o", d.small, "--overwrite"});
}

TEST_CASE("compress: a directory with a change in it is refused, and what is no file, too") {
    const Directory d;
    must({d.in, "-o", d.small});
    const auto refused = [&](const std::vector<std::string>& arguments, int exit,
                             const char* says) {
        const ProcessResult r = compress(arguments);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(says) != std::string::npos);
        CHECK_FALSE(fs::exists(d.out));
        CHECK_FALSE(fs::exists(d.out + ".partial"));
    };
    write_file(d.small + "/tokenizer.model", std::string(5000, 't') + '\1');
    refused({"--decompress", d.small, "-o", d.out}, 65, "tokenizer.model");
    refused({d.small, "-o", d.out}, 2, "compressed already");
    refused({"--decompress", d.in, "-o", d.out}, 2, "not a directory that compress wrote");
    fs::create_directory(d.in + "/onnx");
    refused({d.in, "-o", d.out}, 2, "onnx");
    fs::remove(d.in + "/onnx");
    write_file(d.in + "/part.gguf", "GGUF");
    refused({d.in, "-o", d.out}, 2, "quantize merge");
    std::string manifest = read_file(d.small + "/thimble.lossless.json");
    manifest.replace(manifest.find("tokenizer.model"), 15, "../tokenizer.md");
    write_file(d.small + "/thimble.lossless.json", manifest);
    refused({"--decompress", d.small, "-o", d.out}, 65, "no plain name");
}

TEST_CASE("compress: the reference layout holds the same tensors") {
    for (const bool alike : {true, false}) {  // layers of the same matrices or not
        const Directory d(alike);
        const Json report = must({d.in, "-o", d.small, "--layout", "reference"});
        CHECK(number(report, "bits_per_weight") < 12);
        const auto coded = ModelFile::open(d.small);
        CHECK(coded->find("model.layers.1.mlp.down_proj.weight") == nullptr);
        CHECK(coded->get("model.layers.1.luts").dims.back() == 256);
        CHECK(bytes_of(*coded, "model.layers.0.split_positions").size() == 16);
        CHECK(bytes_of(*coded, "model.embed_tokens.split_positions").empty());
        const Json* config = coded->config().find("dfloat11_config");
        REQUIRE(config != nullptr);
        const JsonMembers& patterns = config->find("pattern_dict")->as_members("pattern_dict");
        CHECK(patterns.size() == (alike ? 2 : 3));
        must({"--decompress", d.small, "-o", d.out});
        const auto back = ModelFile::open(d.out), source = ModelFile::open(d.in);
        CHECK(back->config().dump() == source->config().dump());
        CHECK(back->tensors().size() == source->tensors().size());
        for (const TensorEntry& tensor : source->tensors()) {
            CAPTURE(tensor.name);
            REQUIRE(back->find(tensor.name) != nullptr);
            CHECK(back->get(tensor.name).dims == tensor.dims);
            CHECK(bytes_of(*back, tensor.name) == bytes_of(*source, tensor.name));
        }
        CHECK(read_file(d.out + "/tokenizer.model") == read_file(d.in + "/tokenizer.model"));
    }
}

TEST_CASE("compress: the reference layout as scripts/make_golden_df11.py writes it") {
    const TemporaryDirectory directory;
    const std::string golden = THIMBLE_SOURCE_DIR "/tests/golden/df11", out = directory.file("out");
    must({"--decompress", golden, "-o", out});
    const auto back = ModelFile::open(out);
    const Json expected = parse_json(read_file(golden + "/expected.json"), "expected");
    const JsonMembers& tensors = expected.as_members("expected");
    CHECK(back->tensors().size() == tensors.size());
    for (const auto& [name, facts] : tensors) {
        CAPTURE(name);
        REQUIRE(back->find(name) != nullptr);
        JsonArray shape;
        for (const std::uint64_t d : back->get(name).dims)
            shape.emplace_back(static_cast<std::int64_t>(d));
        CHECK(Json(shape).dump() == facts.find("shape")->dump());
        CHECK(sha256_of(bytes_of(*back, name)) == facts.find("sha256")->as_string("sha256"));
    }
}

TEST_CASE("compress: what is damaged in the reference layout is told, by its module") {
    const Directory d;
    must({d.in, "-o", d.small, "--layout", "reference"});
    const std::string path = d.small + "/model.safetensors", whole = read_file(path);
    const auto file = ModelFile::open(path);
    const auto refused = [&](const std::string& tensor, std::uint64_t at, std::uint8_t flip) {
        std::string changed = whole;
        changed[file->get(tensor).offset + at] ^= static_cast<char>(flip);
        write_file(path, changed);
        const ProcessResult r = compress({"--decompress", d.small, "-o", d.out});
        CAPTURE(tensor);
        CAPTURE(r.err);
        CHECK(r.exit == 65);
        CHECK(r.err.find("model.layers.0") != std::string::npos);
        CHECK_FALSE(fs::exists(d.out));
    };
    refused("model.layers.0.output_positions", 3, 0x80);
    refused("model.layers.0.split_positions", 0, 1);
    refused("model.layers.0.luts", 0, 0xff);
    refused("model.layers.0.gaps", 320, 0xff);
    write_file(path, whole);
    std::string config = read_file(d.small + "/config.json");
    config.replace(config.find("layers"), 6, "(l|m)s");
    write_file(d.small + "/config.json", config);
    CHECK(compress({"--decompress", d.small, "-o", d.out}).exit == 65);
}
