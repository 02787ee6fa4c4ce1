// SPDX-License-Identifier: Apache-2.0
// One evaluation as it is written to disk and read back for reports: what was evaluated, how, and
// the figures. No host paths and no dates; files are named by basename and SHA-256. Several tasks
// share a record; the figures of the first text also stand under the record's own keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "eval/metrics.h"
#include "io/json.h"

namespace thimble::eval {

inline constexpr std::string_view kRecordSchema = "thimble.evaluation.v1";

struct AdapterFacts {
    std::string file, sha256;
    double scale = 1;
};

struct ModelFacts {
    std::string name;  // the model's own name
    std::string file;  // basename
    std::string sha256;
    std::string architecture;
    std::string format;  // the tensor type that holds most matrix bytes
    std::uint64_t file_bytes = 0;
    std::uint64_t parameters = 0;
    double bits_per_weight = 0;          // all tensors' bytes over all their elements
    std::vector<AdapterFacts> adapters;  // that it was evaluated with
};
// "model.gguf + 0.5 adapter": what reports call it.
[[nodiscard]] std::string title(const ModelFacts& model);

struct TextFacts {
    std::string file, sha256;
    std::uint64_t bytes = 0;
    std::int64_t tokens = 0;
};

struct Settings {
    std::int64_t context_tokens = 0, windows = 0, step_tokens = 0;
    std::string cache_type_k, cache_type_v, kv_policy;
    std::string activations, device, isa, cpu;
    std::int64_t threads = 0;
    std::int64_t prompt_repeat = 1;
};

// Medians over `repeats` runs after one warm-up, as llama-bench measures: a prompt fed in one go,
// and single tokens, each on a cache that holds `depth_tokens`.
struct Speed {
    std::int64_t prompt_tokens = 0, decode_tokens = 0, depth_tokens = 0, repeats = 0;
    double prefill_tokens_per_second = 0, decode_tokens_per_second = 0;
    std::uint64_t bytes_per_token =
        0;  // moved per decoded token at depth_tokens + half of decode_tokens
    // What memory gives these threads, of a machine profile; 0: not known.
    double limit_bytes_per_second = 0;

    [[nodiscard]] double bytes_per_second() const noexcept {  // of decoding
        return static_cast<double>(bytes_per_token) * decode_tokens_per_second;
    }
};

// How the model's file was made, where a report of quantize tells.
struct Encoding {
    double seconds = 0;
    double relative_rmse = 0;  // of all matrices together; NaN where it was not measured
};

struct Peak {
    std::uint64_t predicted_bytes = 0, measured_bytes = 0;
};

struct MetricInfo {
    std::string name;  // "acc_norm"
    bool higher_is_better = false;
};
struct Metric {
    MetricInfo info;
    Estimate value;
};
// One number per sample, in the order of the samples.
struct Column {
    std::string name;  // "acc_norm"
    std::vector<double> values;
};

struct TaskResult {
    std::string name;     // unique in the record, made of letters, digits, dots and '_'
    std::string kind;     // "hellaswag"
    std::string options;  // "score=all,buckets=8": what differs from the defaults, without files
    std::string filter = "none";  // what was done with the model's answers
    std::string file, sha256;     // the samples' file
    std::int64_t samples = 0, shots = 0;
    double seconds = 0;
    std::vector<Metric> metrics;
    std::vector<Column> columns;
    bool generates = false;  // the model's own text is scored; not written
    // Texts only; not written as part of the task.
    std::optional<TextFacts> text;
    std::optional<PerplexityFigures> perplexity;
    std::optional<DivergenceFigures> divergence;
};

struct Record {
    ModelFacts model;
    std::optional<ModelFacts> reference;
    std::optional<TextFacts> text;
    Settings settings;
    std::optional<PerplexityFigures> perplexity;
    std::optional<DivergenceFigures> divergence;
    std::optional<Speed> speed;
    double seconds = 0;  // scoring
    std::vector<TaskResult> tasks;
    std::vector<Metric> averages;  // means over the texts, each counting the same; if several
    Peak peak;
    std::optional<Encoding> encoding;
};

[[nodiscard]] Json to_json(const Record& record);
// Throws Error(kBadData) naming `where` and the key.
[[nodiscard]] Record record_from_json(const Json& json, std::string_view where);

}  // namespace thimble::eval
