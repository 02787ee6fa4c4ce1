// SPDX-License-Identifier: Apache-2.0
// Importance matrices as a user meets them: quantize --imatrix and quantize imatrix.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

#include "calib/importance.h"
#include "format/weight_format.h"
#include "io/json.h"
#include "io/sha256.h"
#include "model/source.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult quantize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    return run_process(arguments);
}

// A tiny model and an importance matrix of all its matrices, uneven over the columns.
struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf");
    ImportanceMatrix matrix;

    Setting() {
        ModelCopy::as_gguf(golden_model("llama-tied").directory, "f32").write_gguf(model);
        matrix.chunk_count = 3;
        matrix.chunk_tokens = 512;
        matrix.datasets = {"text.txt"};
        const auto source = ModelSource::open(model);
        for (const SourceTensor& tensor : source->tensors()) {
            if (!tensor.is_matrix || tensor.name == "token_embd.weight") continue;
            ImportanceEntry& entry = matrix.entries[tensor.name];
            entry.counts = {1536};
            for (std::int64_t c = 0; c < tensor.cols(); ++c)
                entry.sums.push_back(static_cast<float>(c % 7 == 0 ? 30000 : 100 + c));
        }
    }
    [[nodiscard]] std::string file(const std::string& name) const { return directory.file(name); }
    [[nodiscard]] std::string write(const std::string& name = "m.imatrix.gguf",
                                    ImportanceFormat format = ImportanceFormat::kGguf) const {
        write_importance(file(name), matrix, format, IfExists::kReplace);
        return file(name);
    }
    // With this many of an entry's bytes changed to 0xff: NaN.
    [[nodiscard]] std::string write_nan(const std::string& entry) const {
        const std::string path = write("nan.gguf");
        const auto file = ModelFile::open(path);
        std::string bytes = read_file(path);
        bytes.replace(file->get(entry + ".in_sum2").offset + 8, 4, "\xff\xff\xff\x7f", 4);
        write_file(path, bytes);
        return path;
    }
    ProcessResult run(const std::string& imatrix, std::vector<std::string> more = {},
                      const std::string& output = "out.gguf") const {
        std::vector<std::string> arguments = {
            "-m",        model,   "-o",     file(output),   "--format",   "q5_0",
            "--imatrix", imatrix, "--json", file("r.json"), "--overwrite"};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return quantize(arguments);
    }
};

struct Sink final : PlaneSink {
    std::string bytes;
    void append(int, std::span<const std::byte> more) override {
        bytes.append(reinterpret_cast<const char*>(more.data()), more.size());
    }
};

std::string tensor_bytes(const std::string& path, const std::string& name) {
    const auto file = ModelFile::open(path);
    const TensorEntry& entry = file->get(name);
    std::string bytes(entry.bytes, '\0');
    file->read(entry, 0, std::as_writable_bytes(std::span(bytes)));
    return bytes;
}

