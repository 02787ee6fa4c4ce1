// SPDX-License-Identifier: Apache-2.0
// quantize as a user runs it, on the tiny golden models.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "format/weight_format.h"
#include "io/gguf_writer.h"
#include "io/json.h"
#include "model/source.h"
#include "tests/support/golden_model.h"
#include "tests/support/models.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult quantize(std::vector<std::string> arguments, const ProcessOptions& options = {}) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    return run_process(arguments, options);
}

// A tiny model as GGUF in a directory of its own.
struct Setting {
    TemporaryDirectory directory;
    std::string input = directory.file("model.gguf");

    explicit Setting(const std::string& name = "llama-tied", const std::string& format = "f32") {
        ModelCopy::as_gguf(golden_model(name).directory, format).write_gguf(input);
    }
    [[nodiscard]] std::string output(const std::string& name = "out.gguf") const {
        return directory.file(name);
    }
    [[nodiscard]] std::int64_t files() const {
        return std::distance(std::filesystem::directory_iterator(directory.path()),
                             std::filesystem::directory_iterator());
    }
};

std::vector<float> weights(const ModelSource& source, const std::string& name) {
    const SourceTensor& tensor = *source.find(name);
    std::vector<float> out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, tensor.rows(), out.data(), scratch);
    return out;
}

double relative_error(const std::vector<float>& want, const std::vector<float>& got) {
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
        const double w = static_cast<double>(want[i]), d = static_cast<double>(got[i]) - w;
        error += d * d;
        norm += w * w;
    }
    return std::sqrt(error / norm);
}

Json report_of(const std::string& path) { return parse_json(read_file(path), path); }

std::int64_t at(const Json& json, std::initializer_list<const char*> keys) {
    const Json* node = &json;
    for (const char* key : keys) {
        node = node->find(key);
        REQUIRE(node != nullptr);
    }
    return node->as_int("report");
}

