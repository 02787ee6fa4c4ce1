// SPDX-License-Identifier: Apache-2.0
// quantize between containers: Hugging Face directories to GGUF files and back, copies, and changes
// of metadata, as a user runs them on the tiny golden models.
#include <doctest/doctest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "io/json.h"
#include "model/source.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"
#include "text/tokenizer.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

ProcessResult quantize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    arguments.emplace_back("-q");
    return run_process(arguments);
}

void must(const std::vector<std::string>& arguments) {
    const ProcessResult r = quantize(arguments);
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
}

std::ptrdiff_t entries(const std::string& directory) {
    return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

std::vector<std::byte> bytes_of(const ModelFile& file, const std::string& tensor) {
    const TensorEntry& entry = file.get(tensor);
    std::vector<std::byte> out(entry.bytes);
    file.read(entry, 0, out);
    return out;
}

// Every tensor of `want` is in `got` with the same type, shape and bytes, and there is no other.
void check_same_tensors(const std::string& want, const std::string& got) {
    const auto a = ModelFile::open(want), b = ModelFile::open(got);
    CHECK(a->tensors().size() == b->tensors().size());
    for (const TensorEntry& tensor : a->tensors()) {
        CAPTURE(tensor.name);
        const TensorEntry* other = b->find(tensor.name);
        REQUIRE(other != nullptr);
        CHECK(other->type == tensor.type);
        CHECK(other->dims == tensor.dims);
        CHECK(bytes_of(*a, tensor.name) == bytes_of(*b, tensor.name));
    }
}

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), hf = directory.file("hf"),
                back = directory.file("back.gguf");

    explicit Setting(const std::string& golden, const std::string& format = "f32") {
        write_tiny_model(model, golden, format);
    }
};

}  // namespace

TEST_CASE("convert: HF to GGUF to HF gives every tensor's bytes and the same config") {
    for (const GoldenModel& golden : golden_models()) {
        CAPTURE(golden.name);
        const Setting s(golden.name);  // from the golden directory, by the library
        const auto source = ModelFile::open(golden.directory);
        const bool wide = source->tensors().front().type == TensorType::kF32;
        must({s.model, "-o", s.hf, "--container", "hf", "--format", wide ? "f32" : "bf16"});
        const auto written = ModelFile::open(s.hf);
        REQUIRE(written->tensors().size() == source->tensors().size());
        for (const TensorEntry& tensor : source->tensors()) {
            CAPTURE(tensor.name);
            REQUIRE(written->find(tensor.name) != nullptr);
            CHECK(written->get(tensor.name).type == tensor.type);
            CHECK(written->get(tensor.name).dims == tensor.dims);
            // Norms that are kept as one plus themselves have lost what lies below the rounding.
            if (wide && tensor.dims.size() == 1 && golden.name.starts_with("gemma")) {
                const auto a = bytes_of(*source, tensor.name), b = bytes_of(*written, tensor.name);
                for (std::size_t i = 0; i < a.size(); i += sizeof(float)) {
                    float x = 0, y = 0;
                    std::memcpy(&x, a.data() + i, sizeof x);
                    std::memcpy(&y, b.data() + i, sizeof y);
                    CHECK(y == (1 + x) - 1);
                }
                continue;
            }
            CHECK(bytes_of(*written, tensor.name) == bytes_of(*source, tensor.name));
        }
        const auto a = ModelSource::open(golden.directory), b = ModelSource::open(s.hf);
        CHECK(a->spec().attention.size() == b->spec().attention.size());
        CHECK(a->config().windowed == b->config().windowed);
        CHECK(a->config().window == b->config().window);
        CHECK(a->config().attention_scale == doctest::Approx(b->config().attention_scale));
        CHECK(a->config().rope_base == b->config().rope_base);
        CHECK(a->config().rope_base_local == b->config().rope_base_local);
        CHECK(a->config().rope_factor == b->config().rope_factor);
        CHECK(*a->spec().rope_factors == *b->spec().rope_factors);
        CHECK(a->config().tied == b->config().tied);
        for (const char* key : {"architectures", "model_type", "vocab_size", "head_dim",
                                "hidden_size", "rms_norm_eps", "max_position_embeddings"}) {
            CAPTURE(key);
            REQUIRE(written->config().find(key) != nullptr);
            CHECK(written->config().find(key)->dump() == source->config().find(key)->dump());
        }
    }
}

