// SPDX-License-Identifier: Apache-2.0
// prune as a user runs it. What goes is what adds nothing, and the rest computes what it did.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "calib/importance.h"
#include "core/cpu.h"
#include "io/json.h"
#include "tests/support/process.h"
#include "tests/support/runs.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

ProcessResult prune(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("prune"));
    arguments.emplace_back("-q");
    return run_process(arguments);
}

struct Setting {
    TemporaryDirectory directory;
    std::string model = directory.file("model.gguf"), out = directory.file("out.gguf"), text;
    Setting() {
        std::string words;
        for (int i = 0; i < 400; ++i)
            words += "word" + std::string(1, static_cast<char>('a' + i * 7 % 26)) +
                     (i % 5 == 0 ? "\n" : " ");
        text = directory.write("text.txt", words);
    }
    // Runs to success; the report.
    [[nodiscard]] Json must(const std::string& method, std::vector<std::string> more = {}) const {
        std::vector<std::string> arguments = {"-m", model, "-o", out, "--method", method};
        arguments.insert(arguments.end(), {"-f", text, "-c", "32", "--chunks", "12"});
        arguments.insert(arguments.end(), {"--check-chunks", "2", "--json", "-", "--overwrite"});
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ProcessResult r = prune(arguments);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return parse_json(r.out, "stdout");
    }
};

std::vector<std::int64_t> kept_layers(const Json& report) {
    std::vector<std::int64_t> out;
    for (const Json& layer : report.find("kept_layers")->as_array("r"))
        out.push_back(layer.as_int("r"));
    return out;
}
double kld(const Json& report) { return report.find("quality")->find("kld_mean")->as_double("r"); }

// Sets elements of a matrix [rows, cols] of floats to zero.
template <class Which>
void zero(ModelCopy& model, const std::string& tensor, Which&& which) {
    const std::size_t at = model.index(tensor);
    const auto cols = static_cast<std::int64_t>(model.specs[at].dims.back());
    auto* weights = reinterpret_cast<float*>(model.data[at].data());
    const auto count = static_cast<std::int64_t>(model.data[at].size() / sizeof(float));
    for (std::int64_t i = 0; i < count; ++i) {
        if (which(i % cols)) weights[i] = 0;
    }
}
// Nothing that the layer computes is added.
void silence(ModelCopy& model, int layer) {
    const std::string blk = "blk." + std::to_string(layer);
    for (const char* matrix : {".attn_output.weight", ".ffn_down.weight"})
        zero(model, blk + matrix, [](std::int64_t) { return true; });
}

// On the reference device.
std::vector<double> logits_of(const std::string& path) {
    Team team(2);
    RunnerOptions options;
    options.device = Device::kRef;
    options.kv.context_tokens = 32;
    Runner runner(ModelSource::open(path), options, team);
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 20; ++i) tokens.push_back(1 + i * 11 % 80);
    return all_logits(runner, tokens);
}
void check_same_logits(const std::string& a, const std::string& b) {
    const std::vector<double> x = logits_of(a), y = logits_of(b);
    REQUIRE(x.size() == y.size());
    double most = 0;
    for (std::size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
    CHECK(most <= 1e-9);  // sums of doubles in another order
}

std::vector<std::byte> bytes_of(const ModelFile& file, const TensorEntry& entry) {
    std::vector<std::byte> bytes(entry.bytes);
    file.read(entry, 0, bytes);
    return bytes;
}
void check_same_tensors(const std::string& a, const std::string& b) {
    const auto x = ModelFile::open(a), y = ModelFile::open(b);
    REQUIRE(x->tensors().size() == y->tensors().size());
    for (const TensorEntry& entry : x->tensors()) {
        CAPTURE(entry.name);
        const TensorEntry& other = y->get(entry.name);
        CHECK(entry.type == other.type);
        CHECK(entry.dims == other.dims);
        CHECK(bytes_of(*x, entry) == bytes_of(*y, other));
    }
}

std::vector<float> floats_of(const std::string& path, const std::string& tensor) {
    const auto file = ModelFile::open(path);
    const std::vector<std::byte> bytes = bytes_of(*file, file->get(tensor));
    std::vector<float> out(bytes.size() / sizeof(float));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
}

// In each row of the second layer's ffn_up, what went matters less than what stayed, by an
// importance matrix of the model as it was then.
void check_least_go(const Setting& s, const std::vector<float>& after) {
    const std::string imatrix = s.directory.file("imatrix.gguf"), name = "blk.1.ffn_up.weight";
    REQUIRE(run_process({tool_path("quantize"), "--collect-imatrix", "-m", s.model, "-f", s.text,
                         "-c", "32", "--chunks", "12", "-o", imatrix, "-q"})
                .exit == 0);
    const ImportanceMatrix matrix = read_importance(imatrix);
    const std::vector<float>& sums = matrix.entries.at(name).sums;
    const std::vector<float> before = floats_of(s.model, name);
    REQUIRE(before.size() == after.size());
    for (std::size_t first = 0; first < before.size(); first += sums.size()) {
        double most_gone = 0, least_kept = 1e300;
        for (std::size_t c = 0; c < sums.size(); ++c) {
            const double w = before[first + c], score = w * w * double{sums[c]};
            if (after[first + c] == 0) {
                most_gone = std::max(most_gone, score);
            } else {
                least_kept = std::min(least_kept, score);
            }
        }
        CHECK(most_gone <= least_kept * (1 + 1e-4));
    }
}

}  // namespace

