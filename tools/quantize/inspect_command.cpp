// SPDX-License-Identifier: Apache-2.0
#include "inspect_command.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>
#include <memory>

#include "common_options.h"
#include "core/cpu.h"
#include "core/error.h"
#include "core/strings.h"
#include "io/provenance.h"
#include "quant/model_compare.h"

namespace thimble {
namespace {

constexpr std::size_t kMaxText = 100;  // bytes of a value in the table

struct InspectOptions {
    std::string model, reference;
    std::int64_t values = 8;

    void visit(OptionVisitor& v) {
        v.option(any_model_option(), model);
        v.option({.name = "reference",
                  .help = "the same model with better weights: adds each tensor's error against it",
                  .value = "PATH",
                  .is_input = true},
                 reference);
        v.option({.name = "values",
                  .help = "elements shown of each array of the metadata",
                  .value = "N",
                  .least = 0},
                 values);
    }
};

std::string shape_text(const std::vector<std::uint64_t>& dims) {
    std::string text;
    for (const std::uint64_t extent : dims)
        text += (text.empty() ? "" : " x ") + std::to_string(extent);
    return text.empty() ? "1" : text;
}

std::string_view type_name(TensorType type) { return find_tensor_type(type)->name; }

template <class Element>
Json element_json(const Element& value, bool is_bool) {
    if constexpr (std::is_same_v<Element, std::string>) {
        return escaped(value, kMaxText);
    } else if constexpr (std::is_same_v<Element, float>) {  // 1e-05, not 9.999999747378752e-06
        std::array<char, 32> text{};
        const auto end = std::to_chars(text.data(), text.data() + text.size(), value).ptr;
        double shortest = 0;
        std::from_chars(text.data(), end, shortest);
        return shortest;
    } else if constexpr (std::is_same_v<Element, double> ||
                         std::is_same_v<Element, std::uint64_t>) {
        return value;
    } else {
        return is_bool ? Json(value != 0) : Json(static_cast<std::int64_t>(value));
    }
}

// The first `most` elements, and how many there are.
Json array_json(const MetaArray& array, std::int64_t most) {
    Json json = Json::object(), first = Json::array();
    std::visit(
        [&](const auto& elements) {
            const std::size_t shown = std::min(elements.size(), static_cast<std::size_t>(most));
            for (std::size_t i = 0; i < shown; ++i)
                first.push(element_json(elements[i], array.is_bool));
            json.set("count", static_cast<std::uint64_t>(elements.size()));
        },
        array.elements);
    json.set("first", std::move(first));
    return json;
}

Json value_json(const MetaValue& value, std::int64_t most) {
    return std::visit(
        [&](const auto& v) {
            using V = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<V, std::shared_ptr<const MetaArray>>) {
                return array_json(*v, most);
            } else if constexpr (std::is_same_v<V, std::string>) {
                return Json(v);
            } else {
                return element_json(v, std::is_same_v<V, bool>);
            }
        },
        value);
}

// GGUF's keys, or those of config.json; without the steps, which stand on their own.
Json metadata_json(const ModelFile& file, std::int64_t most) {
    Json json = Json::object();
    if (file.config().is_object()) return file.config();
    for (const auto& [key, value] : file.metadata().entries()) {
        if (key != kStepsKey) json.set(key, value_json(value, most));
    }
    return json;
}

Json steps_json(const ModelFile& file) {
    Json steps = Json::array();
    const MetaArray* array = file.metadata().find_array(kStepsKey);
    if (array == nullptr) return steps;
    if (const auto* lines = std::get_if<std::vector<std::string>>(&array->elements)) {
        for (const std::string& line : *lines)
            steps.push(parse_json(line, file.path() + ", key thimble.steps"));
    }
    return steps;
}

class Inspect {
  public:
    void visit(OptionVisitor& v) { options_.visit(v); }

