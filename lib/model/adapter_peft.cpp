// SPDX-License-Identifier: Apache-2.0
// A PEFT directory: adapter_config.json says what the terms mean, adapter_model.safetensors holds
// them as "base_model.model.<module>.lora_A.weight", ".lora_B.weight" and with DoRA
// ".lora_magnitude_vector", rows as Hugging Face orders them.
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <unordered_map>

#include "io/atomic_directory.h"
#include "io/safetensors_writer.h"
#include "model/adapter_parts.h"
#include "model/hf_export.h"

namespace thimble {
namespace {

constexpr std::string_view kConfigName = "adapter_config.json";
constexpr std::string_view kWeightsName = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kWeight = ".weight";
constexpr JsonLimits kLimits = {std::size_t{16} << 20, 16, std::size_t{1} << 18};

// "model.layers.3.self_attn.q_proj"; empty: has no name there.
std::string module_of(const SourceTensor& tensor) {
    if (!tensor.is_matrix || !tensor.rule->hf.ends_with(kWeight)) return {};
    const std::string name = tensor_name(tensor.rule->hf, tensor.layer);
    return name.substr(0, name.size() - kWeight.size());
}

bool exists(const std::string& path) {
    struct stat info {};
    return ::stat(path.c_str(), &info) == 0;
}

// adapter_config.json, as far as it changes what the terms mean.
class PeftConfig {
  public:
    PeftConfig(const Json& json, const std::string& path)
        : where_(escaped(path, 1024)), json_(json) {
        if (!json_.is_object()) throw error("expected an object");
        check_kind();
        const Json* rank = find("r");
        if (rank == nullptr || !rank->is_int() || rank->as_int(where_) < 1)
            throw error("key 'r' must be a positive integer");
        rank_ = rank->as_int(where_);
        alpha_ = number("lora_alpha", find("lora_alpha"));
        read_patterns("rank_pattern", ranks_);
        read_patterns("alpha_pattern", alphas_);
        settings_.rslora = flag("use_rslora");
        settings_.dora = flag("use_dora");
        if (const Json* dropout = find("lora_dropout"))
            settings_.dropout = number("lora_dropout", dropout);
        if (const Json* base = find("base_model_name_or_path"))
            settings_.base_model = base->as_string(where_ + ": key 'base_model_name_or_path'");
    }

    [[nodiscard]] const AdapterSettings& settings() const { return settings_; }
    [[nodiscard]] double alpha_of(const std::string& module, std::int64_t rank) const {
        const double wanted = matched(ranks_, module, static_cast<double>(rank_));
        if (wanted != static_cast<double>(rank)) {
            throw error("the terms of '" + module + "' have rank " + std::to_string(rank) +
                        ", the config says " + std::to_string(static_cast<std::int64_t>(wanted)));
        }
        return matched(alphas_, module, alpha_);
    }

  private:
    using Patterns = std::vector<std::pair<std::string, double>>;

    [[nodiscard]] Error error(const std::string& what, const std::string& hint = {}) const {
        return {Exit::kBadData, where_, what, hint};
    }
    [[nodiscard]] const Json* find(std::string_view key) const {
        const Json* value = json_.find(key);
        return value == nullptr || value->is_null() ? nullptr : value;
    }
    [[nodiscard]] bool flag(std::string_view key) const {
        const Json* value = find(key);
        return value != nullptr && value->as_bool(where_ + ": key '" + std::string(key) + "'");
    }
    [[nodiscard]] double number(const std::string& key, const Json* value) const {
        if (value == nullptr || !value->is_number() || !std::isfinite(value->as_double(where_)))
            throw error("key '" + escaped(key) + "' must be a number");
        return value->as_double(where_);
    }

    // Whatever else could change the model is refused, not passed over.
    void check_kind() const {
        const Json* type = find("peft_type");
        if (type == nullptr || !type->is_string() || type->as_string(where_) != "LORA")
            throw error("key 'peft_type' is not 'LORA'",
                        "other kinds of adapter are not supported");
        static constexpr std::array kOff = {
            "fan_in_fan_out",    "modules_to_save", "lora_bias",         "trainable_token_indices",
            "layer_replication", "use_qalora",      "use_bdlora",        "alora_invocation_tokens",
            "arrow_config",      "kasa_config",     "target_parameters", "monteclora_config"};
        for (const char* key : kOff) {
            const Json* value = find(key);
            const bool off = value == nullptr || (value->is_bool() && !value->as_bool(where_)) ||
                             (value->is_array() && value->as_array(where_).empty()) ||
                             (value->is_object() && value->as_members(where_).empty());
            if (!off) throw error("key '" + std::string(key) + "' is set, which is not supported");
        }
        const Json* bias = find("bias");
        if (bias != nullptr && (!bias->is_string() || bias->as_string(where_) != "none"))
            throw error("key 'bias' is not 'none'", "trained biases are not supported");
        // How A and B began; some ways change the base's own weights, too.
        const Json* initial = find("init_lora_weights");
        if (initial == nullptr || initial->is_bool()) return;
        const std::string& how = initial->as_string(where_ + ": key 'init_lora_weights'");
        if (how == "gaussian" || how == "eva" || how == "orthogonal") return;
        throw error("key 'init_lora_weights' is '" + escaped(how) +
                        "', which may change the base's own weights",
                    "convert it to a plain LoRA with PEFT first");
    }