TEST_CASE("prune: leaving out nothing gives the same tensors") {
    const Setting s;
    for (const char* format : {"f32", "q8_0"}) {
        write_tiny_model(s.model, "llama-tied", format);
        for (const char* method :
             {"layers:count=0", "channels:ratio=0", "heads:ratio=0", "channels:ratio=0.01"}) {
            CAPTURE(format);
            CAPTURE(method);
            CHECK(kld(s.must(method)) == 0);
            check_same_tensors(s.model, s.out);
        }
    }
    write_tiny_model(s.model, "llama-tied", "bf16");
    for (const char* method : {"magnitude", "wanda", "sparsegpt"}) {
        CAPTURE(method);
        CHECK(kld(s.must(std::string(method) + ":sparsity=0")) == 0);
        check_same_tensors(s.model, s.out);
    }
}

TEST_CASE("prune: layers that add nothing go, and the rest keeps its windows") {
    const Setting s;
    ModelCopy model = tiny_model("gemma3");
    for (const int layer : {2, 3}) silence(model, layer);
    model.write_gguf(s.model);
    const std::vector<std::int64_t> left = {0, 1, 4, 5, 6};
    for (const char* method :
         {"layers:count=2", "layers:ratio=0.28", "layers:count=2,contiguous",
          "layers:count=2,greedy", "layers:drop=2-3", "layers:drop=3,drop=2"}) {
        CAPTURE(method);
        const Json report = s.must(method);
        CHECK(kept_layers(report) == left);
        CHECK(kld(report) < 1e-12);
        check_same_logits(s.model, s.out);
    }
    const auto file = ModelFile::open(s.out);
    CHECK(file->metadata().get_int("gemma3.block_count", 1, 100) == 5);
    CHECK(file->find("blk.5.attn_q.weight") == nullptr);
    // The first two layers and the last stay unless they are asked for.
    ModelCopy ends = tiny_model("gemma3");
    for (const int layer : {0, 6}) silence(ends, layer);
    ends.write_gguf(s.model);
    const std::vector<std::int64_t> inner = kept_layers(s.must("layers:count=1"));
    CHECK(inner.front() == 0);
    CHECK(inner.back() == 6);
    CHECK(kept_layers(s.must("layers:count=2,first=0,last=0")) ==
          std::vector<std::int64_t>{1, 2, 3, 4, 5});
}

TEST_CASE("prune: channels that add nothing go") {
    const Setting s;
    ModelCopy model = tiny_model("llama-untied");  // 80 channels
    for (const int layer : {0, 1}) {
        zero(model, "blk." + std::to_string(layer) + ".ffn_down.weight",
             [&](std::int64_t c) { return c % 5 == layer; });
    }
    model.write_gguf(s.model);
    const Json report = s.must("channels:ratio=0.2,multiple=16");
    CHECK(report.find("ffn")->as_int("r") == 64);
    check_same_logits(s.model, s.out);
    CHECK(ModelFile::open(s.out)->metadata().get_int("llama.feed_forward_length", 1, 1000) == 64);
    // What is left is a multiple.
    CHECK(s.must("channels:ratio=0.5,multiple=32").find("ffn")->as_int("r") == 64);
    CHECK(s.must("channels:ratio=0.9,multiple=32").find("ffn")->as_int("r") == 32);
}

