// SPDX-License-Identifier: Apache-2.0
#include "cost.h"

#include <array>
#include <charconv>
#include <cstdio>

#include "cli/settings.h"
#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "cost/machine_time.h"
#include "cost/served_model.h"
#include "eval/facts.h"
#include "eval/report.h"
#include "io/atomic_file.h"

namespace thimble::evaluate {
namespace {

constexpr std::string_view kThis = "this";

std::string number(double value, const char* format) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}
std::string gigabytes(double bytes) { return number(bytes / 1e9, "%.3f GB"); }

std::vector<std::int64_t> contexts_of(const CostOptions& options) {
    std::vector<std::int64_t> out;
    for (const std::string& text : options.contexts) {
        std::int64_t value = 0;
        const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool whole = read.ec == std::errc{} && read.ptr == text.data() + text.size();
        if (!whole || value < 1 || value > (1 << 30))
            throw Error(Exit::kUsage, "--context",
                        "'" + escaped(text) + "' is no number of tokens");
        out.push_back(value);
    }
    if (out.empty()) out.push_back(options.kv.context_tokens);
    return out;
}

// The keys of a hardware file.
struct HardwareFile {
    std::string name, memory, bandwidth, link;
    double peak_flops = 0;
    void visit(OptionVisitor& v) {
        v.option({.name = "name"}, name);
        v.option({.name = "peak-flops", .least = 1}, peak_flops);
        v.option({.name = "memory-bandwidth"}, bandwidth);
        v.option({.name = "memory"}, memory);
        v.option({.name = "host-link"}, link);
    }
};

cost::Hardware read_hardware(const std::string& path) {
    HardwareFile file;
    cli::Sources sources;
    cli::apply_config(
        cli::read_yaml_file(path), path, [&](OptionVisitor& v) { file.visit(v); }, sources);
    for (const char* key : {"peak-flops", "memory-bandwidth", "memory", "host-link"}) {
        if (sources.contains(key)) continue;
        throw Error(Exit::kUsage, escaped(path, 1024), std::string("key '") + key + "' is missing",
                    "peak-flops: 312e12, memory-bandwidth: 2039GB, memory: 80GB, host-link: 20GB");
    }
    const auto bytes = [&](const std::string& text, const char* key) {
        const auto value = static_cast<double>(parse_bytes(text, sources.at(key) + ": " + key));
        if (value > 0) return value;
        throw Error(Exit::kUsage, sources.at(key), std::string(key) + " must be above 0");
    };
    return {.name = file.name.empty() ? eval::basename_of(path) : file.name,
            .ops_per_second = file.peak_flops,
            .bytes_per_second = bytes(file.bandwidth, "memory-bandwidth"),
            .memory_bytes = bytes(file.memory, "memory"),
            .link_bytes_per_second = bytes(file.link, "host-link")};
}

struct Row {
    std::int64_t context = 0;
    double kv = 0, full_kv = 0, prefill = 0, decode = 0, change = 0;
    std::int64_t users = 0;
};

Json row_json(const Row& row, const cost::PrefillOps& ops) {
    Json out = Json::object();
    out.set("context_tokens", row.context);
    out.set("kv_bytes", row.kv);
    out.set("kv_bytes_full_f16", row.full_kv);
    out.set("prefill_seconds", row.prefill);
    out.set("prefill_weight_ops", ops.weights);
    out.set("prefill_attention_ops", ops.attention);
    out.set("prefill_square_attention_ops", ops.square_attention);
    out.set("decode_seconds_per_token", row.decode);
    out.set("concurrency", row.users);
    out.set("switch_seconds", row.change);
    return out;
}

std::vector<std::string> row_cells(const Row& row, std::int64_t users) {
    return {std::to_string(row.context),
            gigabytes(row.kv),
            number(row.full_kv / row.kv, "1/%.2f"),
            number(row.prefill, "%.4g s"),
            number(row.decode * 1e3, "%.4g ms"),
            number(1 / row.decode, "%.1f"),
            number(static_cast<double>(users) / row.decode, "%.1f"),
            std::to_string(row.users),
            number(row.change, "%.4g s")};
}

Json cost_json(const cost::TestTimeCost& cost, const cost::Hardware& hardware) {
    Json out = Json::object();
    out.set("ops", cost.ops);
    out.set("memory_bytes", cost.bytes);
    out.set("total_ops", cost.total(hardware.ops_per_byte()));
    return out;
}

class CostTable {
  public:
    CostTable(CostOptions& options, cli::Context& context) : options_(options), context_(context) {
        source_ = ModelSource::open(options.model);
        if (options.kv.context_tokens == 0)
            options.kv.context_tokens = source_->spec().context_tokens;
        model_ = cost::served_model(*source_, options.kv);
        KvOptions full = options.kv;
        full.policy = "full", full.type_k = full.type_v = "f16";
        full_ = cost::served_model(*source_, full);
        if (options.hardware == kThis) {
            profile_ = cost::find_profile(options.machine);
            machine_.emplace(cost::Machine{*profile_, context.team.threads()}, *source_);
            hardware_ = machine_->hardware();
        } else {
            if (!options.machine.empty())
                throw Error(Exit::kUsage, "--machine", "is for --cost-model this");
            hardware_ = read_hardware(options.hardware);
        }
    }

