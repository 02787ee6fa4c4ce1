// SPDX-License-Identifier: Apache-2.0
// Models rewritten by quantize --rearrange and --smooth: the same logits to the last digits, rows
// and columns where they belong.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "calib/importance.h"
#include "core/error.h"
#include "kernels/layout/rng.h"
#include "quant/job.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::test;

namespace {

using Rows = std::vector<double>;

// A golden model as GGUF, uneven importance of all its matrices' columns, and quantize on it.
struct Setting {
    TempDir directory;
    std::string model = directory / "model.gguf", imatrix = directory / "m.gguf";

    explicit Setting(const ModelCopy& copy) {
        copy.write_gguf(model);
        const auto source = ModelSource::open(model);
        ImportanceMatrix matrix;
        for (const SourceTensor& tensor : source->tensors()) {
            if (!tensor.is_matrix) continue;
            ImportanceEntry& entry = matrix.entries[tensor.name];
            entry.counts = {1};
            // Matrices that share an input have the same.
            const std::string input = input_of(tensor.name);
            const auto seed = static_cast<std::uint64_t>(tensor.layer * 8 + input.back() % 8);
            for (std::int64_t c = 0; c < tensor.cols(); ++c) {
                const double u =
                    philox(70 + seed, static_cast<std::uint64_t>(c)).v[0] / 4294967296.0;
                entry.sums.push_back(static_cast<float>(std::exp(8 * u - 4)));
            }
        }
        write_importance(imatrix, matrix, ImportanceFormat::kGguf, IfExists::kReplace);
    }
    explicit Setting(const std::string& golden)
        : Setting(ModelCopy::as_gguf(golden_model(golden).directory, "f32")) {}

    static std::string input_of(const std::string& name) {
        const std::string role = name.substr(0, name.rfind('.'));
        const std::string last = role.substr(role.rfind('.') + 1);
        if (last == "attn_q" || last == "attn_k" || last == "attn_v") return "a";
        if (last == "ffn_gate" || last == "ffn_up") return "b";
        return last == "ffn_down" ? "c" : "d";
    }
    [[nodiscard]] std::string file(const std::string& name) const { return directory / name; }

    std::string quantize(const std::string& output, QuantizeOptions options, int threads = 2,
                         std::optional<std::uint64_t> limit = {}) const {
        if (options.model.empty()) options.model = model;
        options.output = file(output);
        options.overwrite = true;
        QuantizeJob job(options, "test");
        (void)job.plan(threads, 0, limit);
        Team team(threads);
        QuantizeEvents events;
        events.progress = [](std::uint64_t, std::uint64_t) { return true; };
        REQUIRE(job.run(team, Isa::kPortable, events));
        return job.output_path();
    }
};

QuantizeOptions options_of(const std::string& format, const std::string& rearrange = "",
                           double smooth = QuantizeOptions::kNoSmoothing,
                           const std::string& imatrix = "") {
    QuantizeOptions o;
    o.format = format, o.rearrange = rearrange, o.smooth = smooth, o.imatrix = imatrix;
    return o;
}

QuantizeOptions all_rewrites(const Setting& s, const std::string& format) {
    return options_of(format, "all", 0.5, s.imatrix);
}

std::vector<double> logits(const std::string& model, std::span<const std::int32_t> tokens,
                           Device device = Device::kRef) {
    Team team(2);
    RunnerOptions options;
    options.device = device;
    options.activations = Activations::kF32;
    options.kv.type_k = options.kv.type_v = "f32";
    Runner runner(ModelSource::open(model), options, team);
    return all_logits(runner, tokens);
}

// Largest difference, relative to the largest logit.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
    REQUIRE(a.size() == b.size());
    double worst = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const double error = std::abs(a[i] - b[i]);
        worst = std::isfinite(error) ? std::max(worst, error) : INFINITY;
        size = std::max(size, std::abs(a[i]));
    }
    return worst / size;
}

Rows read(const ModelSource& source, const std::string& name) {
    const SourceTensor& tensor = *source.find(name);
    Rows out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, tensor.rows(), out.data(), scratch);
    return out;
}

