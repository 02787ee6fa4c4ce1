// SPDX-License-Identifier: Apache-2.0
// quantize inspect as a user runs it: any container, any architecture.
#include <doctest/doctest.h>

#include <cmath>

#include "io/gguf_writer.h"
#include "io/json.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult quantize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    return run_process(arguments);
}

Json inspected(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "inspect");
    arguments.insert(arguments.end(), {"--json", "-", "-q"});
    const ProcessResult r = quantize(arguments);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return parse_json(r.out, "stdout");
}

const Json& at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        CAPTURE(key);
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return *node;
}

std::int64_t number(const Json& json, std::initializer_list<const char*> keys) {
    return at(json, keys).as_int("number");
}

const Json& tensor_named(const Json& report, const std::string& name) {
    for (const Json& tensor : at(report, {"tensors"}).as_array("tensors")) {
        if (at(tensor, {"name"}).as_string("name") == name) return tensor;
    }
    FAIL("no tensor " << name);
    return report;
}

// Two tensors of an architecture that nobody knows, in as many parts as asked for.
std::string unknown_model(const TemporaryDirectory& directory, std::uint16_t parts) {
    std::string first;
    for (std::uint16_t part = 0; part < parts; ++part) {
        Metadata m;
        m.set("general.architecture", std::string("martian"));
        m.set("martian.epsilon", 1e-5F);
        auto numbers = std::make_shared<MetaArray>();
        std::vector<std::int32_t> values(1000);
        for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
        numbers->elements = values;
        m.set("martian.numbers", std::shared_ptr<const MetaArray>(numbers));
        std::vector<TensorSpec> specs = {{"canal", TensorType::kF16, {3, 2, 32}},
                                         {"dust", TensorType::kQ8_0, {2, 64}}};
        std::string path = directory.file("m.gguf");
        if (parts > 1) {
            m.set("split.no", part);
            m.set("split.count", parts);
            m.set("split.tensors.count", std::int32_t{2});
            specs = {specs[part]};
            path = directory.file("m-0000" + std::to_string(part + 1) + "-of-00002.gguf");
        }
        GgufWriter writer(path, m, specs, IfExists::kReplace);
        for (std::size_t i = 0; i < specs.size(); ++i)
            writer.write(i, 0, std::vector<std::byte>(*tensor_bytes(specs[i].type, specs[i].dims)));
        writer.finish();
        if (part == 0) first = path;
    }
    return first;
}

}  // namespace

TEST_CASE("inspect: tensors, totals and metadata of an unknown architecture, whole or split") {
    for (const std::uint16_t parts : {std::uint16_t{1}, std::uint16_t{2}}) {
        CAPTURE(parts);
        const TemporaryDirectory directory;
        const Json report = inspected({unknown_model(directory, parts)});
        CHECK(number(report, {"files"}) == parts);
        CHECK(number(report, {"total", "weights"}) == 3 * 2 * 32 + 128);
        CHECK(number(report, {"total", "bytes"}) == 3 * 2 * 32 * 2 + 4 * 34);
        CHECK(number(report, {"types", "q8_0", "bytes"}) == 4 * 34);
        CHECK(at(report, {"types", "q8_0", "bits_per_weight"}).as_double("bits") == 8.5);
        const Json& canal = tensor_named(report, "canal");
        CHECK(at(canal, {"shape"}).dump() == "[3,2,32]");
        CHECK(at(canal, {"type"}).as_string("type") == "f16");
        CHECK(number(report, {"metadata", "martian.numbers", "count"}) == 1000);
        CHECK(at(report, {"metadata", "martian.numbers", "first"}).dump() == "[0,1,2,3,4,5,6,7]");
        CHECK(at(report, {"metadata", "martian.epsilon"}).as_double("epsilon") == 1e-5);
    }
}

TEST_CASE("inspect: the table names every tensor, and long arrays are shortened") {
    const TemporaryDirectory directory;
    const ProcessResult r = quantize({"inspect", unknown_model(directory, 1), "--values", "2"});
    CHECK(r.exit == 0);
    for (const char* text : {"martian.numbers: [0,1, ...] (1000)", "canal", "3 x 2 x 32", "8.500",
                             "martian.epsilon: 1e-05"}) {
        CAPTURE(text);
        CHECK(r.out.find(text) != std::string::npos);
    }
}

TEST_CASE("inspect: a Hugging Face directory shows its config, its tensors under stored names") {
    const Json report = inspected({golden_model("llama-tied").directory});
    CHECK(number(report, {"metadata", "hidden_size"}) == 64);
    CHECK(at(tensor_named(report, "model.layers.1.mlp.up_proj.weight"), {"type"}).as_string("t") ==
          "bf16");
}

TEST_CASE("inspect: the error against a reference is the one that quantising measured") {
    const TemporaryDirectory directory;
    const std::string hf = golden_model("llama-tied").directory;
    const std::string source = directory.file("f32.gguf"), made = directory.file("q4.gguf");
    ModelCopy::as_gguf(hf, "f32").write_gguf(source);
    const std::string lines = directory.file("errors.jsonl");
    REQUIRE(
        quantize({"-m", source, "-o", made, "--format", "Q4_0", "--error-report", lines}).exit ==
        0);
    const Json by_file = inspected({made, "--reference", source, "--threads", "1"});
    const Json by_three = inspected({made, "--reference", source, "--threads", "3"});
    const Json by_directory = inspected({made, "--reference", hf});  // other names, permuted rows
    CHECK(at(by_file, {"tensors"}).dump() == at(by_three, {"tensors"}).dump());

    const std::string text = read_file(lines);
    int compared = 0;
    for (std::size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1) {
        const Json line = parse_json(text.substr(begin, text.find('\n', begin) - begin), "line");
        CHECK(at(line, {"schema"}).as_string("schema") == "thimble.tensor-error/1");
        const std::string name = at(line, {"name"}).as_string("name");
        CAPTURE(name);
        for (const Json* report : {&by_file, &by_directory}) {
            const Json& tensor = tensor_named(*report, name);
            for (const char* key : {"relative_rmse", "rmse", "max_abs", "cosine"}) {
                CAPTURE(key);
                CHECK(at(tensor, {key}).as_double(key) ==
                      doctest::Approx(at(line, {key}).as_double(key)).epsilon(1e-12));
            }
        }
        if (at(line, {"to"}).as_string("to") != "f32") {
            const double relative = at(line, {"relative_rmse"}).as_double("error");
            CHECK(relative > 0.001);
            CHECK(relative < 0.2);
            CHECK(at(line, {"snr_db"}).as_double("snr") ==
                  doctest::Approx(-20 * std::log10(relative)).epsilon(1e-9));
        }
        ++compared;
    }
    CHECK(compared == static_cast<int>(at(by_file, {"tensors"}).as_array("t").size()));
    CHECK(at(by_file, {"steps"}).as_array("steps").size() == 1);
}

TEST_CASE("inspect: a reference without any common tensor is refused") {
    const TemporaryDirectory directory;
    const std::string made = directory.file("m2.gguf");
    ModelCopy::as_gguf(golden_model("llama-tied").directory, "f32").write_gguf(made);
    const ProcessResult r = quantize({"inspect", made, "--reference", unknown_model(directory, 1)});
    CHECK(r.exit == 2);
    CHECK(r.err.find("no tensor") != std::string::npos);
    CHECK(quantize({"inspect", directory.file("absent.gguf")}).exit == 66);
    CHECK(quantize({"inspect", directory.write("x.gguf", "GGUX")}).exit == 65);
}
