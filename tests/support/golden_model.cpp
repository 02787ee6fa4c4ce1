// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden_model.h"

#include <cstring>

#include "core/error.h"
#include "format/weight_format.h"
#include "io/gguf_writer.h"
#include "model/source.h"

namespace thimble::test {
namespace {

template <class T>
std::vector<T> read(const ModelFile& file, const std::string& name) {
    const TensorEntry& entry = file.get(name);
    std::vector<T> out(entry.bytes / sizeof(T));
    file.read(entry, 0, std::as_writable_bytes(std::span(out)));
    return out;
}

GoldenModel load(const std::string& name) {
    GoldenModel model;
    model.name = name;
    model.directory = std::string(THIMBLE_TESTS_DIR) + "/golden/models/" + name;
    const auto file = ModelFile::open(model.directory + ".golden.safetensors");
    for (int i = 0; file->find("prompt." + std::to_string(i)) != nullptr; ++i) {
        const std::string number = std::to_string(i);
        model.prompts.push_back({read<std::int32_t>(*file, "prompt." + number),
                                 read<float>(*file, "logits." + number),
                                 read<std::int32_t>(*file, "greedy." + number)});
    }
    return model;
}

class Collect final : public PlaneSink {
  public:
    void append(int, std::span<const std::byte> part) override {
        bytes.insert(bytes.end(), part.begin(), part.end());
    }
    std::vector<std::byte> bytes;
};

}  // namespace

const std::vector<GoldenModel>& golden_models() {
    static const std::vector<GoldenModel> models = [] {
        std::vector<GoldenModel> all;
        for (const char* name :
             {"llama-tied", "llama-untied", "llama3-rope", "gemma3", "gemma3-scaled"}) {
            all.push_back(load(name));
        }
        return all;
    }();
    return models;
}

const GoldenModel& golden_model(const std::string& name) {
    for (const GoldenModel& model : golden_models()) {
        if (model.name == name) return model;
    }
    throw Error(Exit::kFailure, "golden", "there is no golden model " + name);
}

void write_gguf(const std::string& directory, const std::string& path, const std::string& format) {
    const auto source = ModelSource::open(directory);
    const WeightFormat& wanted = weight_formats().get(format, "test");
    const WeightFormat& plain = weight_formats().get("f32", "test");
    std::vector<TensorSpec> specs;
    std::vector<std::vector<std::byte>> contents;
    for (const SourceTensor& tensor : source->tensors()) {
        const bool packs = tensor.is_matrix && tensor.cols() % wanted.info().block_elements == 0;
        const WeightFormat& used = packs ? wanted : plain;
        std::vector<float> rows(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
        std::vector<std::byte> scratch;
        source->read_rows(tensor, 0, tensor.rows(), rows.data(), scratch);
        Collect sink;
        used.encoder({tensor.rows(), tensor.cols()}, {})->encode(0, rows, sink);
        specs.push_back({tensor.name, *tensor_type_of(used.info().layout), tensor.dims});
        contents.push_back(std::move(sink.bytes));
    }
    GgufWriter writer(path, source->gguf_metadata(), specs, IfExists::kReplace);
    for (std::size_t i = 0; i < contents.size(); ++i) writer.write(i, 0, contents[i]);
    writer.finish();
}

}  // namespace thimble::test