// Of each column, [cols].
Rows by_column(const Rows& rows, std::size_t cols,
               const std::function<double(double sum, double w)>& add) {
    Rows out(cols);
    for (std::size_t i = 0; i < rows.size(); ++i) out[i % cols] = add(out[i % cols], rows[i]);
    return out;
}
double add_square(double sum, double w) { return sum + w * w; }
double add_peak(double peak, double w) { return std::max(peak, std::abs(w)); }

// Where each column of `now` was in `before`: columns of [rows, cols] are told apart by their bits.
std::vector<std::size_t> columns_before(const Rows& before, const Rows& now, std::size_t cols) {
    std::vector<std::size_t> out;
    for (std::size_t c = 0; c < cols; ++c) {
        for (std::size_t from = 0; from < cols; ++from) {
            bool same = true;
            for (std::size_t at = 0; at < now.size(); at += cols)
                same = same && now[at + c] == before[at + from];
            if (same) out.push_back(from);
        }
    }
    return out;
}

bool is_permutation_of_all(std::vector<std::size_t> order, std::size_t count) {
    std::sort(order.begin(), order.end());
    for (std::size_t i = 0; i < order.size(); ++i)
        if (order[i] != i) return false;
    return order.size() == count;
}

std::string layer(const char* role) { return std::string("blk.1.") + role; }

}  // namespace

TEST_CASE("folding: all rewrites leave the logits of f64 weights as they were to 1e-12") {
    for (const GoldenModel& golden : golden_models()) {
        CAPTURE(golden.name);
        const Setting s(golden.name);
        const auto& tokens = golden.prompts.front().tokens;
        const auto before = logits(s.model, tokens);
        CHECK(difference(before, logits(s.quantize("plain.gguf", options_of("f64")), tokens)) == 0);
        for (int what = 0; what < 4; ++what) {
            QuantizeOptions o = all_rewrites(s, "f64");
            if (what == 0) o.rearrange = "ffn", o.smooth = -1;
            if (what == 1) o.rearrange = "values", o.smooth = -1;
            if (what == 2) o.rearrange = "";
            CAPTURE(what);
            const std::string out = s.quantize("out.gguf", o);
            CHECK(slurp(out) != slurp(s.file("plain.gguf")));
            CHECK(difference(before, logits(out, tokens)) < 1e-12);
        }
        // Alike where norms and weights are stored in other ways, at their own precision.
        const std::string f32 = s.quantize("f32.gguf", all_rewrites(s, "f32"));
        CHECK(difference(before, logits(f32, tokens)) < 3e-6);
        CHECK(difference(before, logits(f32, tokens, Device::kCpu)) < 1e-4);
        // A config.json has some of the model's numbers in other digits.
        QuantizeOptions hf = all_rewrites(s, "f64"), plain = options_of("f64");
        hf.container = plain.container = "hf";
        CHECK(difference(logits(s.quantize("plain", plain), tokens),
                         logits(s.quantize("hf", hf), tokens)) < 1e-12);
    }
}

TEST_CASE("folding: a Hugging Face directory becomes another, norms less one included") {
    for (const GoldenModel& golden : golden_models()) {
        CAPTURE(golden.name);
        const Setting s(golden.name);
        const auto& tokens = golden.prompts.front().tokens;
        const auto before = logits(golden.directory, tokens);
        for (const std::string format : {"f64", "f32"}) {
            CAPTURE(format);
            QuantizeOptions o = all_rewrites(s, format);
            o.model = golden.directory, o.container = "hf";
            const double moved = difference(before, logits(s.quantize("out", o), tokens));
            CHECK(moved < (format == "f64" ? 1e-12 : 3e-6));
        }
    }
}