TEST_CASE("prune: heads that add nothing go, by group or within each") {
    const Setting s;
    const auto without = [&](auto&& gone) {
        ModelCopy model = tiny_model("llama-untied");  // 6 heads of 8, 2 of them key-value
        for (const int layer : {0, 1}) {
            zero(model, "blk." + std::to_string(layer) + ".attn_output.weight",
                 [&](std::int64_t c) { return gone(layer, c / 8); });
        }
        model.write_gguf(s.model);
    };
    without([](int layer, std::int64_t head) { return head / 3 == layer; });
    const Json groups = s.must("heads:ratio=0.5");
    CHECK(groups.find("heads")->as_int("r") == 3);
    CHECK(groups.find("kv_heads")->as_int("r") == 1);
    check_same_logits(s.model, s.out);

    without([](int layer, std::int64_t head) { return head % 3 == layer; });
    const Json queries = s.must("heads:ratio=0.34,unit=query");
    CHECK(queries.find("heads")->as_int("r") == 4);
    CHECK(queries.find("kv_heads")->as_int("r") == 2);
    check_same_logits(s.model, s.out);
    CHECK(ModelFile::open(s.out)->metadata().get_int("llama.attention.key_length", 1, 99) == 8);
}

namespace {

using Sizes = std::vector<std::int64_t>;

Sizes layer_sizes(const Json& report, const char* what) {
    Sizes out;
    for (const Json& layer : report.find("layer_sizes")->as_array("r"))
        out.push_back(layer.find(what)->as_int("r"));
    return out;
}

// A model whose layers differ in channels and heads, from one whose parts that go add nothing.
void prune_per_layer(const Setting& s, const std::string& path) {
    ModelCopy model = tiny_model("llama-untied");
    zero(model, "blk.0.ffn_down.weight", [](std::int64_t c) { return c % 5 > 0; });
    zero(model, "blk.1.attn_output.weight", [](std::int64_t c) { return c / 8 < 3; });
    model.write_gguf(s.model);
    CHECK(layer_sizes(s.must("channels:ratio=0.4,multiple=16,per-layer,least=0.1"), "ffn") ==
          Sizes{16, 80});
    check_same_logits(s.model, s.out);
    fs::rename(s.out, path + "0");
    const ProcessResult r =
        prune({"-m", path + "0", "-o", path, "--method", "heads:ratio=0.25,per-layer", "-f", s.text,
               "-c", "32", "--chunks", "12", "--check-chunks", "0", "--json", "-"});
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    const Json report = parse_json(r.out, "stdout");
    CHECK(layer_sizes(report, "kv_heads") == Sizes{2, 1});
    CHECK(layer_sizes(report, "heads") == Sizes{6, 3});
    CHECK(layer_sizes(report, "ffn") == Sizes{16, 80});
    check_same_logits(s.model, path);
}

}  // namespace

TEST_CASE("prune: with per-layer each layer keeps what it needs, and its numbers are lists") {
    const Setting s;
    const std::string thin = s.directory.file("thin.gguf");
    prune_per_layer(s, thin);
    const auto file = ModelFile::open(thin);
    const auto list = [&](const char* key) {
        return std::get<std::vector<std::int32_t>>(file->metadata().find_array(key)->elements);
    };
    CHECK(list("llama.feed_forward_length") == std::vector<std::int32_t>{16, 80});
    CHECK(list("llama.attention.head_count") == std::vector<std::int32_t>{6, 3});
    CHECK(list("llama.attention.head_count_kv") == std::vector<std::int32_t>{2, 1});
    // By a share of each layer: least=0.5 of five groups are three.
    const Json least = s.must("channels:ratio=0.4,multiple=16,per-layer,least=0.5");
    CHECK(least.find("ffn")->as_int("r") == 48);
    CHECK(least.find("layer_sizes") == nullptr);
    // Queries of each group, of which one adds nothing in the first layer.
    ModelCopy model = tiny_model("llama-untied");
    zero(model, "blk.0.attn_output.weight", [](std::int64_t c) { return c / 8 % 3 == 1; });
    model.write_gguf(s.model);
    CHECK(layer_sizes(s.must("heads:ratio=0.16,unit=query,per-layer"), "heads") == Sizes{4, 6});
    check_same_logits(s.model, s.out);
}