    Plan plan(const cli::CommonOptions& common) {
        file_ = ModelFile::open(options_.model);
        if (!options_.reference.empty())
            compare_ = std::make_unique<ModelCompare>(options_.model, options_.reference);
        Plan plan;
        plan.at(Tier::kRam, Purpose::kVocabulary) =
            file_->metadata().memory_bytes() + (compare_ ? compare_->header_bytes() : 0);
        const int threads =
            common.threads > 0 ? static_cast<int>(common.threads) : default_threads();
        if (compare_) plan.at(Tier::kRam, Purpose::kIo) = compare_->buffer_bytes(threads);
        return plan;
    }

    void run(cli::Context& context) {
        Json& report = context.report;
        report.set("model", options_.model);
        report.set("container", file_->container() == Container::kGguf ? "gguf" : "hugging face");
        report.set("file_bytes", file_->file_bytes());
        report.set("files", static_cast<std::uint64_t>(file_->files().size()));
        report.set("metadata", metadata_json(*file_, options_.values));
        report.set("steps", steps_json(*file_));
        if (!add_tensors(context)) return;
        add_totals(report);
        if (!context.stdout_is_json()) context.print(text(report));
    }

  private:
    bool add_tensors(cli::Context& context) {
        Json tensors = Json::array();
        std::uint64_t done = 0;
        for (const TensorEntry& entry : file_->tensors()) {
            if (context.interrupted()) return false;
            Json tensor = Json::object(), shape = Json::array();
            for (const std::uint64_t extent : entry.dims) shape.push(extent);
            tensor.set("name", entry.name);
            tensor.set("type", type_name(entry.type));
            tensor.set("shape", std::move(shape));
            tensor.set("bytes", entry.bytes);
            tensor.set("bits_per_weight", bits_per_weight(entry.bytes, element_count(entry)));
            if (compare_) add_error(entry, tensor, context.team);
            tensors.push(std::move(tensor));
            done += entry.bytes;
            context.progress("inspect", static_cast<std::int64_t>(done >> 20),
                             static_cast<std::int64_t>(file_->file_bytes() >> 20));
        }
        context.report.set("tensors", std::move(tensors));
        return true;
    }

    void add_error(const TensorEntry& entry, Json& tensor, Team& team) {
        const ModelCompare::Result result = compare_->compare(entry.name, team);
        if (result.error) result.error->describe(tensor);
        if (!result.reason.empty()) tensor.set("not_compared", result.reason);
    }

    void add_totals(Json& report) const {
        struct Total {
            std::uint64_t tensors = 0, elements = 0, bytes = 0;
        };
        std::map<std::string_view, Total> by_type;
        Total all;
        for (const TensorEntry& entry : file_->tensors()) {
            for (Total* total : {&by_type[type_name(entry.type)], &all}) {
                ++total->tensors;
                total->elements += element_count(entry);
                total->bytes += entry.bytes;
            }
        }
        const auto json = [](const Total& total) {
            Json object = Json::object();
            object.set("tensors", total.tensors);
            object.set("weights", total.elements);
            object.set("bytes", total.bytes);
            object.set("bits_per_weight", bits_per_weight(total.bytes, total.elements));
            return object;
        };
        Json types = Json::object();
        for (const auto& [type, total] : by_type) types.set(std::string(type), json(total));
        report.set("types", std::move(types));
        report.set("total", json(all));
    }

    // The report as tables.
    [[nodiscard]] std::string text(const Json& report) const;
    [[nodiscard]] std::string tensor_table(const Json& tensors) const;