TEST_CASE("folding: ffn channels ascend by the size of down's columns, gate and up follow") {
    const Setting s("llama-untied");
    const auto before = ModelSource::open(s.model);
    const std::size_t ffn = 80;
    for (const bool weighed : {false, true}) {
        CAPTURE(weighed);
        QuantizeOptions o = options_of("f64", "ffn");
        if (weighed) o.imatrix = s.imatrix;
        const auto after = ModelSource::open(s.quantize("out.gguf", o));
        const Rows was = read(*before, layer("ffn_down.weight"));
        const Rows now = read(*after, layer("ffn_down.weight"));
        const std::vector<std::size_t> order = columns_before(was, now, ffn);
        REQUIRE(is_permutation_of_all(order, ffn));
        Rows keys = by_column(was, ffn, add_square);
        const auto means = read_importance(s.imatrix).entries.at(layer("ffn_down.weight")).sums;
        for (std::size_t c = 0; weighed && c < ffn; ++c) keys[c] *= static_cast<double>(means[c]);
        for (std::size_t c = 1; c < ffn; ++c) CHECK(keys[order[c - 1]] <= keys[order[c]]);
        for (const char* role :
             {"ffn_gate.weight", "ffn_up.weight", "ffn_gate.bias", "ffn_up.bias"}) {
            CAPTURE(role);
            const Rows a = read(*before, layer(role)), b = read(*after, layer(role));
            const std::size_t width = a.size() / ffn;
            for (std::size_t r = 0; r < ffn; ++r)
                for (std::size_t c = 0; c < width; ++c)
                    REQUIRE(b[r * width + c] == a[order[r] * width + c]);
        }
        for (const char* role : {"ffn_down.bias", "attn_v.weight", "attn_output.weight"})
            CHECK(read(*after, layer(role)) == read(*before, layer(role)));
    }
}

TEST_CASE("folding: value channels ascend inside each head, by all columns that meet them") {
    const Setting s("llama-untied");
    constexpr std::size_t kHeads = 6, kKvHeads = 2, kDim = 8, kHidden = 48;
    const auto before = ModelSource::open(s.model);
    for (const bool weighed : {false, true}) {
        CAPTURE(weighed);
        QuantizeOptions o = options_of("f64", "values");
        if (weighed) o.imatrix = s.imatrix;
        const auto after = ModelSource::open(s.quantize("out.gguf", o));
        const Rows was = read(*before, layer("attn_output.weight"));
        const auto order =
            columns_before(was, read(*after, layer("attn_output.weight")), kHeads * kDim);
        REQUIRE(is_permutation_of_all(order, kHeads * kDim));
        Rows squares = by_column(was, kHeads * kDim, add_square);
        const auto means = read_importance(s.imatrix).entries.at(layer("attn_output.weight")).sums;
        for (std::size_t c = 0; weighed && c < squares.size(); ++c)
            squares[c] *= static_cast<double>(means[c]);
        const Rows v = read(*before, layer("attn_v.weight")),
                   moved = read(*after, layer("attn_v.weight"));
        const Rows bias = read(*before, layer("attn_v.bias")),
                   moved_bias = read(*after, layer("attn_v.bias"));
        for (std::size_t k = 0; k < kKvHeads; ++k) {
            double last = 0;
            for (std::size_t i = 0; i < kDim; ++i) {
                double key = 0;
                const std::size_t from = order[3 * k * kDim + i] % kDim;
                for (std::size_t h = 3 * k; h < 3 * (k + 1); ++h) {
                    CHECK(order[h * kDim + i] == h * kDim + from);  // one order for all its heads
                    key += squares[h * kDim + from];
                }
                CHECK(last <= key);
                last = key;
                const std::size_t to = k * kDim + i, was_at = k * kDim + from;
                CHECK(moved_bias[to] == bias[was_at]);
                for (std::size_t c = 0; c < kHidden; ++c)
                    REQUIRE(moved[to * kHidden + c] == v[was_at * kHidden + c]);
            }
        }
    }
}