TEST_CASE("prune: a model whose layers differ is one to every tool") {
    const Setting s;
    const std::string thin = s.directory.file("thin.gguf"), made = s.directory.file("made.gguf");
    prune_per_layer(s, thin);
    const auto must = [](const char* tool, std::vector<std::string> arguments) {
        arguments.insert(arguments.begin(), tool_path(tool));
        const ProcessResult r = run_process(arguments);
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        return r.out;
    };
    must("quantize", {"-m", thin, "-o", made, "--format", "q8_0", "--pure", "-q"});
    CHECK(ModelSource::open(made)->config().sizes == ModelSource::open(thin)->config().sizes);
    must("compress", {thin, "-o", made, "--overwrite", "-q"});
    check_same_logits(thin, made);
    // The whole of it, with keys left out, streamed, and on a device.
    const std::vector<std::string> base = {
        "-m", thin, "-p", "some words to go on from", "-n", "12", "-c", "64", "--temp", "0", "-q"};
    const auto run = [&](std::vector<std::string> more) {
        more.insert(more.begin(), base.begin(), base.end());
        return must("run", more);
    };
    const std::string plain = run({});
    CHECK(run({"--kv-policy", "snapkv:budget=48,window=8+adakv"}) == plain);
    CHECK(run({"--kv-policy", "h2o:budget=48"}) == plain);
    CHECK_FALSE(run({"--kv-policy", "snapkv:budget=12,window=4+adakv"}).empty());
    CHECK(run({"--device", "cuda"}) == plain);
    must("evaluate", {"-m", thin, "-f", s.text, "-c", "32", "--chunks", "2", "-q"});
    must("offload-train", {"-m", thin, "--data", s.text, "-o", s.directory.file("tuned.gguf"),
                           "--method", "full", "--steps", "2", "-c", "32", "-q"});
    CHECK(ModelSource::open(s.directory.file("tuned.gguf"))->config().sizes ==
          ModelSource::open(thin)->config().sizes);
    // A config.json cannot say it.
    const ProcessResult hf =
        run_process({tool_path("quantize"), "-m", thin, "-o", s.directory.file("hf"), "--container",
                     "hf", "--format", "f32", "-q"});
    CHECK(hf.exit == 65);
    CHECK(hf.err.find("one width for all layers") != std::string::npos);
}

TEST_CASE("prune: rows of quantised matrices keep their codes, columns become floats") {
    const Setting s;
    write_tiny_model(s.model, "llama-tied", "q8_0");  // 96 channels, 64 wide
    CHECK(kld(s.must("channels:ratio=0.34")) < 1);
    const auto before = ModelFile::open(s.model), after = ModelFile::open(s.out);
    const auto type = [&](const char* tensor) { return after->get(tensor).type; };
    CHECK(type("blk.0.ffn_gate.weight") == TensorType::kQ8_0);
    CHECK(type("blk.0.attn_q.weight") == TensorType::kQ8_0);
    CHECK(type("blk.0.ffn_down.weight") == TensorType::kF16);
    // Each row that is left is a row that was there, in the same order.
    const std::vector<std::byte> old = bytes_of(*before, before->get("blk.0.ffn_up.weight"));
    const std::vector<std::byte> now = bytes_of(*after, after->get("blk.0.ffn_up.weight"));
    const std::size_t row = old.size() / 96;
    REQUIRE(now.size() == row * 64);
    std::size_t at = 0;
    for (std::size_t r = 0; r < 96 && at < 64; ++r)
        at += std::memcmp(&old[r * row], &now[at * row], row) == 0 ? 1 : 0;
    CHECK(at == 64);
    CHECK(kld(s.must("channels:ratio=0.34", {"--format", "f32"})) < 1);
    CHECK(ModelFile::open(s.out)->get("blk.0.ffn_down.weight").type == TensorType::kF32);
}