bool says(const ProcessResult& r, const std::string& text) {
    INFO(r.err);
    return r.err.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("quantize: matrices in the format asked for, vectors f32, values near the source's") {
    const Setting s;
    for (const std::string format : {"f16", "q8_0", "q5_1", "q4_0", "nf4"}) {
        CAPTURE(format);
        const std::string out = s.output(format + ".gguf");
        const ProcessResult r = quantize({"-m", s.input, "-o", out, "--format", format, "--pure"});
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        CHECK(r.out == out + "\n");
        const auto before = ModelSource::open(s.input), after = ModelSource::open(out);
        REQUIRE(after->tensors().size() == before->tensors().size());
        for (const SourceTensor& tensor : after->tensors()) {
            CAPTURE(tensor.name);
            CHECK(layout_info(tensor.layout()).name == (tensor.is_matrix ? format : "f32"));
            const double error =
                relative_error(weights(*before, tensor.name), weights(*after, tensor.name));
            CHECK(error <= (!tensor.is_matrix || format == "f16" ? 0.001
                            : format == "q8_0"                   ? 0.01
                                                                 : 0.12));
        }
        const Metadata& metadata = after->file().metadata();
        if (format == "nf4") {  // llama.cpp has no number for it
            CHECK(metadata.find("general.file_type") == nullptr);
            continue;
        }
        CHECK(metadata.get_int("general.file_type", 0, 100) == (format == "f16"    ? 1
                                                                : format == "q8_0" ? 7
                                                                : format == "q5_1" ? 9
                                                                                   : 2));
    }
}

TEST_CASE("quantize: a Hugging Face directory needs its tokenizer") {
    const TemporaryDirectory directory;
    const ProcessResult r = quantize({"-m", golden_model("llama-tied").directory, "-o",
                                      directory.file("out.gguf"), "--format", "q8_0"});
    CHECK(r.exit != 0);
    CHECK(std::filesystem::is_empty(directory.path()));
}

namespace {

void check_equal_bytes(const std::string& format) {
    CAPTURE(format);
    const Setting s;
    const auto run = [&](const std::string& name, const std::vector<std::string>& more) {
        std::vector<std::string> arguments = {"-m",           s.input,    "-o",
                                              s.output(name), "--format", format};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ProcessResult r = quantize(arguments);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return read_file(s.output(name));
    };
    const std::string one = run("1.gguf", {"--threads", "1"});
    CHECK(run("2.gguf", {"--threads", "2"}) == one);
    CHECK(run("3.gguf", {"--threads", "3", "--report-error"}) == one);
    CHECK(one.find(s.directory.path()) == std::string::npos);

    const Setting elsewhere;
    const ProcessResult r = quantize(
        {"-m", elsewhere.input, "-o", elsewhere.output(), "--format", format, "--threads", "1"});
    REQUIRE(r.exit == 0);
    CHECK(read_file(elsewhere.output()) == one);
}

void check_least_budget(const std::string& format) {
    CAPTURE(format);
    const Setting s;
    const auto run = [&](const std::string& budget, const std::string& name) {
        return quantize({"-m", s.input, "-o", s.output(name), "--format", format, "--threads", "1",
                         "--max-memory", "ram=" + budget, "--json", s.output("report.json"), "-q"});
    };
    const ProcessResult refused = run("1", "refused.gguf");
    CHECK(refused.exit == 77);
    const ProcessResult plan =
        quantize({"-m", s.input, "-o", s.output("none.gguf"), "--format", format, "--threads", "1",
                  "--dry-run", "--max-memory", "ram=1", "--json", s.output("plan.json")});
    CHECK(plan.exit == 77);
    const std::int64_t least =
        at(report_of(s.output("plan.json")), {"plan", "tiers", "ram", "peak_bytes"});
    CHECK(run(std::to_string(least - 4096), "less.gguf").exit == 77);
    CHECK_FALSE(std::filesystem::exists(s.output("less.gguf")));
    const ProcessResult fits = run(std::to_string(least), "fits.gguf");
    CAPTURE(fits.err);
    CHECK(fits.exit == 0);
    const Json report = report_of(s.output("report.json"));
    CHECK(at(report, {"measured", "ram", "peak_bytes"}) <= least);

    const ProcessResult free = quantize(
        {"-m", s.input, "-o", s.output("free.gguf"), "--format", format, "--threads", "1"});
    REQUIRE(free.exit == 0);
    CHECK(read_file(s.output("free.gguf")) == read_file(s.output("fits.gguf")));
}

}  // namespace

TEST_CASE("quantize: equal bytes for any thread count, budget and directory") {
    for (const char* format : {"q4_0", "nf4"}) check_equal_bytes(format);
}

TEST_CASE("quantize: the budget shrinks the row buffers, and one page too few is refused") {
    for (const char* format : {"q8_0", "nf4"}) check_least_budget(format);
}

TEST_CASE("quantize: the plan's output size is exact and its memory is the ledger's") {
    for (const std::string format : {"q5_0", "nf4"}) {
        CAPTURE(format);
        const Setting s;
        const ProcessResult r = quantize({"-m", s.input, "-o", s.output(), "--format", format,
                                          "--report-error", "--json", s.output("r.json")});
        REQUIRE(r.exit == 0);
        const Json report = report_of(s.output("r.json"));
        const auto size = static_cast<std::int64_t>(std::filesystem::file_size(s.output()));
        CHECK(at(report, {"plan", "output_bytes"}) == size);
        CHECK(at(report, {"output_bytes"}) == size);
        const std::int64_t predicted = at(report, {"plan", "tiers", "ram", "peak_bytes"});
        CHECK(at(report, {"measured", "ram", "peak_bytes"}) == predicted);
        const std::int64_t resident = at(report, {"measured", "peak_rss_bytes"});
        CHECK(std::llabs(resident - predicted) <= std::max<std::int64_t>(predicted / 10, 32 << 20));
        for (const Json& tensor : report.find("tensors")->as_array("tensors")) {
            const double error = tensor.find("relative_rmse")->as_double("error");
            CHECK(error >= 0);
            CHECK(error < 0.12);
        }
        const ProcessResult dry = quantize({"-m", s.input, "--format", format, "--dry-run"});
        CHECK(dry.exit == 0);
        CHECK_FALSE(std::filesystem::exists(s.directory.file("model-" + format + ".gguf")));
    }
}

TEST_CASE("quantize: rules choose formats by name, and a rule that hits nothing is an error") {
    const Setting s;
    const auto run = [&](std::vector<std::string> rules) {
        std::vector<std::string> arguments = {"-m",       s.input, "-o",         s.output(),
                                              "--format", "q8_0",  "--overwrite"};
        for (std::string& rule : rules) {
            arguments.emplace_back("--tensor-type");
            arguments.push_back(std::move(rule));
        }
        return quantize(arguments);
    };
    const ProcessResult good = run({"attn_v=q5_1", "blk\\.0\\.attn=f16", "ffn_down=q4_1"});
    CAPTURE(good.err);
    REQUIRE(good.exit == 0);
    const auto made = ModelSource::open(s.output());
    const auto type = [&](const char* name) {
        return std::string(layout_info(made->find(name)->layout()).name);
    };
    CHECK(type("blk.0.attn_v.weight") == "q5_1");  // the first match wins
    CHECK(type("blk.0.attn_q.weight") == "f16");
    CHECK(type("blk.1.attn_q.weight") == "q8_0");
    CHECK(type("blk.1.ffn_down.weight") == "q4_1");

    const ProcessResult missed = run({"atn_q=q4_0"});
    CHECK(missed.exit == 2);
    CHECK(says(missed, "matches no matrix"));
    CHECK(says(missed, "attn_q"));
    CHECK(run({"attn_norm=q4_0"}).exit == 2);  // a vector
    CHECK(run({"attn_q(=q4_0"}).exit == 2);
    CHECK(run({"attn_q"}).exit == 2);
    const ProcessResult unknown = run({"attn_q=q4_q"});
    CHECK(unknown.exit == 2);
    CHECK(says(unknown, "did you mean"));
    CHECK(quantize({"-m", s.input, "--format", "q9_0"}).exit == 2);
}

TEST_CASE("quantize: rows that are not whole blocks fall back by a stated rule or are refused") {
    const Setting s;  // rows of 64 and 96 weights
    const ProcessResult dry = quantize({"-m", s.input, "--format", "q4_k", "--dry-run"});
    CHECK(dry.exit == 0);
    CHECK(dry.out.find("blk.*.attn_q.weight -> q5_0") != std::string::npos);
    CHECK(dry.out.find("rows of 64 are not whole blocks of q4_k (256)") != std::string::npos);
    const ProcessResult strict = quantize({"-m", s.input, "--format", "q4_k", "--strict"});
    CHECK(strict.exit == 2);
    CHECK(says(strict, "without --strict"));
    REQUIRE(quantize({"-m", s.input, "-o", s.output(), "--format", "q4_k"}).exit == 0);
    const auto made = ModelSource::open(s.output());
    CHECK(made->find("blk.0.attn_q.weight")->layout() == LayoutId::k_q5_0);
    CHECK(made->find("token_embd.weight")->layout() ==
          LayoutId::k_q8_0);  // a head asked to be q6_k
}

TEST_CASE("quantize: quantised input is copied, decoded or, only if allowed, quantised again") {
    const Setting s("llama-tied", "q8_0");
    const ProcessResult again = quantize({"-m", s.input, "-o", s.output(), "--format", "q4_0"});
    CHECK(again.exit == 2);
    CHECK(says(again, "--allow-requantize"));
    CHECK(s.files() == 1);
    CHECK(quantize({"-m", s.input, "-o", s.output(), "--format", "q4_0", "--allow-requantize"})
              .exit == 0);
    const auto steps = [](const std::string& path) {
        const auto file = ModelFile::open(path);
        const MetaArray* found = file->metadata().find_array("thimble.steps");
        REQUIRE(found != nullptr);
        return std::get<std::vector<std::string>>(found->elements);
    };
    const Json record = parse_json(steps(s.output()).back(), "step");
    const Json* requantized = record.find("requantized");
    REQUIRE(requantized != nullptr);
    CHECK(requantized->find("q8_0")->as_int("q8_0") > 7);  // a layer's matrices and the embedding
    CHECK(quantize({"-m", s.input, "-o", s.output("f16.gguf"), "--format", "f16"}).exit == 0);
    CHECK(parse_json(steps(s.output("f16.gguf")).back(), "step").find("requantized") == nullptr);
    REQUIRE(quantize({"-m", s.input, "-o", s.output("same.gguf"), "--format", "q8_0"}).exit == 0);
    const auto before = ModelFile::open(s.input), after = ModelFile::open(s.output("same.gguf"));
    for (const TensorEntry& entry : before->tensors()) {
        std::vector<std::byte> a(entry.bytes), b(entry.bytes);
        before->read(entry, 0, a);
        after->read(after->get(entry.name), 0, b);
        CHECK(a == b);
    }
}

TEST_CASE("quantize: provenance names tool, options and input, without paths or dates") {
    const Setting s;
    REQUIRE(quantize({"-m", s.input, "-o", s.output("a.gguf"), "--format", "f16"}).exit == 0);
    REQUIRE(quantize({"-m", s.output("a.gguf"), "-o", s.output("b.gguf"), "--format", "q8_0",
                      "--tensor-type", "ffn=q4_0"})
                .exit == 0);
    const auto file = ModelFile::open(s.output("b.gguf"));
    const MetaArray* steps = file->metadata().find_array("thimble.steps");
    REQUIRE(steps != nullptr);
    const auto& lines = std::get<std::vector<std::string>>(steps->elements);
    REQUIRE(lines.size() == 2);
    const Json first = parse_json(lines[0], "step"), second = parse_json(lines[1], "step");
    CHECK(first.find("options")->find("format")->as_string("f") == "f16");
    CHECK(second.find("options")->find("tensor-type")->as_array("t")[0].as_string("t") ==
          "ffn=q4_0");
    const Json& input = second.find("inputs")->as_array("inputs")[0];
    CHECK(input.find("name")->as_string("n") == "a.gguf");
    CHECK(input.find("sha256")->as_string("n").size() == 64);
    CHECK(second.find("options")->find("overwrite") == nullptr);
}

TEST_CASE("quantize: a NaN or infinite weight ends with its place, and nothing is left") {
    for (const float bad : {NAN, INFINITY}) {
        const Setting s;
        {
            const auto file = ModelFile::open(s.input);
            const TensorEntry& entry = file->get("blk.1.ffn_up.weight");
            std::string bytes = read_file(s.input);
            const std::size_t place = entry.offset + (5 * entry.row_elements() + 7) * sizeof(float);
            std::memcpy(bytes.data() + place, &bad, sizeof bad);
            write_file(s.input, bytes);
        }
        for (const std::string format : {"q8_0", "f16", "f32", "q4_k"}) {
            CAPTURE(format);
            const ProcessResult r =
                quantize({"-m", s.input, "-o", s.output(), "--format", format, "-t", "2"});
            CHECK(r.exit == 65);
            CHECK(says(r, "'blk.1.ffn_up.weight', row 5"));
            CHECK(s.files() == 1);
        }
    }
}

TEST_CASE("quantize: outputs that cannot or must not be written") {
    const Setting s;
    const ProcessResult same = quantize({"-m", s.input, "-o", s.input, "--overwrite"});
    CHECK(same.exit == 2);
    std::filesystem::create_symlink(s.input, s.output("link.gguf"));
    CHECK(quantize({"-m", s.input, "-o", s.output("link.gguf"), "--overwrite"}).exit == 2);
    std::filesystem::remove(s.output("link.gguf"));

    write_file(s.output(), "precious");
    const ProcessResult exists = quantize({"-m", s.input, "-o", s.output()});
    CHECK(exists.exit == 73);
    CHECK(says(exists, "--overwrite"));
    CHECK(read_file(s.output()) == "precious");
    CHECK(quantize({"-m", s.input, "-o", s.output(), "--overwrite"}).exit == 0);

    CHECK(quantize({"-m", s.input, "-o", s.output("absent/out.gguf")}).exit == 73);
    CHECK(quantize({"-m", s.output("absent.gguf")}).exit == 66);
    CHECK(s.files() == 2);
}

TEST_CASE("quantize: a full disk leaves nothing behind") {
    const Setting s;
    ProcessOptions options;
    options.file_limit_bytes = 8192;
    const ProcessResult r = quantize({"-m", s.input, "-o", s.output(), "--format", "f32"}, options);
    CHECK(r.exit == 74);
    CHECK(s.files() == 1);
}

TEST_CASE("quantize: an unwritable directory, as a user without rights") {
    if (::geteuid() != 0 || ::access("/usr/bin/setpriv", X_OK) != 0) {
        MESSAGE("skipped: needs root to become another user by setpriv");
        return;
    }
    const Setting s;
    std::filesystem::permissions(s.directory.path(), std::filesystem::perms(0755));
    const ProcessResult r =
        run_process({"/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                     tool_path("quantize"), "-m", s.input, "-o", s.output(), "--format", "q8_0"});
    if (r.exit == 126 || r.exit == 127 || says(r, "failed to execute")) {
        MESSAGE("skipped: the other user cannot reach the build directory");
        return;
    }
    CHECK(r.exit == 73);
    CHECK(s.files() == 1);
}

TEST_CASE("quantize: ended by a signal, nothing is left; killed, a rerun gives the same file") {
    const auto model = real_model(kSmolLm2);
    if (!model) return;
    const TemporaryDirectory directory;
    const std::string out = directory.file("out.gguf");
    const std::vector<std::string> arguments = {
        "-m",         *model,  "-o", out, "--format", "q6_k", "--allow-requantize",
        "--progress", "jsonl", "-t", "1"};
    for (const int signal : {SIGTERM, SIGKILL}) {
        ProcessOptions options;
        options.send_signal = signal;
        options.signal_after = "progress";
        const ProcessResult r = quantize(arguments, options);
        CHECK_FALSE(std::filesystem::exists(out));
        if (signal == SIGTERM) {
            CHECK(r.exit == 128 + SIGTERM);
            CHECK(std::filesystem::is_empty(directory.path()));
        }
    }
    REQUIRE(quantize(arguments).exit == 0);
    const std::string after_kill = read_file(out);
    REQUIRE(quantize({"-m", *model, "-o", directory.file("2.gguf"), "--format", "q6_k",
                      "--allow-requantize", "-t", "2"})
                .exit == 0);
    CHECK(read_file(directory.file("2.gguf")) == after_kill);
}
