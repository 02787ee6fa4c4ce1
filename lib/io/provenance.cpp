// SPDX-License-Identifier: Apache-2.0
#include "io/provenance.h"

#include <filesystem>

#include "io/json.h"
#include "io/sha256.h"

namespace thimble {
namespace {

Json option_json(const OptionRecord& record) {
    if (record.type == OptionType::kList) {
        Json list = Json::array();
        for (const std::string& value : record.values) list.push(value);
        return list;
    }
    if (record.values.empty()) return "";
    if (record.type == OptionType::kBool) return record.values.front() == "true";
    return record.values.front();
}

}  // namespace

void append_step(Metadata& metadata, const ProvenanceStep& step, bool hash_inputs) {
    Json options = Json::object();
    for (const OptionRecord& record : list_options(step.options)) {
        const OptionInfo& info = record.info;
        if (info.changes_output && !info.is_input && !info.is_output)
            options.set(info.name, option_json(record));
    }
    Json inputs = Json::array();
    for (const std::string& path : step.input_files) {
        Json input = Json::object();
        input.set("name", std::filesystem::path(path).filename().string());
        input.set("sha256", hash_inputs ? sha256_of_file(path) : std::string(kUnknownSha256));
        inputs.push(std::move(input));
    }
    Json line = Json::object();
    line.set("tool", step.tool);
    line.set("version", step.version);
    line.set("options", std::move(options));
    line.set("inputs", std::move(inputs));
    if (!step.requantized.empty()) {
        Json requantized = Json::object();
        for (const auto& [type, tensors] : step.requantized) requantized.set(type, tensors);
        line.set("requantized", std::move(requantized));
    }

    auto steps = std::make_shared<MetaArray>();
    std::vector<std::string> lines;
    if (const MetaArray* before = metadata.find_array(kStepsKey)) {
        if (const auto* texts = std::get_if<std::vector<std::string>>(&before->elements))
            lines = *texts;
    }
    lines.push_back(line.dump());
    steps->elements = std::move(lines);
    metadata.set(std::string(kStepsKey), std::shared_ptr<const MetaArray>(std::move(steps)));
}

std::string steps_text(const Metadata& metadata) {
    std::string out;
    if (const MetaArray* steps = metadata.find_array(kStepsKey)) {
        if (const auto* lines = std::get_if<std::vector<std::string>>(&steps->elements)) {
            for (const std::string& line : *lines) out += (out.empty() ? "[" : ",") + line;
        }
    }
    return out.empty() ? "[]" : out + "]";
}

}  // namespace thimble
