// SPDX-License-Identifier: Apache-2.0
#include "eval/lm_eval.h"

namespace thimble::eval {
namespace {

// Version of what a kind of task computes; raised when its figures change.
constexpr int kTaskVersion = 1;

// The harness calls a text's perplexity per token "perplexity".
std::string metric_name(const std::string& name) {
    if (name == "ppl") return "perplexity";
    return name;
}

Json task_figures(const TaskResult& task) {
    Json out = Json::object();
    out.set("alias", task.name);
    for (const Metric& metric : task.metrics) {
        const std::string name = metric_name(metric.info.name);
        out.set(name + "," + task.filter, metric.value.value);
        out.set(name + "_stderr," + task.filter, metric.value.standard_error);
    }
    return out;
}

Json task_config(const TaskResult& task) {
    Json metrics = Json::array();
    for (const Metric& metric : task.metrics) {
        Json one = Json::object();
        one.set("metric", metric_name(metric.info.name));
        one.set("aggregation", "mean");
        one.set("higher_is_better", metric.info.higher_is_better);
        metrics.push(std::move(one));
    }
    Json metadata = Json::object();
    metadata.set("version", kTaskVersion);
    Json out = Json::object();
    out.set("task", task.name);
    out.set("dataset_path", task.file);
    out.set("output_type", task.generates                           ? "generate_until"
                           : task.text || task.kind == "perplexity" ? "loglikelihood_rolling"
                                                                    : "multiple_choice");
    out.set("num_fewshot", task.shots);
    out.set("metric_list", std::move(metrics));
    out.set("options", task.options);
    out.set("metadata", std::move(metadata));
    return out;
}

Json run_config(const Record& record, const LmEvalFacts& facts) {
    Json out = Json::object();
    out.set("model", "thimble");
    std::string arguments = "pretrained=" + record.model.file;
    for (const AdapterFacts& adapter : record.model.adapters) arguments += ",peft=" + adapter.file;
    out.set("model_args", arguments);
    out.set("model_num_parameters", record.model.parameters);
    out.set("model_dtype", record.model.format);
    out.set("model_sha", record.model.sha256);
    out.set("batch_size", facts.batch);
    out.set("device", record.settings.device);
    out.set("limit", facts.limit > 0 ? Json(facts.limit) : Json());
    out.set("random_seed", facts.seed);
    return out;
}

Json own_facts(const Record& record) {
    Record bare = record;
    bare.tasks.clear();
    const Json all = to_json(bare);
    Json out = Json::object();
    for (const char* key : {"model", "adapters", "reference", "settings", "speed"})
        if (const Json* found = all.find(key)) out.set(key, *found);
    out.set("peak_memory_bytes", record.peak.measured_bytes);
    out.set("predicted_memory_bytes", record.peak.predicted_bytes);
    return out;
}

}  // namespace

Json lm_eval_json(const Record& record, const LmEvalFacts& facts) {
    Json results = Json::object(), subtasks = Json::object(), configs = Json::object();
    Json versions = Json::object(), shots = Json::object(), higher = Json::object();
    Json samples = Json::object(), hashes = Json::object();
    for (const TaskResult& task : record.tasks) {
        results.set(task.name, task_figures(task));
        subtasks.set(task.name, Json::array());
        configs.set(task.name, task_config(task));
        versions.set(task.name, kTaskVersion);
        shots.set(task.name, task.shots);
        Json directions = Json::object();
        for (const Metric& metric : task.metrics)
            directions.set(metric_name(metric.info.name), metric.info.higher_is_better);
        higher.set(task.name, std::move(directions));
        Json counts = Json::object();
        counts.set("original", task.samples);
        counts.set("effective", task.samples);
        samples.set(task.name, std::move(counts));
        hashes.set(task.name, task.sha256);
    }
    Json out = Json::object();
    out.set("results", std::move(results));
    out.set("group_subtasks", std::move(subtasks));
    out.set("configs", std::move(configs));
    out.set("versions", std::move(versions));
    out.set("n-shot", std::move(shots));
    out.set("higher_is_better", std::move(higher));
    out.set("n-samples", std::move(samples));
    out.set("config", run_config(record, facts));
    out.set("git_hash", Json());
    out.set("date", facts.date);
    out.set("task_hashes", std::move(hashes));
    out.set("model_source", "thimble " + facts.version);
    out.set("model_name", title(record.model));
    out.set("model_name_sanitized", title(record.model));
    out.set("system_instruction", Json());
    out.set("chat_template", Json());
    out.set("chat_template_sha", Json());
    out.set("total_evaluation_time_seconds", std::to_string(facts.wall_seconds));
    out.set("thimble", own_facts(record));
    return out;
}

}  // namespace thimble::eval