TEST_CASE("convert: a written directory computes what transformers computed with the original") {
    for (const char* name : {"llama-untied", "llama3-rope", "gemma3", "gemma3-scaled"}) {
        CAPTURE(name);
        const Setting s(name);
        must({s.model, "-o", s.hf + "/", "--format", "f32"});
        const GoldenModel& golden = golden_model(name);
        RunnerOptions options;
        options.device = Device::kRef;
        options.activations = Activations::kF32;
        options.kv.type_k = options.kv.type_v = "f32";
        Team team(1);
        Runner runner(ModelSource::open(s.hf), options, team);
        const auto vocab = static_cast<std::size_t>(runner.spec().vocab);
        for (const GoldenPrompt& prompt : golden.prompts) {
            const std::vector<double> got = all_logits(runner, prompt.tokens);
            REQUIRE(got.size() == prompt.logits.size());
            for (std::size_t row = 0; row < got.size(); row += vocab) {
                const std::span<const double> logits(got.data() + row, vocab);
                double worst = 0;
                for (std::size_t i = 0; i < vocab; ++i) {
                    worst = std::max(
                        worst, std::abs(logits[i] - static_cast<double>(prompt.logits[row + i])));
                }
                CHECK(worst < rounding_tolerance(runner.spec(), logits, 0x1p-24));
            }
        }
    }
}

TEST_CASE("convert: GGUF to HF to GGUF gives the same tensors, tokens and chat template") {
    for (const GoldenModel& golden : golden_models()) {
        CAPTURE(golden.name);
        const Setting s(golden.name, "f16");
        must({s.model, "-o", s.hf, "--container", "hf", "--format", "copy"});
        must({s.hf, "-o", s.back, "--format", "copy"});
        check_same_tensors(s.model, s.back);
        const auto a = ModelFile::open(s.model), b = ModelFile::open(s.back);
        const auto before = Tokenizer::open(*a), after = Tokenizer::open(*b);
        const std::string text = "The <s> quick\n brown  fox </s><|im_start|> 'jumps' \xc3\xa9!";
        for (const bool special : {false, true}) {
            CHECK(before->encode(text, {.parse_special = special}) ==
                  after->encode(text, {.parse_special = special}));
        }
        CHECK(before->chat_template() == after->chat_template());
        CHECK(before->eos() == after->eos());
        CHECK(before->size() == after->size());
    }
}

TEST_CASE("convert: --format copy keeps types and bytes, from shards and with side files too") {
    const Setting s("llama-tied", "q8_0");
    must({s.model, "-o", s.back, "--format", "copy"});
    check_same_tensors(s.model, s.back);
    const std::string source = golden_model("llama-untied").directory;  // in shards
    must({source, "-o", s.hf + "/", "--format", "copy"});
    check_same_tensors(source, s.hf);
    CHECK(fs::exists(s.hf + "/model.safetensors"));
    write_file(s.hf + "/notes.txt", "kept");
    const std::string sharded = s.directory.file("sharded");
    must({s.hf, "-o", sharded, "--container", "hf", "--shard-size", "40kB"});
    check_same_tensors(source, sharded);
    CHECK(read_file(sharded + "/notes.txt") == "kept");
    CHECK(ModelFile::open(sharded)->files().size() > 2);
}

TEST_CASE("convert: the dry run foretells every byte of a directory and of split files") {
    const Setting s("gemma3", "f16");
    const std::string json = s.directory.file("report.json");
    const auto foretold = [&](std::vector<std::string> arguments) {
        arguments.insert(arguments.end(), {"--dry-run", "--json", json});
        must(arguments);
        const Json report = parse_json(read_file(json), json);
        fs::remove(json);
        return static_cast<std::uint64_t>(
            report.find("plan")->find("output_bytes")->as_int("plan"));
    };
    const std::vector<std::string> hf = {s.model, "-o",           s.hf,  "--container",
                                         "hf",    "--shard-size", "30kB"};
    const std::uint64_t hf_bytes = foretold(hf);
    CHECK_FALSE(fs::exists(s.hf));
    must(hf);
    std::uint64_t sum = 0;
    for (const auto& entry : fs::directory_iterator(s.hf)) sum += entry.file_size();
    CHECK(sum == hf_bytes);
    const std::vector<std::string> split = {
        s.model, "-o", s.back, "--format", "q8_0", "--split-max-size", "20kB"};
    const std::uint64_t split_bytes = foretold(split);
    const ProcessResult r = quantize(split);
    REQUIRE(r.exit == 0);
    const auto parts = ModelFile::open(r.out.substr(0, r.out.size() - 1));
    CHECK(parts->files().size() > 2);
    CHECK(parts->file_bytes() == split_bytes);
}