// What the encoder makes of the tensor with this importance.
std::string encoded(const std::string& model, const std::string& name,
                    std::span<const float> importance) {
    const auto source = ModelSource::open(model);
    const SourceTensor& tensor = *source->find(name);
    std::vector<float> rows(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    std::vector<std::byte> scratch;
    source->read_rows(tensor, 0, tensor.rows(), rows.data(), scratch);
    Sink sink;
    weight_formats()
        .get("q5_0", "test")
        .encoder({tensor.rows(), tensor.cols()}, {importance})
        ->encode(0, rows, sink);
    return sink.bytes;
}

bool says(const ProcessResult& r, const std::string& text) {
    INFO(r.err);
    return r.err.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("quantize --imatrix: each matrix is encoded with its columns' mean squares") {
    const Setting s;
    const ProcessResult r = s.run(s.write());
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    std::vector<float> means = s.matrix.entries.at("blk.1.ffn_down.weight").sums;
    for (float& v : means) v /= 1536;
    const std::string got = tensor_bytes(s.file("out.gguf"), "blk.1.ffn_down.weight");
    CHECK(got == encoded(s.model, "blk.1.ffn_down.weight", means));
    CHECK(got != encoded(s.model, "blk.1.ffn_down.weight", {}));

    // the .dat form says the same
    REQUIRE(s.run(s.write("m.dat", ImportanceFormat::kDat), {}, "dat.gguf").exit == 0);
    for (const auto& [name, entry] : s.matrix.entries)
        CHECK(tensor_bytes(s.file("dat.gguf"), name) == tensor_bytes(s.file("out.gguf"), name));
}

TEST_CASE("quantize --imatrix: keys, provenance and plan name and count it") {
    const Setting s;
    const std::string path = s.write();
    const ProcessResult r = s.run(path);
    REQUIRE(r.exit == 0);
    const auto file = ModelFile::open(s.file("out.gguf"));
    const Metadata& keys = file->metadata();
    CHECK(keys.get_string("quantize.imatrix.file") == "m.imatrix.gguf");
    CHECK(keys.get_string("quantize.imatrix.dataset") == "text.txt");
    const auto is_u32 = [&](const char* key, std::uint32_t value) {
        const auto* number = std::get_if<std::uint32_t>(keys.find(key));
        return number != nullptr && *number == value;
    };
    CHECK(is_u32("quantize.imatrix.entries_count", 14));
    CHECK(is_u32("quantize.imatrix.chunks_count", 3));
    const auto& steps =
        std::get<std::vector<std::string>>(keys.find_array("thimble.steps")->elements);
    CHECK(steps.back().find(sha256_of_file(path)) != std::string::npos);
    CHECK(steps.back().find(s.directory.path()) == std::string::npos);

    const Json report = parse_json(read_file(s.file("r.json")), "report");
    const auto bytes = [&](const char* part) {
        return report.find(part)->find("ram")->find("peak_bytes")->as_int("bytes");
    };
    CHECK(bytes("measured") ==
          report.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("bytes"));
}

TEST_CASE("quantize --imatrix: what cannot be used is listed before work begins") {
    Setting s;
    s.matrix.entries.at("blk.0.attn_q.weight").counts = {0};
    for (float& v : s.matrix.entries.at("blk.0.attn_k.weight").sums) v = 0;
    s.matrix.entries.erase("blk.1.attn_v.weight");
    s.matrix.entries["blk.7.attn_v.weight"] = {{1, 2}, {3}};
    const std::string path = s.write_nan("blk.0.ffn_up.weight");
    const ProcessResult r = s.run(path, {"--dry-run"});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    CHECK(says(r, "'blk.0.attn_q.weight': no token reached it; it is encoded without importance"));
    CHECK(says(r, "'blk.0.attn_k.weight': all its sums are zero; it is encoded without"));
    CHECK(says(r, "'blk.0.ffn_up.weight': 1 of 64 sums are negative or not finite; it is encoded"));
    CHECK(says(r, "entry 'blk.7.attn_v.weight' belongs to no matrix of the model"));
    CHECK(r.out.find("blk.*.attn_v.weight -> q5_0 (1 tensor): without importance: no entry") !=
          std::string::npos);
    REQUIRE(s.run(path).exit == 0);
    for (const std::string name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight",
                                   "blk.0.ffn_up.weight", "blk.1.attn_v.weight"}) {
        CAPTURE(name);
        CHECK(tensor_bytes(s.file("out.gguf"), name) == encoded(s.model, name, {}));
    }
}

TEST_CASE("quantize --imatrix: another model's matrix is refused") {
    Setting s;
    s.matrix.entries.at("blk.1.ffn_down.weight").sums.push_back(1);
    const ProcessResult shape = s.run(s.write());
    CHECK(shape.exit == 65);
    CHECK(says(shape, "entry 'blk.1.ffn_down.weight' holds 97 columns"));

    Setting names;
    const ImportanceEntry one = names.matrix.entries.begin()->second;
    names.matrix.entries.clear();
    names.matrix.entries["blk.0.atn_q.weight"] = one;
    const ProcessResult none = names.run(names.write());
    CHECK(none.exit == 65);
    CHECK(says(none, "did you mean 'blk.0.attn_q.weight'"));

    CHECK(s.run(s.model).exit == 65);
    CHECK(s.run(s.file("absent")).exit == 66);
    CHECK_FALSE(std::filesystem::exists(s.file("out.gguf")));
}

TEST_CASE("quantize --imatrix: entries can be chosen by name") {
    const Setting s;
    const std::string path = s.write();
    REQUIRE(s.run(path, {"--exclude-weights", "ffn", "--exclude-weights", "attn_v"}).exit == 0);
    CHECK(tensor_bytes(s.file("out.gguf"), "blk.0.ffn_up.weight") ==
          encoded(s.model, "blk.0.ffn_up.weight", {}));
    CHECK(tensor_bytes(s.file("out.gguf"), "blk.0.attn_q.weight") !=
          encoded(s.model, "blk.0.attn_q.weight", {}));
    const ProcessResult typo = s.run(path, {"--include-weights", "ffn_dwn"});
    CHECK(typo.exit == 2);
    const ProcessResult idle = quantize({"-m", s.model, "--dry-run", "--include-weights", "ffn"});
    CHECK(idle.exit == 2);
    CHECK(says(idle, "--imatrix"));
}

TEST_CASE("quantize imatrix: converts, adds up and describes") {
    const Setting s;
    const std::string gguf = s.write(), dat = s.file("m.dat"), back = s.file("back.gguf");
    REQUIRE(quantize({"imatrix", gguf, "-o", dat}).exit == 0);
    CHECK(read_file(dat).substr(0, 4) != "GGUF");
    REQUIRE(quantize({"imatrix", dat, "-o", back}).exit == 0);
    CHECK(read_file(back) == read_file(gguf));
    CHECK(quantize({"imatrix", dat, "-o", back}).exit == 73);
    CHECK(quantize({"imatrix", dat, "-o", dat, "--overwrite"}).exit == 2);

    const std::string sum = s.file("sum.gguf");
    REQUIRE(quantize({"imatrix", gguf, dat, gguf, "-o", sum, "--exclude-weights", "ffn"}).exit ==
            0);
    const ImportanceMatrix added = read_importance(sum);
    CHECK(added.entries.size() == 8);
    CHECK(added.chunk_count == 9);
    const ImportanceEntry& entry = added.entries.at("blk.0.attn_q.weight");
    CHECK(entry.counts.front() == 3 * 1536);
    CHECK(entry.sums.front() == 90000);

    const ProcessResult shown = quantize({"imatrix", gguf, "--json", s.file("r.json")});
    REQUIRE(shown.exit == 0);
    CHECK(shown.out.find("attn_q") != std::string::npos);
    const Json report = parse_json(read_file(s.file("r.json")), "report");
    CHECK(report.find("tensors")->as_array("tensors").size() == 14);

    const ProcessResult bad =
        quantize({"imatrix", s.write_nan("blk.0.ffn_up.weight"), "-o", s.file("no.gguf")});
    CHECK(bad.exit == 65);
    CHECK(says(bad, "--exclude-weights blk.0.ffn_up.weight"));
    CHECK_FALSE(std::filesystem::exists(s.file("no.gguf")));
}

TEST_CASE("quantize collect-imatrix: from a text, and from records that say the same") {
    const TemporaryDirectory directory;
    const auto file = [&](const std::string& name) { return directory.file(name); };
    write_tiny_model(file("model.gguf"), "gemma3");
    std::string words;
    for (int i = 0; i < 60; ++i) words += "word number " + std::to_string(i) + " of the text ";
    write_file(file("text.txt"), words + "\n");
    write_file(file("text.jsonl"), "{\"text\": \"" + words +
                                       "\"}\n\n{\"prompt\": \"a prompt of some \", "
                                       "\"completion\": \"words and its end\"}\n");
    const auto collect = [&](const std::string& text, const std::string& out,
                             std::vector<std::string> more = {}) {
        std::vector<std::string> arguments = {"collect-imatrix",
                                              "-m",
                                              file("model.gguf"),
                                              "-f",
                                              file(text),
                                              "-o",
                                              file(out),
                                              "-c",
                                              "32",
                                              "--json",
                                              file("r.json")};
        arguments.insert(arguments.end(), more.begin(), more.end());
        return quantize(arguments);
    };
    const ProcessResult r = collect("text.txt", "a.gguf");
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    const Json report = parse_json(read_file(file("r.json")), "report");
    const auto bytes = [&](const char* part) {
        return report.find(part)->find("ram")->find("peak_bytes")->as_int("bytes");
    };
    const std::int64_t peak =
        report.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("bytes");
    CHECK(bytes("measured") <= peak);
    CHECK(bytes("measured") > peak - peak / 10);
    const ImportanceMatrix a = read_importance(file("a.gguf"));
    CHECK(a.datasets == std::vector<std::string>{"text.txt"});
    CHECK(a.chunk_tokens == 32);
    CHECK(a.chunk_count == a.entries.begin()->second.counts.front() / 32);

    // named by its flag, as an option would be
    const ProcessResult flag = quantize({"-m", file("model.gguf"), "--collect-imatrix",
                                         file("text.txt"), "-o", file("flag.gguf"), "-c", "32"});
    CAPTURE(flag.err);
    REQUIRE(flag.exit == 0);
    CHECK(read_file(file("flag.gguf")) == read_file(file("a.gguf")));

    // as little memory as there can be: the same bytes
    REQUIRE(collect("text.txt", "none.gguf", {"--dry-run", "--max-memory", "ram=1"}).exit == 77);
    const std::int64_t least = parse_json(read_file(file("r.json")), "report")
                                   .find("plan")
                                   ->find("tiers")
                                   ->find("ram")
                                   ->find("peak_bytes")
                                   ->as_int("bytes");
    const ProcessResult small =
        collect("text.txt", "b.gguf", {"--max-memory", "ram=" + std::to_string(least), "-t", "1"});
    CAPTURE(small.err);
    REQUIRE(small.exit == 0);
    CHECK(read_file(file("a.gguf")) == read_file(file("b.gguf")));

    REQUIRE(collect("text.jsonl", "j.gguf").exit == 0);
    const ImportanceMatrix j = read_importance(file("j.gguf"));
    CHECK(j.entries.begin()->second.counts.front() > a.entries.begin()->second.counts.front());
    REQUIRE(collect("text.txt", "two.gguf", {"--chunks", "2", "--from-chunk", "1"}).exit == 0);
    CHECK(read_importance(file("two.gguf")).chunk_count == 2);

    CHECK(collect("text.txt", "a.gguf").exit == 73);
    CHECK(collect("text.txt", "c.gguf", {"--from-chunk", "1000"}).exit == 2);
    write_file(file("bad.jsonl"), "{\"texts\": \"\"}\n");
    const ProcessResult bad = collect("bad.jsonl", "c.gguf");
    CHECK(bad.exit == 65);
    CHECK(says(bad, "line 1"));
    const ProcessResult used = quantize({"-m", file("model.gguf"), "-o", file("q.gguf"), "--format",
                                         "q4_1", "--imatrix", file("a.gguf"), "--dry-run"});
    CHECK(used.exit == 0);
}

TEST_CASE("quantize: types of few bits are refused for matrices without importance, in a dry run") {
    Setting s;
    // An FFN of 256, so that its second matrix has whole blocks.
    ModelCopy copy = ModelCopy::as_gguf(golden_model("llama-tied").directory, "f32");
    copy.metadata.set("llama.feed_forward_length", std::uint32_t{256});
    for (std::size_t i = 0; i < copy.specs.size(); ++i) {
        for (std::uint64_t& d : copy.specs[i].dims) {
            if (copy.specs[i].name.find("ffn_") == std::string::npos || d != 96) continue;
            copy.data[i].resize(copy.data[i].size() / 96 * 256);
            d = 256;
        }
    }
    copy.write_gguf(s.model);
    const auto dry = [&](std::vector<std::string> more) {
        more.insert(more.begin(), {"-m", s.model, "-o", s.file("out.gguf"), "--dry-run"});
        return quantize(more);
    };
    const ProcessResult without = dry({"--format", "iq2_xxs"});
    CHECK(without.exit == 2);
    CHECK(says(without, "'blk.0.ffn_down.weight': "));
    CHECK(says(without, "give --imatrix FILE"));
    CHECK(dry({"--format", "q2_k_s"}).exit == 2);
    CHECK(dry({"--format", "q2_k"}).exit == 0);
    CHECK(dry({"--format", "iq3_s"}).exit == 0);

    s.matrix.entries.clear();
    s.matrix.entries["blk.0.ffn_down.weight"] = {std::vector<float>(256, 1), {1}};
    const ProcessResult part = dry({"--format", "iq2_xxs", "--imatrix", s.write()});
    CHECK(part.exit == 2);
    CHECK(says(part, "'blk.1.ffn_down.weight': "));
    CHECK(says(part, "no entry"));
    s.matrix.entries["blk.1.ffn_down.weight"] = {std::vector<float>(256, 1), {1}};
    CHECK(dry({"--format", "iq2_xxs", "--imatrix", s.write()}).exit == 0);
    CHECK(dry({"--format", "iq2_xxs", "--tensor-type", "ffn_down=q4_k"}).exit == 0);
}