    void read_patterns(const std::string& key, Patterns& patterns) const {
        const Json* value = find(key);
        if (value == nullptr) return;
        for (const auto& [pattern, what] : value->as_members(where_ + ": key '" + key + "'")) {
            // Regular expressions in PEFT; names are all that it writes itself.
            if (pattern.find_first_of("*+?|()[]{}^$\\") != std::string::npos) {
                throw error("key '" + key + "': '" + escaped(pattern) + "' is a pattern",
                            "only names of modules are supported");
            }
            patterns.emplace_back(pattern, number(key, &what));
        }
    }

    static double matched(const Patterns& patterns, const std::string& module, double otherwise) {
        for (const auto& [name, value] : patterns) {
            if (module == name || module.ends_with("." + name)) return value;
        }
        return otherwise;
    }

    std::string where_;
    const Json& json_;
    std::int64_t rank_ = 0;
    double alpha_ = 0;
    Patterns ranks_, alphas_;
    AdapterSettings settings_;
};

struct Key {
    std::string module;
    AdapterTable::Role role = AdapterTable::Role::kA;
};

// "base_model.model.lm_head.lora_A.weight"; older files have the adapter's name in it.
std::optional<Key> parse_key(std::string_view name) {
    using Role = AdapterTable::Role;
    static constexpr std::array kRoles = {
        std::pair{std::string_view(".lora_A"), Role::kA},
        std::pair{std::string_view(".lora_B"), Role::kB},
        std::pair{std::string_view(".lora_magnitude_vector"), Role::kLengths}};
    if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    for (const auto& [text, role] : kRoles) {
        const std::size_t at = name.find(text);
        if (at == std::string_view::npos) continue;
        std::string_view rest = name.substr(at + text.size());
        if (rest.starts_with(".default")) rest.remove_prefix(8);
        if (rest == kWeight || (rest.empty() && role == Role::kLengths))
            return Key{std::string(name.substr(0, at)), role};
    }
    return std::nullopt;
}

Json plain_number(double value) {
    const auto whole = static_cast<std::int64_t>(value);
    return static_cast<double>(whole) == value ? Json(whole) : Json(value);
}

// Modules by their last name where all layers' have terms, else by their whole name.
Json target_modules(const ModelSource& source, const Adapter& adapter) {
    const auto last = [](const std::string& module) {
        return module.substr(module.rfind('.') + 1);
    };
    std::set<std::string> adapted, partly, names;
    for (const AdapterMatrix& m : adapter.matrices) adapted.insert(module_of(*m.tensor));
    for (const SourceTensor& tensor : source.tensors()) {
        const std::string module = module_of(tensor);
        if (!module.empty() && !adapted.contains(module)) partly.insert(last(module));
    }
    for (const std::string& module : adapted)
        names.insert(partly.contains(last(module)) ? module : last(module));
    return JsonArray(names.begin(), names.end());
}

std::string config_text(const ModelSource& source, const Adapter& adapter) {
    const AdapterSettings& s = adapter.settings;
    const AdapterMatrix& first = adapter.matrices.front();
    Json config = Json::object(), ranks = Json::object(), alphas = Json::object();
    for (const AdapterMatrix& m : adapter.matrices) {
        if (m.rank != first.rank) ranks.set(module_of(*m.tensor), m.rank);
        if (m.alpha != first.alpha) alphas.set(module_of(*m.tensor), plain_number(m.alpha));
    }
    config.set("alpha_pattern", alphas);
    config.set("base_model_name_or_path", s.base_model.empty() ? Json() : Json(s.base_model));
    config.set("bias", "none");
    config.set("fan_in_fan_out", false);
    config.set("inference_mode", true);
    config.set("init_lora_weights", true);
    config.set("lora_alpha", plain_number(first.alpha));
    config.set("lora_dropout", s.dropout);
    config.set("modules_to_save", nullptr);
    config.set("peft_type", "LORA");
    config.set("r", first.rank);
    config.set("rank_pattern", ranks);
    config.set("target_modules", target_modules(source, adapter));
    config.set("task_type", "CAUSAL_LM");
    config.set("use_dora", s.dora);
    config.set("use_rslora", s.rslora);
    return config.dump(2) + "\n";
}

}  // namespace

AdapterParts open_peft(const std::string& directory, const ModelSource& source) {
    const std::string weights = directory + "/" + std::string(kWeightsName);
    const std::string config = directory + "/" + std::string(kConfigName);
    if (!exists(weights) && exists(directory + "/adapter_model.bin")) {
        throw Error(Exit::kNoInput, escaped(directory, 1024),
                    "adapter_model.bin is a pickle, which is never opened",
                    "save the adapter as safetensors");
    }
    AdapterParts parts =
        parse_peft(ModelFile::open(weights), read_json_file(config, kLimits), config, source);
    parts.beside.push_back(config);
    return parts;
}

AdapterParts parse_peft(std::unique_ptr<ModelFile> file, const Json& json,
                        const std::string& config_path, const ModelSource& source) {
    const PeftConfig config(json, config_path);
    AdapterParts parts;
    parts.path = file->path();
    parts.file = std::move(file);
    parts.adapter.settings = config.settings();
    parts.hf_rows = true;
    parts.head_dim = source.config().head_dim;

    std::unordered_map<std::string, const SourceTensor*> modules;
    for (const SourceTensor& tensor : source.tensors()) {
        if (std::string module = module_of(tensor); !module.empty())
            modules.emplace(std::move(module), &tensor);
    }
    AdapterTable table;
    for (const TensorEntry& entry : parts.file->tensors()) {
        const std::string what = "tensor '" + escaped(entry.name, 256) + "'";
        const auto key = parse_key(entry.name);
        if (!key) {
            const bool embedding = entry.name.find("lora_embedding_") != std::string::npos;
            throw parts.error(what + (embedding ? ": adapters of the embedding are not supported"
                                                : " is no low-rank term"),
                              embedding ? "" : "whole weights in an adapter are not supported");
        }
        const auto at = modules.find(key->module);
        table.add(parts, source, key->module + std::string(kWeight),
                  at == modules.end() ? nullptr : at->second, key->role, entry);
    }
    table.finish(source, parts, [&](const SourceTensor& tensor, std::int64_t rank) {
        return config.alpha_of(module_of(tensor), rank);
    });
    return parts;
}

void write_peft(const std::string& directory, const ModelSource& source, const Adapter& adapter,
                const AdapterOutput& output) {
    if (adapter.matrices.empty())
        throw Error(Exit::kFailure, escaped(directory, 1024), "the adapter has no terms");
    AtomicDirectory target(directory, output.if_exists);
    std::vector<TensorSpec> specs;
    std::vector<FloatMatrix> values;
    const auto add = [&](const AdapterMatrix& m, const char* what, FloatMatrix matrix) {
        std::vector<std::uint64_t> dims = {static_cast<std::uint64_t>(matrix.shape.rows),
                                           static_cast<std::uint64_t>(matrix.shape.cols)};
        if (matrix.values == m.lengths) dims.pop_back();
        specs.push_back({std::string(kPrefix) + module_of(*m.tensor) + what, output.type, dims});
        values.push_back(std::move(matrix));
    };
    for (const AdapterMatrix& m : adapter.matrices) {
        const auto rows = canonical_rows(*m.tensor, source.config().head_dim);
        add(m, ".lora_A.weight", {m.a, {m.rank, m.in()}});
        add(m, ".lora_B.weight", {m.b, {m.out(), m.rank}, rows});
        if (adapter.settings.dora)
            add(m, ".lora_magnitude_vector", {m.lengths, {m.out(), 1}, rows});
    }
    SafetensorsOptions options;
    options.if_exists = IfExists::kReplace;
    if (!output.steps.empty()) options.metadata.emplace_back("thimble.steps", output.steps);
    SafetensorsWriter writer(target.partial() + "/" + std::string(kWeightsName), std::move(specs),
                             options);
    for (std::size_t i = 0; i < values.size(); ++i) write_floats(writer, i, values[i], output.type);
    writer.finish();
    write_text_file(target.partial() + "/" + std::string(kConfigName), config_text(source, adapter),
                    IfExists::kReplace);
    target.commit();
}

}  // namespace thimble