TEST_CASE("prune: what is made of a coded model is a model as any other") {
    const Setting s;
    write_tiny_model(s.model, "llama-tied", "bf16");
    const std::string coded = s.directory.file("coded.gguf"),
                      again = s.directory.file("again.gguf");
    const auto compress = [](const std::string& from, const std::string& to) {
        return run_process({tool_path("compress"), from, "-o", to, "-q"}).exit;
    };
    REQUIRE(compress(s.model, coded) == 0);
    fs::copy_file(s.model, s.directory.file("plain.gguf"));
    fs::rename(coded, s.model);
    CHECK(kld(s.must("layers:count=0")) == 0);
    check_same_tensors(s.directory.file("plain.gguf"), s.out);
    CHECK(ModelFile::open(s.out)->metadata().find("thimble.lossless") == nullptr);
    CHECK(compress(s.out, again) == 0);
}

TEST_CASE("prune: what stays makes up for what goes") {
    const Setting s;
    write_tiny_model(s.model, "llama-untied");
    for (const char* method : {"channels:ratio=0.4,multiple=16", "heads:ratio=0.34,unit=query"}) {
        CAPTURE(method);
        const double with = kld(s.must(method));
        CHECK(with > 0);
        CHECK(with < kld(s.must(std::string(method) + ",refit=false")));
    }
}

TEST_CASE("prune: layers are looked at as the pruned ones before leave them") {
    const Setting s;
    write_tiny_model(s.model, "llama-untied");
    for (const char* method : {"wanda:sparsity=0.5", "sparsegpt:nm=2:4"}) {
        CAPTURE(method);
        (void)s.must(method);
        const std::string whole = read_file(s.out);
        const std::vector<float> second = floats_of(s.out, "blk.1.ffn_up.weight");
        Setting two;
        two.text = s.text;
        fs::copy_file(s.model, two.model);
        (void)two.must(method, {"--only", "^blk\\.0\\."});
        CHECK(floats_of(two.out, "blk.1.ffn_up.weight") ==
              floats_of(s.model, "blk.1.ffn_up.weight"));
        fs::rename(two.out, two.model);
        if (std::string(method).starts_with("wanda")) check_least_go(two, second);
        (void)two.must(method, {"--only", "blk.1"});
        CHECK(floats_of(two.out, "blk.1.ffn_up.weight") == second);
        check_same_tensors(s.out, two.out);
        // Threads change nothing.
        (void)s.must(method, {"-t", "1"});
        CHECK(read_file(s.out) == whole);
    }
}

TEST_CASE("prune: zeros are counted, quality is told, and a gate leaves nothing") {
    const Setting s;
    write_tiny_model(s.model, "llama-untied");
    const Json report = s.must("wanda:sparsity=0.25");
    for (const Json& one : report.find("zeros")->as_array("r")) {
        const std::string name = one.find("name")->as_string("r");
        CAPTURE(name);
        const std::vector<float> weights = floats_of(s.out, name);
        CHECK(one.find("zeros")->as_int("r") == std::count(weights.begin(), weights.end(), 0.0F));
        CHECK(one.find("zeros")->as_int("r") * 4 == one.find("weights")->as_int("r"));
    }
    CHECK(report.find("zeros")->as_array("r").size() == 14);
    const double divergence = kld(report);
    CHECK(divergence > 0);
    CHECK(report.find("quality")->find("ppl")->as_double("r") > 1);
    CHECK(report.find("output_bytes")->as_int("r") ==
          static_cast<std::int64_t>(fs::file_size(s.out)));

    fs::remove(s.out);
    const auto gated = [&](double most) {
        return prune({"-m", s.model, "-o", s.out, "--method", "wanda:sparsity=0.25", "-f", s.text,
                      "-c", "32", "--chunks", "12", "--check-chunks", "2", "--max-kld",
                      std::to_string(most)});
    };
    const ProcessResult r = gated(divergence * 0.9);
    CHECK(r.exit == 3);
    CHECK(r.err.find("--max-kld") != std::string::npos);
    CHECK_FALSE(fs::exists(s.out));
    for (const auto& entry : fs::directory_iterator(s.directory.path()))
        CHECK(entry.path().string().find("unchecked") == std::string::npos);
    CHECK(gated(divergence * 1.1).exit == 0);
    CHECK(fs::exists(s.out));
    CHECK(gated(divergence * 1.1).exit == 73);
}