    void run() {
        std::vector<std::vector<std::string>> cells = {
            {"context", "KV cache", "of full f16", "prefill", "decode per token", "tok/s, each",
             "tok/s, all", "users", "switch"}};
        Json rows = Json::array();
        for (const std::int64_t tokens : contexts_of(options_)) {
            const Row row = row_of(tokens);
            cells.push_back(row_cells(row, options_.users));
            rows.push(row_json(row, cost::prefill_ops(model_, tokens)));
        }
        const auto closed = cost::test_time_cost(model_, options_.work, cost::Count::kClosed);
        const auto steps = cost::test_time_cost(model_, options_.work, cost::Count::kSteps);
        Json out = facts();
        out.set("contexts", std::move(rows));
        Json law = Json::object();
        law.set("prompt_tokens", options_.work.prompt);
        law.set("generated_tokens", options_.work.generated);
        law.set("samples", options_.work.samples);
        law.set("ops_per_byte", hardware_.ops_per_byte());
        law.set("closed_form", cost_json(closed, hardware_));
        law.set("step_by_step", cost_json(steps, hardware_));
        out.set("test_time", std::move(law));
        if (!options_.output.empty())
            write_text_file(options_.output, out.dump(2) + "\n", IfExists::kReplace);
        context_.report.set("cost", std::move(out));
        if (context_.stdout_is_json()) return;
        context_.print(title() + eval::text_table(cells) + "\n" + law_text(closed, steps));
        if (machine_ && !machine_->misses().empty())
            log_warning("the profile has no rate of " + machine_->misses() +
                        ": run --probe measures the common layouts");
    }

  private:
    Row row_of(std::int64_t tokens) const {
        Row row;
        row.context = tokens;
        row.kv = cost::kv_bytes(model_, tokens);
        row.full_kv = cost::kv_bytes(full_, tokens);
        row.users = cost::concurrency(model_, hardware_, tokens);
        row.change = cost::switch_seconds(model_, hardware_, tokens);
        row.prefill = machine_ ? machine_->prefill_seconds(model_, tokens)
                               : cost::prefill_seconds(model_, hardware_, tokens);
        row.decode = machine_ ? machine_->decode_seconds(model_, tokens, options_.users)
                              : cost::decode_seconds(model_, hardware_, tokens, options_.users);
        return row;
    }