TEST_CASE("folding: smoothing levels weights at 0 and activations at 1, and divides norms so") {
    for (const char* name : {"llama-untied", "gemma3"}) {
        CAPTURE(name);
        const Setting s(name);
        const auto before = ModelSource::open(s.model);
        const auto means = read_importance(s.imatrix).entries;
        const std::vector<std::pair<const char*, std::vector<const char*>>> sites = {
            {"attn_norm.weight", {"attn_q.weight", "attn_k.weight", "attn_v.weight"}},
            {"ffn_norm.weight", {"ffn_gate.weight", "ffn_up.weight"}}};
        for (const double alpha : {0.0, 0.3, 1.0}) {
            CAPTURE(alpha);
            const QuantizeOptions o = options_of("f64", "", alpha, s.imatrix);
            const auto after = ModelSource::open(s.quantize("out.gguf", o));
            for (const auto& [norm, fed] : sites) {
                const Rows n = read(*before, layer(norm)), m = read(*after, layer(norm));
                Rows peaks(n.size()), now(n.size());
                for (const char* role : fed) {
                    const Rows w = read(*before, layer(role)), x = read(*after, layer(role));
                    const Rows a = by_column(w, n.size(), add_peak);
                    const Rows b = by_column(x, n.size(), add_peak);
                    for (std::size_t j = 0; j < n.size(); ++j) {
                        peaks[j] = std::max(peaks[j], a[j]), now[j] = std::max(now[j], b[j]);
                        // The product is the model's: each weight is right to its last place.
                        CHECK(x[j] * m[j] == doctest::Approx(w[j] * n[j]).epsilon(1e-15));
                    }
                }
                const auto& mean = means.at(layer(fed[0])).sums;
                for (std::size_t j = 0; j < n.size(); ++j) {
                    const double size = std::sqrt(static_cast<double>(mean[j]));
                    const double want = std::pow(size, alpha) / std::pow(peaks[j], 1 - alpha);
                    CHECK(n[j] / m[j] == doctest::Approx(want).epsilon(1e-6));
                    if (alpha == 0) CHECK(now[j] == doctest::Approx(1).epsilon(1e-6));
                    if (alpha == 1) CHECK(size * m[j] / n[j] == doctest::Approx(1).epsilon(1e-6));
                }
            }
            for (const char* other : {"attn_output.weight", "ffn_down.weight"})
                CHECK(read(*after, layer(other)) == read(*before, layer(other)));
        }
    }
}

TEST_CASE("folding: f32 weights are the folded doubles narrowed once") {
    const Setting s("gemma3");
    QuantizeOptions o = options_of("f64", "all");
    const auto wide = ModelSource::open(s.quantize("wide.gguf", o));
    o.format = "f32";
    const auto narrow = ModelSource::open(s.quantize("narrow.gguf", o));
    for (const SourceTensor& tensor : wide->tensors()) {
        const Rows a = read(*wide, tensor.name), b = read(*narrow, tensor.name);
        for (std::size_t i = 0; i < a.size(); ++i)
            REQUIRE(b[i] == static_cast<double>(static_cast<float>(a[i])));
    }
    // Scaled: with what the norm rounded to, every weight is within half a last place of exact.
    const Setting t("llama-tied");
    const QuantizeOptions smooth = options_of("f32", "", 0.4, t.imatrix);
    const auto before = ModelSource::open(t.model);
    const auto after = ModelSource::open(t.quantize("smooth.gguf", smooth));
    const Rows n = read(*before, layer("attn_norm.weight")),
               m = read(*after, layer("attn_norm.weight"));
    const Rows w = read(*before, layer("attn_k.weight")), x = read(*after, layer("attn_k.weight"));
    for (std::size_t i = 0; i < w.size(); ++i) {
        const double exact = w[i] * n[i % n.size()];
        REQUIRE(std::abs(x[i] * m[i % n.size()] - exact) <= (0x1p-24 + 0x1p-50) * std::abs(exact));
    }
}

