// SPDX-License-Identifier: Apache-2.0
// The numbers of a model's config, read from either container's keys through its architecture, and
// written as GGUF keys.
#pragma once

#include "io/model_file.h"
#include "model/architecture.h"

namespace thimble {

// general.architecture or model_type; throws kBadData when there is no such architecture.
[[nodiscard]] const Architecture& architecture_of(const ModelFile& file);
// Every number in range and consistent with the others; tensors are not looked at, but for the
// vocabulary's size where no key states it. Throws kBadData naming file and key.
[[nodiscard]] ModelConfig read_config(const ModelFile& file, const Architecture& architecture);
// Sets the sizes of all layers: those of a config whose layers are alike are left out.
void set_sizes(ModelConfig& config, std::vector<LayerSizes> sizes);
// <arch>.* keys, as other programs that read GGUF expect them.
void write_config(const ModelConfig& config, const Architecture& architecture, Metadata& metadata);
// config.json, as transformers expects it: what these numbers say, and the architecture's name.
// Throws kBadData for what it has no key for.
[[nodiscard]] Json write_hf_config(const ModelConfig& config, const Architecture& architecture);
// Divisors of the rotation's frequencies, [pairs]; empty when the config scales none.
[[nodiscard]] std::vector<float> frequency_divisors(const ModelConfig& config);
// The inverse, for bands that begin at one and end at four turns within an original context of a
// power of two, as all published models have them; nullopt when `divisors` are no such.
[[nodiscard]] std::optional<ModelConfig::FrequencyBands> find_frequency_bands(
    const ModelConfig& config, std::span<const float> divisors);

}  // namespace thimble
