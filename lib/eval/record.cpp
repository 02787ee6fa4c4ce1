// SPDX-License-Identifier: Apache-2.0
#include "eval/record.h"

#include <array>
#include <charconv>
#include <limits>
#include <type_traits>

#include "core/error.h"

namespace thimble::eval {
namespace {

constexpr const char* kDepth = "depth_tokens";
constexpr const char* kReadLimit = "read_limit_bytes_per_second";

// Each struct is listed once, as fields(io, struct); Writer and Reader walk that list.
class Writer {
  public:
    Json json = Json::object();
    template <class T>
    void operator()(const char* key, const T& value) {
        if constexpr (std::is_same_v<T, Estimate>) {
            Json pair = Json::object();
            pair.set("value", value.value);
            pair.set("standard_error", value.standard_error);
            json.set(key, std::move(pair));
        } else {
            json.set(key, Json(value));
        }
    }
};

class Reader {
  public:
    Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {
        if (!json.is_object()) throw Error(Exit::kBadData, where_, "expected an object");
    }
    void operator()(const char* key, std::string& value) { value = at(key).as_string(name(key)); }
    void operator()(const char* key, std::int64_t& value) { value = at(key).as_int(name(key)); }
    void operator()(const char* key, std::uint64_t& value) {
        const std::int64_t v = at(key).as_int(name(key));
        if (v < 0) throw Error(Exit::kBadData, name(key), "expected a size, not " + at(key).dump());
        value = static_cast<std::uint64_t>(v);
    }
    void operator()(const char* key, double& value) { value = number(at(key), name(key)); }
    void operator()(const char* key, Estimate& value) {
        Reader inner(at(key), name(key));
        inner("value", value.value);
        inner("standard_error", value.standard_error);
    }

    // Non-finite numbers are written as null.
    static double number(const Json& json, const std::string& name) {
        return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.as_double(name);
    }