    InspectOptions options_;
    std::unique_ptr<ModelFile> file_;
    std::unique_ptr<ModelCompare> compare_;
};

std::string value_text(const Json& value) {
    if (value.is_string()) return escaped(value.as_string("metadata"), kMaxText);
    const Json *count = value.find("count"), *first = value.find("first");
    if (count == nullptr || first == nullptr) {
        std::string text = value.dump();
        if (text.size() > kMaxText) text = text.substr(0, kMaxText) + "...";
        return escaped(text, kMaxText + 3);
    }
    std::string text = first->dump();
    const bool all =
        count->as_int("count") == static_cast<std::int64_t>(first->as_array("first").size());
    if (!all) text.insert(text.size() - 1, first->as_array("first").empty() ? "..." : ", ...");
    return text + " (" + std::to_string(count->as_int("count")) + ")";
}

template <class... Values>
std::string line(const char* format, Values... values) {
    std::string out(512, '\0');
    const int n = std::snprintf(out.data(), out.size(), format, values...);
    out.resize(std::min(out.size() - 1, static_cast<std::size_t>(std::max(n, 0))));
    return out;
}

std::string Inspect::tensor_table(const Json& tensors) const {
    std::size_t width = 6;
    for (const TensorEntry& entry : file_->tensors())
        width = std::max(width, escaped(entry.name, 64).size());
    const int w = static_cast<int>(width);
    std::string text =
        line("%-*s  %-8s %20s %14s %7s", w, "tensor", "type", "shape", "bytes", "bits");
    if (compare_) text += line(" %10s %10s %10s %7s", "rel. RMSE", "max", "cosine", "SNR dB");
    text += "\n";
    auto json = tensors.as_array("tensors").begin();
    for (const TensorEntry& entry : file_->tensors()) {
        const Json& tensor = *json++;
        text += line("%-*s  %-8s %20s %14llu %7.3f", w, escaped(entry.name, 64).c_str(),
                     std::string(type_name(entry.type)).c_str(), shape_text(entry.dims).c_str(),
                     static_cast<unsigned long long>(entry.bytes),
                     bits_per_weight(entry.bytes, element_count(entry)));
        const auto number = [&](const char* key) { return tensor.find(key)->as_double(key); };
        if (const Json* reason = tensor.find("not_compared")) {
            text += " " + reason->as_string("reason");
        } else if (compare_) {
            text += line(" %10.6f %10.3g %10.7f", number("relative_rmse"), number("max_abs"),
                         number("cosine"));
            text += tensor.find("snr_db")->is_null() ? line(" %7s", "exact")
                                                     : line(" %7.2f", number("snr_db"));
        }
        text += "\n";
    }
    return text;
}

std::string Inspect::text(const Json& report) const {
    const Json& total = *report.find("total");
    const auto number = [](const Json& of, const char* key) {
        return static_cast<long long>(of.find(key)->as_int(key));
    };
    std::string text = "metadata\n";
    for (const auto& [key, value] : report.find("metadata")->as_members("metadata"))
        text += "  " + escaped(key) + ": " + value_text(value) + "\n";
    for (const Json& step : report.find("steps")->as_array("steps"))
        text += "  step: " + escaped(step.dump(), 2000) + "\n";
    text += "\n" + tensor_table(*report.find("tensors")) + "\n";
    text += line("%-8s %8s %16s %16s %7s %7s\n", "type", "tensors", "weights", "bytes", "bits",
                 "share");
    const auto row = [&](const char* name, const Json& sum) {
        text += line("%-8s %8lld %16lld %16lld %7.3f %6.1f%%\n", name, number(sum, "tensors"),
                     number(sum, "weights"), number(sum, "bytes"),
                     sum.find("bits_per_weight")->as_double("bits"),
                     100 * static_cast<double>(number(sum, "bytes")) /
                         static_cast<double>(std::max(number(total, "bytes"), 1LL)));
    };
    for (const auto& [type, sum] : report.find("types")->as_members("types"))
        row(type.c_str(), sum);
    row("all", total);
    return text + line("%s in %zu %s\n", format_bytes(file_->file_bytes()).c_str(),
                       file_->files().size(), file_->files().size() == 1 ? "file" : "files");
}

}  // namespace

cli::Command inspect_command() {
    const auto inspect = std::make_shared<Inspect>();
    cli::Command c;
    c.name = "inspect";
    c.help = "show tensors, types, sizes, metadata and steps; errors against a reference";
    c.options = [inspect](OptionVisitor& v) { inspect->visit(v); };
    c.plan = [inspect](const cli::CommonOptions& common) { return inspect->plan(common); };
    c.run = [inspect](cli::Context& context) { inspect->run(context); };
    return c;
}

}  // namespace thimble
