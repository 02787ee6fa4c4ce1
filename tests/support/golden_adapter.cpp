// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden_adapter.h"

#include "core/error.h"

namespace thimble::test {
namespace {

std::vector<float> read(const ModelFile& file, const std::string& name) {
    const TensorEntry& entry = file.get(name);
    std::vector<float> out(entry.bytes / sizeof(float));
    file.read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

GoldenAdapter load(const std::string& name, const std::string& model) {
    GoldenAdapter adapter;
    adapter.name = name;
    adapter.directory = std::string(THIMBLE_TESTS_DIR) + "/golden/adapters/" + name;
    adapter.model = &golden_model(model);
    const auto file = ModelFile::open(adapter.directory + ".golden.safetensors");
    adapter.logits = read(*file, "logits");
    adapter.plain = read(*file, "plain");
    return adapter;
}

}  // namespace

const std::vector<GoldenAdapter>& golden_adapters() {
    static const std::vector<GoldenAdapter> adapters = {
        load("lora", "llama-untied"), load("rslora", "llama-tied"), load("dora", "llama3-rope"),
        load("dora-gemma", "gemma3-scaled"), load("lora-layer", "gemma3")};
    return adapters;
}

const GoldenAdapter& golden_adapter(const std::string& name) {
    for (const GoldenAdapter& adapter : golden_adapters()) {
        if (adapter.name == name) return adapter;
    }
    throw Error(Exit::kFailure, "golden", "there is no golden adapter " + name);
}

}  // namespace thimble::test
