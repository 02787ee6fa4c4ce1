// SPDX-License-Identifier: Apache-2.0
// llama.cpp's adapter file: "<tensor>.lora_a" [rank, in] and "<tensor>.lora_b" [out, rank] beside
// keys that say what it is for. scale = adapter.lora.alpha / rank, and 1 where alpha is 0.
#include <algorithm>
#include <cmath>

#include "io/gguf_writer.h"
#include "model/adapter_parts.h"

namespace thimble {
namespace {

constexpr std::string_view kASuffix = ".lora_a", kBSuffix = ".lora_b";
constexpr std::string_view kTypeKey = "general.type", kArchitectureKey = "general.architecture";
constexpr std::string_view kAdapterTypeKey = "adapter.type", kAlphaKey = "adapter.lora.alpha";
constexpr std::string_view kBaseNameKey = "general.base_model.0.name";

void check_text(const AdapterParts& parts, std::string_view key, std::string_view wanted) {
    const auto found = parts.file->metadata().find_string(key);
    if (found == wanted) return;
    throw parts.error("key '" + std::string(key) + "' is " +
                          (found ? "'" + escaped(*found) + "'" : "missing") + ", '" +
                          std::string(wanted) + "' was expected",
                      key == kArchitectureKey ? "mismatched adapter: it was made for another model"
                                              : "a LoRA adapter as llama.cpp has it");
}

}  // namespace

AdapterParts parse_gguf_adapter(std::unique_ptr<ModelFile> file, const ModelSource& source) {
    AdapterParts parts;
    parts.path = file->path();
    parts.file = std::move(file);
    check_text(parts, kTypeKey, "adapter");
    check_text(parts, kAdapterTypeKey, "lora");
    check_text(parts, kArchitectureKey, source.architecture().id);
    const Metadata& metadata = parts.file->metadata();
    if (metadata.find("adapter.alora.invocation_tokens") != nullptr)
        throw parts.error("an activated LoRA (adapter.alora.*) is not supported");
    const double alpha = metadata.find_number(kAlphaKey).value_or(0);
    if (!std::isfinite(alpha))
        throw parts.error("key '" + std::string(kAlphaKey) + "' is no number");
    parts.adapter.settings.base_model = metadata.find_string(kBaseNameKey).value_or("");

    AdapterTable table;
    for (const TensorEntry& entry : parts.file->tensors()) {
        const std::string_view name = entry.name;
        const bool is_a = name.ends_with(kASuffix), is_b = name.ends_with(kBSuffix);
        if (!is_a && !is_b) {
            throw parts.error("tensor '" + escaped(name, 256) + "' is no low-rank term",
                              "only *.lora_a and *.lora_b are supported");
        }
        const std::string_view of = name.substr(0, name.size() - kASuffix.size());
        const SourceTensor* matrix = source.find(of);
        if (matrix != nullptr && !matrix->is_matrix) matrix = nullptr;
        table.add(parts, source, of, matrix, is_a ? AdapterTable::Role::kA : AdapterTable::Role::kB,
                  entry);
    }
    table.finish(source, parts, [alpha](const SourceTensor&, std::int64_t rank) {
        return alpha == 0 ? static_cast<double>(rank) : alpha;
    });
    return parts;
}

void write_gguf_adapter(const std::string& path, const ModelSource& source, const Adapter& adapter,
                        const AdapterOutput& output) {
    if (adapter.settings.dora) {
        throw Error(Exit::kUsage, escaped(path, 1024),
                    "a GGUF adapter cannot hold DoRA's lengths of rows",
                    "write a PEFT directory, or merge the adapter into the model");
    }
    // One alpha for all: matrices of another scale are multiplied into B.
    const auto alpha_of = [&](const AdapterMatrix& m) {
        return adapter_scale(adapter.settings, m) * static_cast<double>(m.rank);
    };
    double alpha = adapter.matrices.empty() ? 0 : alpha_of(adapter.matrices.front());
    if (alpha == 0) alpha = 1;  // 0 would mean something else

    Metadata metadata;
    metadata.set(std::string(kArchitectureKey), std::string(source.architecture().id));
    metadata.set(std::string(kTypeKey), std::string("adapter"));
    metadata.set(std::string(kAdapterTypeKey), std::string("lora"));
    metadata.set(std::string(kAlphaKey), static_cast<float>(alpha));
    if (!adapter.settings.base_model.empty()) {
        metadata.set("general.base_model.count", std::uint32_t{1});
        metadata.set(std::string(kBaseNameKey), adapter.settings.base_model);
    }
    if (!output.steps.empty()) metadata.set("thimble.steps", output.steps);
    std::vector<TensorSpec> specs;
    for (const AdapterMatrix& m : adapter.matrices) {
        const auto rank = static_cast<std::uint64_t>(m.rank);
        specs.push_back(
            {m.tensor->name + std::string(kASuffix), output.type, {rank, m.tensor->dims[1]}});
        specs.push_back(
            {m.tensor->name + std::string(kBSuffix), output.type, {m.tensor->dims[0], rank}});
    }
    GgufWriter writer(path, metadata, std::move(specs), output.if_exists);
    for (std::size_t i = 0; i < adapter.matrices.size(); ++i) {
        const AdapterMatrix& m = adapter.matrices[i];
        write_floats(writer, 2 * i, {m.a, {m.rank, m.in()}}, output.type);
        write_floats(writer, 2 * i + 1, {m.b, {m.out(), m.rank}, {}, alpha_of(m) / alpha},
                     output.type);
    }
    writer.finish();
}

}  // namespace thimble
