// SPDX-License-Identifier: Apache-2.0
// Any bytes as a config.json: an Error, or sizes in range that GGUF keys carry without loss.
#include "model/config.h"

#include <cmath>
#include <cstdlib>

#include "memory_model.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    ModelConfig config;
    const Architecture* architecture = nullptr;
    try {
        const fuzz::MemoryModel file(parse_json(text, "config.json"));
        architecture = &architecture_of(file);
        config = read_config(file, *architecture);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
        return 0;
    }
    for (const float divisor : frequency_divisors(config)) {
        if (!(divisor > 0) || !std::isfinite(divisor)) std::abort();
    }
    Metadata metadata("again.gguf");
    write_config(config, *architecture, metadata);
    const ModelConfig again = read_config(fuzz::MemoryModel(metadata), *architecture);
    if (again.layers != config.layers || again.hidden != config.hidden || again.ffn != config.ffn ||
        again.vocab != config.vocab || again.heads != config.heads ||
        again.kv_heads != config.kv_heads || again.head_dim != config.head_dim ||
        again.rope_dims != config.rope_dims || again.windowed != config.windowed) {
        std::abort();
    }
    return 0;
}