// With the weights all in memory, or each layer read when it is wanted.
static std::vector<double> cpu_logits_of(const std::string& path, bool streamed) {
    Team team(2);
    RunnerOptions options;
    options.isa = best_isa();
    options.kv.context_tokens = 32;
    if (streamed) options.weight_bytes = 0;
    Runner runner(ModelSource::open(path), options, team);
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 20; ++i) tokens.push_back(1 + i * 11 % 80);
    return all_logits(runner, tokens);
}

TEST_CASE("prune: --format sparse stores what stays, and computes the bits that zeros do") {
    const Setting s;
    write_tiny_model(s.model, "llama-tied", "bf16");
    const std::string plain = s.directory.file("plain.gguf"), again = s.directory.file("q.gguf");
    for (const std::string method : {"magnitude:nm=2:4", "wanda:sparsity=0.5", "sparsegpt:nm=2:4",
                                     "sparsegpt:sparsity=0.6", "magnitude:sparsity=0.6"}) {
        CAPTURE(method);
        (void)s.must(method);
        fs::rename(s.out, plain);
        const ProcessResult dry =
            prune({"-m", s.model, "-o", s.out, "--method", method, "-f", s.text, "-c", "32",
                   "--format", "sparse", "--dry-run", "--json", "-"});
        CAPTURE(dry.err);
        REQUIRE(dry.exit == 0);
        const Json report = s.must(method, {"--format", "sparse"});
        const std::int64_t predicted =
            parse_json(dry.out, "stdout").find("plan")->find("output_bytes")->as_int("p");
        const auto size = static_cast<std::int64_t>(fs::file_size(s.out));
        CHECK(report.find("output_bytes")->as_int("r") == size);
        const bool known = method.find("=0.6") == std::string::npos;
        CHECK(known == (predicted == size));
        CHECK(predicted >= size);
        CHECK(fs::file_size(s.out) < fs::file_size(plain));
        // The recorded options are longer.
        CHECK(std::abs(report.find("plain_bytes")->as_int("r") -
                       static_cast<std::int64_t>(fs::file_size(plain))) < 200);
        CHECK_FALSE(fs::exists(s.out + ".plain"));
        CHECK(ModelSource::open(s.out)->tensors().size() ==
              ModelSource::open(plain)->tensors().size());

        CHECK(logits_of(s.out) == logits_of(plain));
        const std::vector<double> logits = cpu_logits_of(plain, false);
        CHECK(cpu_logits_of(s.out, false) == logits);
        CHECK(cpu_logits_of(s.out, true) == logits);

        // A pruned file of any other origin becomes the same.
        const ProcessResult r = run_process(
            {tool_path("quantize"), plain, "-o", again, "--format", "sparse", "--overwrite", "-q"});
        CAPTURE(r.err);
        REQUIRE(r.exit == 0);
        check_same_tensors(s.out, again);
    }
}

TEST_CASE("prune: --format sparse takes codes, leaves the other matrices, and says what it saves") {
    const Setting s;
    write_tiny_model(s.model, "llama-tied", "f16");
    const std::vector<std::string> common = {
        tool_path("prune"), "-m",       s.model,           "-o", s.out,
        "--overwrite",      "--method", "magnitude:nm=2:4"};
    const auto told = [&](std::vector<std::string> more) {
        more.insert(more.begin(), common.begin(), common.end());
        const ProcessResult r = run_process(more);
        CAPTURE(r.err);
        CHECK(r.exit == 0);
        return r.err.find("zeros are stored as any other weight") != std::string::npos;
    };
    CHECK(told({}));
    CHECK_FALSE(told({"--format", "sparse:values=f16"}));
    const auto whole = fs::file_size(s.out);
    CHECK_FALSE(told({"--format", "sparse8"}));
    const auto codes = fs::file_size(s.out);
    CHECK(codes < whole);
    CHECK_FALSE(told({"--format", "sparse4"}));
    CHECK(fs::file_size(s.out) < codes);
    CHECK_FALSE(told({"--format", "sparse", "--only", "ffn_up"}));
    const auto source = ModelSource::open(s.out);
    for (const SourceTensor& tensor : source->tensors()) {
        CAPTURE(tensor.name);
        if (!tensor.is_matrix) continue;
        const bool up = tensor.name.find("ffn_up") != std::string::npos;
        CHECK((tensor.layout() == LayoutId::k_sparse) == up);
        if (!up) CHECK(tensor.layout() == LayoutId::k_f16);
    }
}