namespace {

// llama3-rope with a middle axis of 512 channels, eight of which are fifty times as large in down.
ModelCopy with_outliers() {
    constexpr std::size_t kFfn = 512, kHidden = 64;
    ModelCopy copy = ModelCopy::as_gguf(golden_model("llama3-rope").directory, "f32");
    copy.metadata.set("llama.feed_forward_length", static_cast<std::uint32_t>(kFfn));
    for (std::size_t t = 0; t < copy.specs.size(); ++t) {
        TensorSpec& spec = copy.specs[t];
        const bool down = spec.name.find("ffn_down") != std::string::npos;
        if (!down && spec.name.find("ffn_gate") == std::string::npos &&
            spec.name.find("ffn_up") == std::string::npos)
            continue;
        spec.dims = down ? std::vector<std::uint64_t>{kHidden, kFfn}
                         : std::vector<std::uint64_t>{kFfn, kHidden};
        std::vector<float> values(kFfn * kHidden);
        for (std::size_t i = 0; i < values.size(); ++i) {
            values[i] = unit_float(philox(80 + t, i).v[0]) - 0.5f;
            if (down && i % kFfn % 64 == 11) values[i] *= 50;
        }
        const auto bytes = std::as_bytes(std::span(values));
        copy.data[t].assign(bytes.begin(), bytes.end());
    }
    return copy;
}

// Error of each channel of down relative to its size, squared, all added.
double channel_errors(const Rows& want, const Rows& got, std::size_t cols) {
    Rows error(cols), size(cols);
    for (std::size_t i = 0; i < want.size(); ++i) {
        error[i % cols] += (want[i] - got[i]) * (want[i] - got[i]);
        size[i % cols] += want[i] * want[i];
    }
    double sum = 0;
    for (std::size_t c = 0; c < cols; ++c) sum += error[c] / size[c];
    return sum;
}

}  // namespace

TEST_CASE("folding: with outlier channels side by side, the others survive blocks of 4 bits") {
    const Setting s(with_outliers());
    const std::vector<std::int32_t> tokens = {5, 9, 44, 3, 17};
    const std::string plain = s.quantize("f64.gguf", options_of("f64", "ffn"));
    CHECK(difference(logits(s.model, tokens), logits(plain, tokens)) < 1e-12);
    const auto straight = ModelSource::open(s.model), sorted = ModelSource::open(plain);
    for (const std::string format : {"q4_0", "mxfp4"}) {
        CAPTURE(format);
        QuantizeOptions o = options_of(format);
        o.pure = true;
        const auto before = ModelSource::open(s.quantize("before.gguf", o));
        o.rearrange = "ffn";
        const auto after = ModelSource::open(s.quantize("after.gguf", o));
        const std::string down = layer("ffn_down.weight");
        const double was = channel_errors(read(*straight, down), read(*before, down), 512);
        const double now = channel_errors(read(*sorted, down), read(*after, down), 512);
        CAPTURE(was);
        CAPTURE(now);
        CHECK(was > 180);  // those beside an outlier are gone
        CHECK(now * 5 < was);
        const auto exact = logits(s.model, tokens);
        CHECK(difference(exact, logits(s.file("after.gguf"), tokens)) <
              difference(exact, logits(s.file("before.gguf"), tokens)));
    }
}

TEST_CASE("folding: importance goes where its column goes, and shrinks as its column grows") {
    const Setting s("llama3-rope");
    // What an encoder of the rewritten matrix makes with importance in the new order.
    QuantizeOptions o = all_rewrites(s, "f64");
    const auto wide = ModelSource::open(s.quantize("wide.gguf", o));
    o.format = "q5_0", o.pure = true;
    const auto packed = ModelSource::open(s.quantize("packed.gguf", o));
    const auto before = ModelSource::open(s.model);
    const auto means = read_importance(s.imatrix).entries;
    const auto plain = ModelSource::open(s.quantize(
        "order.gguf", options_of("f64", "all", QuantizeOptions::kNoSmoothing, s.imatrix)));
    for (const char* role : {"ffn_down.weight", "attn_k.weight"}) {
        CAPTURE(role);
        const SourceTensor& tensor = *wide->find(layer(role));
        const auto cols = static_cast<std::size_t>(tensor.cols());
        const Rows was = read(*before, layer(role));
        const std::vector<std::size_t> order = columns_before(was, read(*plain, layer(role)), cols);
        REQUIRE(order.size() == cols);
        const Rows now = read(*wide, layer(role));
        std::vector<float> importance;
        for (std::size_t c = 0; c < cols; ++c) {
            const double scale = now[c] / was[order[c]];
            importance.push_back(static_cast<float>(
                static_cast<double>(means.at(layer(role)).sums[order[c]]) / (scale * scale)));
        }
        const std::vector<float> rows(now.begin(), now.end());
        struct Sink final : PlaneSink {
            std::vector<std::byte> bytes;
            void append(int, std::span<const std::byte> more) override {
                bytes.insert(bytes.end(), more.begin(), more.end());
            }
        } sink;
        const WeightFormat& format = weight_formats().get("q5_0", "test");
        const Shape2 shape{tensor.rows(), tensor.cols()};
        format.encoder(shape, {importance})->encode(0, rows, sink);
        Rows wanted(now.size());
        format.decode(block_form(LayoutId::k_q5_0, shape).view(shape, sink.bytes.data()),
                      {0, shape.rows},
                      {wanted.data(), DType::kF64, shape.rows, shape.cols, shape.cols});
        const Rows got = read(*packed, layer(role));
        std::size_t same = 0;
        for (std::size_t i = 0; i < got.size(); ++i)
            same += std::abs(got[i] - wanted[i]) <= 1e-6 * std::abs(wanted[i]) ? 1 : 0;
        CHECK(same >= got.size() * 99 / 100);  // the norm's rounding moves a tie now and then
    }
}

