// SPDX-License-Identifier: Apache-2.0
#include "tests/support/golden_model.h"

#include "core/error.h"
#include "format/weight_format.h"
#include "io/gguf_writer.h"
#include "io/safetensors_writer.h"
#include "model/source.h"
#include "tests/support/temp_dir.h"

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
    model.directory = golden_directory(name);
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
    void append(int plane, std::span<const std::byte> part) override {
        planes[plane].insert(planes[plane].end(), part.begin(), part.end());
    }
    std::vector<std::byte> planes[kMaxPlanes];
};

void add_specs(ModelCopy& copy, const SourceTensor& tensor, const PackedForm& form, Shape2 shape) {
    if (!has_planes(form.layout)) {
        copy.specs.push_back({tensor.name, *tensor_type_of(form.layout), tensor.dims});
        return;
    }
    copy.metadata.set(std::string(kFormatKey) + tensor.name, describe_planes(form, shape));
    for (TensorSpec& spec : plane_specs(tensor.name, form)) copy.specs.push_back(std::move(spec));
}

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

std::string golden_directory(const std::string& name) {
    return std::string(THIMBLE_TESTS_DIR) + "/golden/models/" + name;
}

const GoldenModel& golden_model(const std::string& name) {
    for (const GoldenModel& model : golden_models()) {
        if (model.name == name) return model;
    }
    throw Error(Exit::kFailure, "golden", "there is no golden model " + name);
}

ModelCopy ModelCopy::of_hf(const std::string& directory) {
    const auto file = ModelFile::open(directory);
    ModelCopy copy;
    copy.config = file->config();
    for (const TensorEntry& entry : file->tensors()) {
        copy.specs.push_back({entry.name, entry.type, entry.dims});
        copy.data.push_back(read<std::byte>(*file, entry.name));
    }
    return copy;
}

ModelCopy ModelCopy::as_gguf(const std::string& directory, const std::string& format) {
    return as_gguf(*ModelSource::open(directory), format);
}

ModelCopy ModelCopy::as_gguf(const ModelSource& source, const std::string& format) {
    const SharedFormat wanted = make_format(format, "test"), plain = make_format("f32", "test");
    ModelCopy copy;
    copy.metadata = source.gguf_metadata();
    for (const SourceTensor& tensor : source.tensors()) {
        const bool packs = tensor.is_matrix && tensor.cols() % wanted->info().block_elements == 0;
        const WeightFormat& used = packs ? *wanted : *plain;
        const Shape2 shape{tensor.rows(), tensor.cols()};
        std::vector<float> rows(static_cast<std::size_t>(shape.rows * shape.cols));
        std::vector<std::byte> scratch;
        source.read_rows(tensor, 0, tensor.rows(), rows.data(), scratch);
        Collect sink;
        const auto encoder = used.encoder(shape, {});
        if (used.info().needs_scan) encoder->scan(0, rows);
        encoder->encode(0, rows, sink);
        add_specs(copy, tensor, form_of(used, shape), shape);
        for (std::vector<std::byte>& plane : sink.planes) {
            if (!plane.empty()) copy.data.push_back(std::move(plane));
        }
    }
    return copy;
}

ModelCopy ModelCopy::as_packed_gguf(const std::string& directory) {
    const auto source = ModelSource::open(directory);
    ModelCopy copy;
    copy.metadata = source->gguf_metadata();
    for (const SourceTensor& tensor : source->tensors()) {
        std::vector<std::byte> rows(tensor.form.bytes(tensor.rows()));
        const PackedView view = source->read_packed(tensor, 0, tensor.rows(), rows.data());
        add_specs(copy, tensor, tensor.form, view.shape);
        for (int p = 0; p < view.n_planes; ++p) {
            const PlaneView& plane = view.planes[static_cast<std::size_t>(p)];
            if (plane.bytes > 0) copy.data.emplace_back(plane.data, plane.data + plane.bytes);
        }
    }
    return copy;
}

std::size_t ModelCopy::index(const std::string& tensor) const {
    for (std::size_t i = 0; i < specs.size(); ++i) {
        if (specs[i].name == tensor) return i;
    }
    throw Error(Exit::kFailure, "test", "there is no tensor " + tensor);
}

void ModelCopy::remove(std::size_t tensor) {
    specs.erase(specs.begin() + static_cast<std::ptrdiff_t>(tensor));
    data.erase(data.begin() + static_cast<std::ptrdiff_t>(tensor));
}

void ModelCopy::write_hf(const std::string& directory) const {
    SafetensorsOptions options;
    options.if_exists = IfExists::kReplace;
    SafetensorsWriter writer(directory, specs, options);
    for (std::size_t i = 0; i < data.size(); ++i) writer.write(i, 0, data[i]);
    writer.finish();
    spew(directory + "/config.json", config.dump(2));
}

void ModelCopy::write_gguf(const std::string& path) const {
    GgufWriter writer(path, metadata, specs, IfExists::kReplace);
    for (std::size_t i = 0; i < data.size(); ++i) writer.write(i, 0, data[i]);
    writer.finish();
}

}  // namespace thimble::test
