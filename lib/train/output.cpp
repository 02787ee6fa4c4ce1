// SPDX-License-Identifier: Apache-2.0
#include "train/output.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "format/weight_format.h"
#include "io/gguf_writer.h"
#include "io/sha256.h"

namespace thimble::train {
namespace {

constexpr std::int64_t kRows = 64;  // of a matrix in memory at once

bool is_gguf(const std::string& path) { return path.ends_with(".gguf"); }

// A tensor's part of a file, plane 0 appended from its beginning.
class TensorSink final : public PlaneSink {
  public:
    TensorSink(TensorWriter& writer, std::size_t tensor) : writer_(writer), tensor_(tensor) {}
    void append(int, std::span<const std::byte> bytes) override {
        writer_.write(tensor_, written_, bytes);
        written_ += bytes.size();
    }

  private:
    TensorWriter& writer_;
    std::size_t tensor_;
    std::uint64_t written_ = 0;
};

const WeightFormat& format_for(const ResultTarget& target, const SourceTensor& tensor) {
    const WeightFormat& stored = format_of(tensor.layout());
    if (!tensor.is_matrix) return weight_formats().get("f32", "--outtype");
    if (target.type != "auto") return weight_formats().get(target.type, "--outtype");
    const bool plain = layout_info(stored.info().layout).block_elements == 1;
    return plain ? stored : weight_formats().get("f32", "--outtype");
}

Metadata metadata_of(const ResultTarget& target) {
    Metadata metadata = target.source.gguf_metadata();
    if (target.source.file().container() != Container::kGguf)
        target.tokenizer.write_vocabulary(metadata);
    ProvenanceStep step = target.step;
    std::vector<std::string> inputs = target.source.file().files();
    inputs.insert(inputs.end(), target.inputs.begin(), target.inputs.end());
    step.input_files = inputs;
    append_step(metadata, step, true);
    return metadata;
}

// Rows [first, first + count) of a tensor as they are after training.
using ReadRows = std::function<void(const SourceTensor&, std::int64_t first, std::int64_t count,
                                    std::span<float> out)>;

void write_model(const ResultTarget& target, const ReadRows& read) {
    std::vector<TensorSpec> specs;
    for (const SourceTensor& tensor : target.source.tensors()) {
        const auto type = tensor_type_of(format_for(target, tensor).info().layout);
        specs.push_back({tensor.name, type.value(), tensor.dims});
    }
    GgufWriter writer(target.path, metadata_of(target), specs,
                      target.replace ? IfExists::kReplace : IfExists::kRefuse);
    std::int64_t widest = 0;
    for (const SourceTensor& tensor : target.source.tensors())
        widest = std::max(widest, tensor.cols());
    Buffer memory(static_cast<std::size_t>(kRows * widest) * sizeof(float), Purpose::kIo);
    std::size_t index = 0;
    for (const SourceTensor& tensor : target.source.tensors()) {
        const WeightFormat& format = format_for(target, tensor);
        const Shape2 shape{tensor.rows(), tensor.cols()};
        const auto encoder = format.encoder(shape, {});
        TensorSink sink(writer, index++);
        for (std::int64_t first = 0; first < shape.rows; first += kRows) {
            const std::int64_t count = std::min(kRows, shape.rows - first);
            const auto rows =
                memory.span<float>().first(static_cast<std::size_t>(count * shape.cols));
            read(tensor, first, count, rows);
            encoder->encode(first, rows, sink);
        }
    }
    writer.finish();
}

void write_trained_model(const ResultTarget& target, ParameterSet& parameters) {
    std::map<const SourceTensor*, std::size_t> trained;
    for (std::size_t i = 0; i < parameters.size(); ++i) trained[parameters[i].tensor] = i;
    HeldValues held(parameters);
    std::vector<std::byte> scratch;
    write_model(target, [&](const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                            std::span<float> out) {
        const auto at = trained.find(&tensor);
        if (at == trained.end())
            return target.source.read_rows(tensor, first, count, out.data(), scratch);
        const float* values = held.hold(at->second).values + first * tensor.cols();
        std::copy_n(values, out.size(), out.data());
    });
}

// Row r of W becomes that of W + s B A, with DoRA scaled to its trained length.
void merge_row(const AdapterSettings& settings, const AdapterMatrix& m, std::int64_t r, float* w) {
    std::vector<double> row(w, w + m.in());
    add_terms(m, adapter_scale(settings, m), r, row);
    const double stretch = m.lengths != nullptr ? row_scale(m, r, row) : 1;
    for (std::size_t c = 0; c < row.size(); ++c) w[c] = static_cast<float>(stretch * row[c]);
}

void write_merged_model(const ResultTarget& target, const Adapter& adapter) {
    std::map<const SourceTensor*, const AdapterMatrix*> adapted;
    for (const AdapterMatrix& matrix : adapter.matrices) adapted[matrix.tensor] = &matrix;
    std::vector<std::byte> scratch;
    write_model(target, [&](const SourceTensor& tensor, std::int64_t first, std::int64_t count,
                            std::span<float> out) {
        target.source.read_rows(tensor, first, count, out.data(), scratch);
        const auto at = adapted.find(&tensor);
        if (at == adapted.end()) return;
        for (std::int64_t r = 0; r < count; ++r)
            merge_row(adapter.settings, *at->second, first + r, out.data() + r * tensor.cols());
    });
}

}  // namespace

void check_output(const ResultTarget& target, const Method& method) {
    const bool whole = method.result() == ResultKind::kModel || target.merge;
    if (whole && !is_gguf(target.path)) {
        throw Error(Exit::kUsage, "--output", "a whole model is written as GGUF",
                    "give it a name that ends in .gguf");
    }
    if (!whole && target.type != "auto") {
        throw Error(Exit::kUsage, "--outtype", "is for whole models; adapters are written as f32");
    }
    if (method.result() == ResultKind::kModel && target.merge)
        throw Error(Exit::kUsage, "--merge", "there are no adapters to merge", "drop it");
    std::vector<std::string> inputs = target.source.file().files();
    inputs.insert(inputs.end(), target.inputs.begin(), target.inputs.end());
    refuse_overwriting_inputs(target.path, inputs);
    if (is_gguf(target.path)) check_can_create(target.path);
}

std::size_t output_bytes(const ResultTarget& target) {
    std::size_t rows = 0;
    for (const SourceTensor& tensor : target.source.tensors())
        rows = std::max(rows, static_cast<std::size_t>(kRows * tensor.cols()) * sizeof(float));
    return kHashBufferBytes + Buffer::charged_bytes(rows);
}

void write_output(const ResultTarget& target, Trainer& trainer) {
    if (trainer.method().result() == ResultKind::kModel)
        return write_trained_model(target, trainer.parameters());
    const Adapter adapter = trainer.method().adapter(target.source, trainer.parameters());
    if (target.merge) return write_merged_model(target, adapter);
    AdapterOutput how;
    how.steps = steps_text(metadata_of(target));
    how.if_exists = target.replace ? IfExists::kReplace : IfExists::kRefuse;
    if (is_gguf(target.path)) {
        write_gguf_adapter(target.path, target.source, adapter, how);
    } else {
        write_peft(target.path, target.source, adapter, how);
    }
}

}  // namespace thimble::train