TEST_CASE("convert: --override-kv and --drop-kv change keys alone, and are recorded") {
    const Setting s("llama-tied", "f16");
    must({s.model,
          "-o",
          s.back,
          "--format",
          "copy",
          "--override-kv",
          "general.name=str:A = b:c",
          "--override-kv",
          "llama.context_length=int:4096",
          "--override-kv",
          "llama.rope.freq_base=float:5e5",
          "--override-kv",
          "tokenizer.ggml.add_bos_token=bool:false",
          "--override-kv",
          "my.count=int:-5",
          "--override-kv",
          "my.size=int:7",
          "--override-kv",
          "my.large=int:5000000000",
          "--drop-kv",
          "tokenizer.chat_*"});
    check_same_tensors(s.model, s.back);
    const auto file = ModelFile::open(s.back);
    const Metadata& m = file->metadata();
    CHECK(m.get_string("general.name") == "A = b:c");
    CHECK(std::get<std::uint32_t>(*m.find("llama.context_length")) == 4096);
    CHECK(std::get<float>(*m.find("llama.rope.freq_base")) == 5e5F);
    CHECK(m.find_bool("tokenizer.ggml.add_bos_token") == false);
    CHECK(std::get<std::int64_t>(*m.find("my.count")) == -5);
    CHECK(std::get<std::uint32_t>(*m.find("my.size")) == 7);  // as readers expect small numbers
    CHECK(std::get<std::int64_t>(*m.find("my.large")) == 5'000'000'000);
    CHECK(m.find("tokenizer.chat_template") == nullptr);
    CHECK(m.find("tokenizer.ggml.tokens") != nullptr);
    const auto& steps = std::get<std::vector<std::string>>(m.find_array("thimble.steps")->elements);
    CHECK(steps.back().find("my.count=int:-5") != std::string::npos);
    CHECK(steps.back().find("tokenizer.chat_*") != std::string::npos);
}

TEST_CASE("convert: what cannot be done is refused in one line, with nothing written") {
    const Setting s("llama-tied", "f16");
    const auto refused = [&](std::vector<std::string> arguments, int exit,
                             const std::string& text) {
        arguments.insert(arguments.begin(), s.model);
        const std::ptrdiff_t before = entries(s.directory.path());
        const ProcessResult r = quantize(arguments);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(text) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK(entries(s.directory.path()) == before);
    };
    const auto edit = [&](const char* flag, const char* value, const std::string& text) {
        refused({"-o", s.back, "--format", "copy", flag, value}, 2, text);
    };
    edit("--drop-kv", "tokenizer.chat_templat", "tokenizer.chat_template");
    edit("--drop-kv", "tokenizer.*", "readers need");
    edit("--drop-kv", "general.architecture", "readers need");
    edit("--override-kv", "general.name", "KEY=TYPE:VALUE");
    edit("--override-kv", "general.name=int:3", "type str");
    edit("--override-kv", "general.name=text:x", "expected int, float, bool or str");
    edit("--override-kv", "llama.context_length=int:many", "no number");
    edit("--override-kv", "llama.context_length=int:-1", "does not fit");
    edit("--override-kv", "llama.rope.freq_base=float:inf", "finite");
    edit("--override-kv", "tokenizer.ggml.tokens=str:x", "arrays");
    edit("--override-kv", "llama.block_count=int:1", "tensors fix");
    refused({"-o", s.hf + "/", "--format", "q8_0"}, 2, "f16, bf16 or f32");
    refused({"-o", s.hf + "/", "--override-kv", "a=int:1"}, 2, "GGUF only");
    refused({"-o", s.hf, "--container", "hf", "--max-memory", "disk=1kB"}, 77, "disk");
    refused({"-o", "/dev/null/x/", "--format", "f16"}, 73, "/dev/null/x");
    fs::create_directory(s.hf);
    write_file(s.hf + "/thesis.tex", "years");
    refused({"-o", s.hf + "/"}, 73, "not empty");
    refused({"-o", s.hf + "/", "--overwrite"}, 73, "thesis.tex");
}

TEST_CASE("convert: a full disk is 74, and nothing of the directory is left") {
    const Setting s("llama-tied", "f16");
    const std::string disk = s.directory.file("disk");
    fs::create_directory(disk);
    if (::geteuid() != 0 || ::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
        MESSAGE("SKIPPED: needs root to mount a small tmpfs");
        return;
    }
    const ProcessResult r = quantize({s.model, "-o", disk + "/hf", "--container", "hf"});
    CHECK(r.exit == 74);
    CHECK(entries(disk) == 0);
    CHECK(::umount2(disk.c_str(), MNT_DETACH) == 0);
}

TEST_CASE("convert: the vocabulary's size is read from the embedding, in planes too") {
    const Setting s("llama-tied");
    // As llama.cpp writes Gemma: no key tells.
    ModelCopy copy = tiny_model("llama-tied");
    copy.metadata.erase("llama.vocab_size");
    copy.write_gguf(s.model);
    must({s.model, "-o", s.back, "--format", "int8", "--pure"});
    CHECK(ModelFile::open(s.back)->find("token_embd.weight.codes") != nullptr);
    CHECK(ModelSource::open(s.back)->spec().vocab == ModelSource::open(s.model)->spec().vocab);
}