TEST_CASE("folding: threads and chunks never show") {
    const Setting s("gemma3");
    for (const std::string format : {"q4_0", "f64", "nf4"}) {
        CAPTURE(format);
        const QuantizeOptions o = all_rewrites(s, format);
        const std::string one = slurp(s.quantize("one.gguf", o, 1));
        CHECK(slurp(s.quantize("three.gguf", o, 3)) == one);
        CHECK(slurp(s.quantize("rows.gguf", o, 2, 1)) == one);  // a row at a time
    }
}

TEST_CASE("folding: columns that are alike but for the order of their rows are no lottery") {
    // Sums of the same squares in other orders: which is larger is a matter of rounding, and that
    // of the order of rows alone.
    ModelCopy copy = with_outliers();
    const std::size_t down = copy.index("blk.1.ffn_down.weight");
    std::vector<float> values(512 * 64);
    for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = std::exp(8 * unit_float(philox(90, (i / 512 + i % 512) % 64).v[0]) - 4);
    const auto bytes = std::as_bytes(std::span(values));
    copy.data[down].assign(bytes.begin(), bytes.end());
    const Setting s(copy);
    const QuantizeOptions o = options_of("f32", "ffn");
    const std::string one = slurp(s.quantize("one.gguf", o, 1));
    CHECK(one == slurp(s.quantize("rows.gguf", o, 2, 1)));
    CHECK(one == slurp(s.quantize("three.gguf", o, 3, 1)));
    std::vector<double> sums(512);
    for (std::size_t i = 0; i < values.size(); ++i)
        sums[i % 512] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
    CHECK(std::count(sums.begin(), sums.end(), sums[0]) < 512);  // or nothing was tested
}

TEST_CASE("folding: stopped while channels are compared or stored, and run again, the same bytes") {
    const Setting s("llama3-rope");
    QuantizeOptions o = all_rewrites(s, "q5_0");
    const std::string want = slurp(s.quantize("whole.gguf", o));
    o.model = s.model, o.output = s.file("out.gguf");
    o.resume = true, o.overwrite = true, o.checkpoint_every = "1";
    int stops = 0;
    for (const int after : {2, 5, 20}) {
        CAPTURE(after);
        for (const bool stopping : {true, false}) {
            QuantizeJob job(o, "test");
            (void)job.plan(2, 0, {});
            Team team(2);
            int calls = 0;
            QuantizeEvents events;
            events.progress = [&](std::uint64_t done, std::uint64_t total) {
                CHECK(done <= total);
                return !stopping || calls++ < after;
            };
            try {
                const bool whole = job.run(team, Isa::kPortable, events);
                CHECK(whole);
            } catch (const Error& e) {
                CHECK(e.exit() == Exit::kAgain);
                ++stops;
                continue;
            }
            if (!stopping && after == 20) CHECK(job.resumed_bytes() > 0);
        }
        CHECK(slurp(o.output) == want);
    }
    CHECK(stops == 3);
}
