// SPDX-License-Identifier: Apache-2.0
// Any bytes as an adapter of a tiny llama (GGUF, or a first line of adapter_config.json and then
// safetensors): an Error, or terms of the shapes that the model has, all of them finite.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>

#include "memory_model.h"
#include "model/adapter.h"

using namespace thimble;

namespace {

constexpr std::string_view kConfig = R"({"architectures": ["LlamaForCausalLM"],
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16, "head_dim": 4,
    "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false})";

// A safetensors file of zeros.
std::string zeros() {
    std::string header = "{";
    std::size_t end = 0;
    const auto add = [&](const std::string& name, int rows, int cols) {
        const std::size_t begin = end;
        end += static_cast<std::size_t>(std::max(rows, 1) * cols) * 4;
        header += (begin > 0 ? ",\"" : "\"") + name + R"(.weight":{"dtype":"F32","shape":[)" +
                  (rows > 0 ? std::to_string(rows) + "," : "") + std::to_string(cols) +
                  R"(],"data_offsets":[)" + std::to_string(begin) + "," + std::to_string(end) +
                  "]}";
    };
    add("model.embed_tokens", 16, 8);
    for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
        const std::string at = layer;
        add(at + "input_layernorm", 0, 8);
        add(at + "post_attention_layernorm", 0, 8);
        add(at + "self_attn.q_proj", 8, 8);
        add(at + "self_attn.k_proj", 4, 8);
        add(at + "self_attn.v_proj", 4, 8);
        add(at + "self_attn.o_proj", 8, 8);
        add(at + "mlp.gate_proj", 12, 8);
        add(at + "mlp.up_proj", 12, 8);
        add(at + "mlp.down_proj", 8, 12);
    }
    add("model.norm", 0, 8);
    add("lm_head", 16, 8);
    header += "}";
    std::uint64_t length = header.size();
    std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
    return file + header + std::string(end, '\0');
}

const ModelSource& model() {
    static const std::string bytes = zeros();
    static const ModelSource source(std::make_unique<fuzz::MemoryModel>(
        parse_json(kConfig, "config.json"), std::as_bytes(std::span(bytes))));
    return source;
}

void check(std::unique_ptr<ModelFile> file, const Json& config) {
    const AdapterFile adapter(std::move(file), config, model());
    Buffer memory(adapter.value_bytes(), Purpose::kWeights);
    const Adapter read = adapter.read(memory.data());
    for (const AdapterMatrix& m : read.matrices) {
        const double scale = adapter_scale(read.settings, m);
        const bool finite =
            std::isfinite(scale) &&
            std::all_of(m.a, m.a + m.rank * m.in(), [](float v) { return std::isfinite(v); }) &&
            std::all_of(m.b, m.b + m.out() * m.rank, [](float v) { return std::isfinite(v); });
        if (!finite || (m.lengths != nullptr) != read.settings.dora) std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    (void)model();
    const std::span bytes(data, size);
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    try {
        if (text.starts_with("GGUF")) {
            check(std::make_unique<fuzz::MemoryModel>(std::as_bytes(bytes)), {});
            return 0;
        }
        const std::size_t line = text.find('\n');
        if (line == std::string_view::npos) return 0;
        check(std::make_unique<fuzz::MemoryModel>(Json::object(),
                                                  std::as_bytes(bytes.subspan(line + 1))),
              parse_json(text.substr(0, line), "adapter_config.json"));
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