    Json facts() const {
        Json hardware = Json::object();
        hardware.set("name", hardware_.name);
        hardware.set("peak_ops_per_second", hardware_.ops_per_second);
        hardware.set("memory_bytes_per_second", hardware_.bytes_per_second);
        hardware.set("memory_bytes", hardware_.memory_bytes);
        hardware.set("link_bytes_per_second", hardware_.link_bytes_per_second);
        Json out = Json::object();
        out.set("schema", "thimble.cost.v1");
        out.set("model", eval::basename_of(options_.model));
        out.set("format", eval::format_name(*source_));
        out.set("weight_bytes", model_.weight_bytes);
        out.set("decode_parameters", model_.decode_parameters);
        out.set("kv_policy", options_.kv.policy);
        out.set("cache_type_k", options_.kv.type_k);
        out.set("cache_type_v", options_.kv.type_v);
        out.set("users", options_.users);
        out.set("hardware", std::move(hardware));
        return out;
    }

    std::string title() const {
        return eval::basename_of(options_.model) + " (" + eval::format_name(*source_) + ", " +
               gigabytes(model_.weight_bytes) + ") on " + hardware_.name + ": " +
               number(hardware_.ops_per_second / 1e12, "%.4g Tflop/s, ") +
               number(hardware_.bytes_per_second / 1e9, "%.4g GB/s of memory, ") +
               gigabytes(hardware_.memory_bytes) +
               number(hardware_.link_bytes_per_second / 1e9, ", link %.4g GB/s") + "; cache " +
               options_.kv.type_k + "/" + options_.kv.type_v + " " + options_.kv.policy + ", " +
               std::to_string(options_.users) + " at once\n";
    }

    std::string law_text(const cost::TestTimeCost& closed, const cost::TestTimeCost& steps) const {
        const auto& work = options_.work;
        const auto part = [&](const cost::TestTimeCost& c) {
            return number(c.ops / 1e12, "%.6g Tflop") +
                   number(c.bytes / 1e9, " and %.6g GB of cache read, ") +
                   number(c.total(hardware_.ops_per_byte()) / 1e12, "%.6g eTflop");
        };
        return std::to_string(work.samples) + " x " + std::to_string(work.generated) +
               " tokens after a prompt of " + std::to_string(work.prompt) + ": " + part(closed) +
               " (closed form), " + part(steps) + " (step by step), at " +
               number(hardware_.ops_per_byte(), "%.4g flop per byte\n");
    }

    CostOptions& options_;
    cli::Context& context_;
    std::unique_ptr<ModelSource> source_;
    cost::ServedModel model_, full_;
    std::optional<cost::MachineProfile> profile_;
    std::optional<cost::MachineTime> machine_;  // with `this`
    cost::Hardware hardware_;
};

}  // namespace

void CostOptions::visit(OptionVisitor& v) {
    v.group("Cost model");
    v.option(
        {.name = "hardware",
         .help = "YAML file with peak-flops, memory-bandwidth, memory and host-link; this: the "
                 "machine's profile",
         .value = "FILE",
         .required = true,
         .is_input = true,
         .positional = true},
        hardware);
    v.option({.name = "model",
              .letter = 'm',
              .help = "model, of which headers are read: GGUF file or Hugging Face directory",
              .value = "FILE",
              .required = true,
              .is_input = true},
             model);
    v.option({.name = "context",
              .help = "tokens in the cache, one row each; --ctx-size if none is given",
              .value = "N"},
             contexts);
    v.option({.name = "users", .help = "that decode at once", .least = 1, .most = 1e9}, users);
    v.option({.name = "prompt-tokens",
              .help = "of the prompt before what is generated",
              .least = 0,
              .most = 1e9},
             work.prompt);
    v.option({.name = "generate-tokens", .help = "of each answer", .least = 0, .most = 1e9},
             work.generated);
    v.option({.name = "answers", .help = "to one prompt", .least = 1, .most = 1e9}, work.samples);
    v.option({.name = "search-block",
              .help = "keys that a policy's search has one mean for; 0: no search",
              .least = 0,
              .most = 1 << 20},
             work.block);
    v.option({.name = "machine",
              .help = "machine profile of --cost-model this, from run --probe",
              .value = "FILE",
              .changes_output = false},
             machine);
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the figures as JSON",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
    kv.visit(v);
}

void run_cost(CostOptions& options, cli::Context& context) { CostTable(options, context).run(); }

}  // namespace thimble::evaluate