TEST_CASE("prune: the plan says how large the output is, and holds") {
    const Setting s;
    write_tiny_model(s.model, "llama-untied");
    for (const char* method :
         {"layers:drop=1", "channels:ratio=0.4", "heads:ratio=0.5", "magnitude:nm=2:4",
          "channels:ratio=0.4,multiple=16,per-layer", "heads:ratio=0.25,per-layer"}) {
        CAPTURE(method);
        const ProcessResult r = prune({"-m", s.model, "-o", s.out, "--method", method, "-f", s.text,
                                       "-c", "32", "--overwrite", "--dry-run", "--json", "-"});
        REQUIRE(r.exit == 0);
        const Json plan = *parse_json(r.out, "stdout").find("plan");
        const Json report = s.must(method);
        const std::int64_t planned = plan.find("output_bytes")->as_int("p");
        const std::int64_t bytes = report.find("output_bytes")->as_int("r");
        // Layers that turn out to be alike have one number, not a list.
        const bool may_differ = std::string(method).find("per-layer") != std::string::npos;
        CHECK(bytes <= planned);
        CHECK(bytes >= planned - (may_differ ? 64 : 0));
        const auto peak = [](const Json& of) {
            return of.find("ram")->find("peak_bytes")->as_int("p");
        };
        CHECK(peak(*report.find("measured")) <= peak(*report.find("plan")->find("tiers")));
    }
}

TEST_CASE("prune: what cannot be done is said before any work") {
    const Setting s;
    write_tiny_model(s.model, "llama-untied");
    const auto refused = [&](std::vector<std::string> more, const std::string& what, int exit = 2) {
        more.insert(more.begin(), {"-m", s.model, "-o", s.out});
        const ProcessResult r = prune(more);
        CAPTURE(r.err);
        CHECK(r.exit == exit);
        CHECK(r.err.find(what) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(fs::exists(s.out));
    };
    refused({"--method", "wanda"}, "give -f FILE");
    refused({"--method", "wnada", "-f", s.text}, "did you mean 'wanda'");
    refused({"--method", "wanda", "-f", s.text, "--only", "ffn_gat$"}, "finds no matrix");
    refused({"--method", "layers:count=1", "-f", s.text, "--only", "ffn"}, "zeroes no single");
    refused({"--method", "layers:count=1", "-f", s.text, "--format", "sparse"}, "zeroes no single");
    refused({"--method", "magnitude", "--format", "sparse"}, "as sparse ones are");
    refused({"--method", "magnitude", "--format", "q8_0"}, "not for pruned matrices");
    refused({"--method", "wanda:nm=3:7", "-f", s.text, "-c", "32"}, "no multiple of 7");
    refused({"--method", "layers:count=2", "-f", s.text, "-c", "32"}, "drop fewer");
    refused({"--method", "heads:ratio=0.2", "-f", s.text, "-c", "32"}, "none would go");
    refused({"--method", "layers:drop=0-1"}, "leaves no layer");
    refused({"--method", "layers:drop=5"}, "layers are 0 to 1");
    refused({"--method", "magnitude", "--max-kld", "1"}, "--check-file");
    refused({"--method", "wanda", "-f", s.text, "-c", "512"}, "use a longer text");
    refused({"--method", "magnitude", "--max-memory", "ram=21MiB"}, "", 77);
    refused({"--method", "magnitude", "-f", s.directory.file("absent")}, "absent", 66);
}
