// SPDX-License-Identifier: Apache-2.0
#include "model/thresholds.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/weight_memory.h"

namespace thimble {
namespace {

std::string key_of(std::size_t layer) {
    return std::string(kThresholdsKey) + std::to_string(layer);
}

bool has_any(const Metadata& metadata) {
    return std::ranges::any_of(metadata.entries(), [](const auto& entry) {
        return entry.first.starts_with(kThresholdsKey);
    });
}

std::vector<float> read_layer(const Metadata& metadata, const std::string& key,
                              std::int64_t channels) {
    const auto fault = [&](const std::string& what) {
        return Error(Exit::kBadData, escaped(metadata.file(), 1024) + ": key '" + key + "'", what,
                     "prune the model anew: prune --method chess");
    };
    const MetaArray* array = metadata.find_array(key);
    if (array == nullptr) throw fault("is missing, and other layers have thresholds");
    const auto* values = std::get_if<std::vector<float>>(&array->elements);
    if (values == nullptr || std::ssize(*values) != channels)
        throw fault("is no array of " + std::to_string(channels) + " F32, one for each channel");
    if (!std::ranges::all_of(*values, [](float t) { return std::isfinite(t) && t >= 0; }))
        throw fault("has a threshold that is negative or not finite");
    return *values;
}

}  // namespace

std::optional<Thresholds> read_thresholds(const Metadata& metadata,
                                          const std::vector<std::int64_t>& channels) {
    if (!has_any(metadata)) return std::nullopt;
    Thresholds out;
    for (std::size_t l = 0; l < channels.size(); ++l)
        out.push_back(read_layer(metadata, key_of(l), channels[l]));
    if (metadata.find(key_of(channels.size())) != nullptr) {
        throw Error(Exit::kBadData,
                    escaped(metadata.file(), 1024) + ": key '" + key_of(channels.size()) + "'",
                    "is of a layer that the model does not have");
    }
    return out;
}

void erase_thresholds(Metadata& metadata) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : metadata.entries()) {
        if (key.starts_with(kThresholdsKey) || key == kThresholdsMethodKey) keys.push_back(key);
    }
    for (const std::string& key : keys) metadata.erase(key);
}

void write_thresholds(const Thresholds& thresholds, const std::string& method, Metadata& metadata) {
    erase_thresholds(metadata);
    metadata.set(std::string(kThresholdsMethodKey), method);
    for (std::size_t l = 0; l < thresholds.size(); ++l)
        metadata.set(key_of(l), std::make_shared<const MetaArray>(MetaArray{thresholds[l]}));
}

std::string describe_thresholds(const ModelSource& source, Device device, bool repack) {
    Exec exec;
    exec.device = device;
    std::int64_t matrices = 0, skipped = 0;
    std::string layout;
    for (const SourceTensor& tensor : source.tensors()) {
        if (tensor.skips == Skips::kNothing) continue;
        ++matrices;
        if (working_skips(tensor, exec, repack) != Skips::kNothing) ++skipped;
        layout = format_of(tensor.layout()).name();
    }
    const Metadata& metadata = source.file().metadata();
    std::string out(metadata.find_string(kThresholdsMethodKey).value_or("thresholds"));
    out += " drops small activations";
    if (skipped > 0 && skipped == matrices) return out + ": single tokens skip weights";
    if (device == Device::kCpu && repack && matrices > 0)
        return out + "; weights in " + layout + " are read whole: f32, f16 and bf16 are not";
    return out + "; all weights are read";
}

}  // namespace thimble