  private:
    const Json& at(const char* key) const {
        if (const Json* found = json_.find(key)) return *found;
        throw Error(Exit::kBadData, where_, std::string("key '") + key + "' is missing");
    }
    std::string name(const char* key) const { return where_ + ": " + key; }
    const Json& json_;
    std::string where_;
};

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, ModelFacts> {
    io("name", v.name), io("file", v.file), io("sha256", v.sha256);
    io("architecture", v.architecture), io("format", v.format);
    io("file_bytes", v.file_bytes), io("parameters", v.parameters);
    io("bits_per_weight", v.bits_per_weight);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, AdapterFacts> {
    io("file", v.file), io("sha256", v.sha256), io("scale", v.scale);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, TextFacts> {
    io("file", v.file), io("sha256", v.sha256), io("bytes", v.bytes), io("tokens", v.tokens);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, Settings> {
    io("context_tokens", v.context_tokens), io("windows", v.windows);
    io("step_tokens", v.step_tokens);
    io("cache_type_k", v.cache_type_k), io("cache_type_v", v.cache_type_v);
    io("kv_policy", v.kv_policy), io("activations", v.activations);
    io("device", v.device), io("isa", v.isa), io("cpu", v.cpu), io("threads", v.threads);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, PerplexityFigures> {
    io("tokens", v.tokens), io("nll", v.nll), io("perplexity", v.perplexity);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, DivergenceFigures> {
    io("reference_perplexity", v.reference_perplexity);
    io("kld_mean", v.kld), io("kld_median", v.kld_median);
    io("kld_p99", v.kld_p99), io("kld_p999", v.kld_p999), io("kld_max", v.kld_max);
    io("same_top", v.same_top), io("mean_delta_p", v.mean_delta_p);
    io("rms_delta_p", v.rms_delta_p), io("perplexity_ratio", v.perplexity_ratio);
    io("perplexity_change", v.perplexity_change);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, Speed> {
    io("prompt_tokens", v.prompt_tokens), io("decode_tokens", v.decode_tokens);
    io("repeats", v.repeats), io("bytes_per_token", v.bytes_per_token);
    io("prefill_tokens_per_second", v.prefill_tokens_per_second);
    io("decode_tokens_per_second", v.decode_tokens_per_second);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, Encoding> {
    io("seconds", v.seconds), io("relative_rmse", v.relative_rmse);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, Peak> {
    io("predicted_bytes", v.predicted_bytes), io("measured_bytes", v.measured_bytes);
}

template <class T>
void write(Json& out, const char* key, const T& value) {
    Writer writer;
    fields(writer, value);
    out.set(key, std::move(writer.json));
}
template <class T>
void write(Json& out, const char* key, const std::optional<T>& value) {
    if (value) write(out, key, *value);
}

template <class T>
void read(const Json& in, const char* key, T& value, std::string_view where) {
    const Json* found = in.find(key);
    if (found == nullptr) {
        throw Error(Exit::kBadData, std::string(where),
                    std::string("key '") + key + "' is missing");
    }
    Reader reader(*found, std::string(where) + ": " + key);
    fields(reader, value);
}
template <class T>
void read(const Json& in, const char* key, std::optional<T>& value, std::string_view where) {
    if (in.find(key) != nullptr) read(in, key, value.emplace(), where);
}

template <class Io, class T>
void fields(Io& io, T& v) requires std::is_same_v<std::remove_const_t<T>, TaskResult> {
    io("name", v.name), io("kind", v.kind), io("options", v.options), io("filter", v.filter);
    io("file", v.file), io("sha256", v.sha256);
    io("samples", v.samples), io("shots", v.shots), io("seconds", v.seconds);
}

Json metrics_json(const std::vector<Metric>& metrics) {
    Json out = Json::object();
    for (const Metric& metric : metrics) {
        Json one = Json::object();
        one.set("value", metric.value.value);
        one.set("standard_error", metric.value.standard_error);
        one.set("higher_is_better", metric.info.higher_is_better);
        out.set(metric.info.name, std::move(one));
    }
    return out;
}

Json task_json(const TaskResult& task) {
    Writer writer;
    fields(writer, task);
    writer.json.set("metrics", metrics_json(task.metrics));
    Json columns = Json::object();
    for (const Column& column : task.columns) {
        Json values = Json::array();
        for (const double value : column.values) values.push(value);
        columns.set(column.name, std::move(values));
    }
    writer.json.set("per_sample", std::move(columns));
    return std::move(writer.json);
}

const Json& required(const Json& in, const char* key, const std::string& where) {
    if (const Json* found = in.find(key)) return *found;
    throw Error(Exit::kBadData, where, std::string("key '") + key + "' is missing");
}

std::vector<Metric> read_metrics(const Json& in, const std::string& where) {
    std::vector<Metric> out;
    for (const auto& [name, json] : in.as_members(where)) {
        const std::string place = where + ": " + escaped(name);
        Reader reader(json, place);
        Metric metric{{name, required(json, "higher_is_better", place).as_bool(place)}, {}};
        reader("value", metric.value.value);
        reader("standard_error", metric.value.standard_error);
        out.push_back(std::move(metric));
    }
    return out;
}

TaskResult read_task(const Json& in, const std::string& where) {
    TaskResult task;
    Reader reader(in, where);
    fields(reader, task);
    task.metrics = read_metrics(required(in, "metrics", where), where + ": metrics");
    const std::string place = where + ": per_sample";
    for (const auto& [name, json] : required(in, "per_sample", where).as_members(place)) {
        Column column{name, {}};
        for (const Json& value : json.as_array(place))
            column.values.push_back(Reader::number(value, place));
        task.columns.push_back(std::move(column));
    }
    return task;
}

Json adapters_json(const std::vector<AdapterFacts>& adapters) {
    Json out = Json::array();
    for (const AdapterFacts& adapter : adapters) {
        Writer writer;
        fields(writer, adapter);
        out.push(std::move(writer.json));
    }
    return out;
}

std::vector<AdapterFacts> read_adapters(const Json& in, const std::string& where) {
    std::vector<AdapterFacts> out;
    for (const Json& json : in.as_array(where)) {
        Reader reader(json, where);
        fields(reader, out.emplace_back());
    }
    return out;
}

}  // namespace

std::string title(const ModelFacts& model) {
    std::string out = model.file;
    for (const AdapterFacts& adapter : model.adapters) {
        out += " + ";
        std::array<char, 32> scale{};
        if (adapter.scale != 1) {
            const auto end =
                std::to_chars(scale.data(), scale.data() + scale.size(), adapter.scale);
            out += std::string(scale.data(), end.ptr) + " ";
        }
        out += adapter.file;
    }
    return out;
}

Json to_json(const Record& record) {
    Json out = Json::object();
    out.set("schema", kRecordSchema);
    write(out, "model", record.model);
    write(out, "reference", record.reference);
    if (!record.model.adapters.empty()) out.set("adapters", adapters_json(record.model.adapters));
    write(out, "text", record.text);
    write(out, "settings", record.settings);
    if (record.settings.prompt_repeat > 1) out.set("prompt_repeat", record.settings.prompt_repeat);
    write(out, "perplexity", record.perplexity);
    write(out, "divergence", record.divergence);
    write(out, "speed", record.speed);
    if (record.speed && record.speed->depth_tokens > 0) out.set(kDepth, record.speed->depth_tokens);
    if (record.speed && record.speed->limit_bytes_per_second > 0)
        out.set(kReadLimit, record.speed->limit_bytes_per_second);
    write(out, "peak_memory", record.peak);
    write(out, "encoding", record.encoding);
    out.set("seconds", record.seconds);
    Json tasks = Json::array();
    for (const TaskResult& task : record.tasks) tasks.push(task_json(task));
    if (!record.tasks.empty()) out.set("tasks", std::move(tasks));
    if (!record.averages.empty()) out.set("averages", metrics_json(record.averages));
    return out;
}

Record record_from_json(const Json& json, std::string_view where) {
    const Json* schema = json.find("schema");
    if (schema == nullptr || !schema->is_string() || schema->as_string(where) != kRecordSchema) {
        throw Error(Exit::kBadData, std::string(where), "is not an evaluation result",
                    "expected the JSON that evaluate -o writes, with schema '" +
                        std::string(kRecordSchema) + "'");
    }
    Record record;
    read(json, "model", record.model, where);
    read(json, "reference", record.reference, where);
    if (const Json* adapters = json.find("adapters"))
        record.model.adapters = read_adapters(*adapters, std::string(where) + ": adapters");
    read(json, "text", record.text, where);
    read(json, "settings", record.settings, where);
    if (const Json* repeat = json.find("prompt_repeat"))
        record.settings.prompt_repeat = repeat->as_int(std::string(where) + ": prompt_repeat");
    read(json, "perplexity", record.perplexity, where);
    read(json, "divergence", record.divergence, where);
    read(json, "speed", record.speed, where);
    if (const Json* depth = json.find(kDepth); depth != nullptr && record.speed)
        record.speed->depth_tokens = depth->as_int(std::string(where) + ": " + kDepth);
    const Json* limit = json.find(kReadLimit);
    if (limit != nullptr && record.speed)
        record.speed->limit_bytes_per_second =
            limit->as_double(std::string(where) + ": " + kReadLimit);
    read(json, "peak_memory", record.peak, where);
    read(json, "encoding", record.encoding, where);
    if (const Json* seconds = json.find("seconds")) record.seconds = seconds->as_double(where);
    if (const Json* tasks = json.find("tasks")) {
        for (const Json& task : tasks->as_array(where))
            record.tasks.push_back(read_task(task, std::string(where) + ": tasks"));
    }
    if (const Json* averages = json.find("averages"))
        record.averages = read_metrics(*averages, std::string(where) + ": averages");
    return record;
}

}  // namespace thimble::eval
