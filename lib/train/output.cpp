// SPDX-License-Identifier: Apache-2.0
#include "train/output.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "calib/hf_side_files.h"
#include "core/error.h"
#include "format/weight_format.h"
#include "io/gguf_writer.h"
#include "io/hf_directory.h"
#include "io/sha256.h"
#include "model/hf_export.h"

namespace thimble::train {
namespace {

constexpr std::int64_t kRows = 64;  // of a matrix in memory at once

std::size_t row_buffer_bytes(const ResultTarget& target) {
    std::int64_t widest = 0;
    for (const SourceTensor& tensor : target.source.tensors())
        widest = std::max(widest, tensor.cols());
    return static_cast<std::size_t>(kRows * widest) * sizeof(float);
}

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

// A tensor under the name and with the rows and the format that its container has.
struct WrittenTensor {
    SourceTensor as;                    // reads what is not trained
    const SourceTensor* own = nullptr;  // the canonical one
    const WeightFormat* format = nullptr;
    // Its canonical row, or element of a vector; empty: the same.
    std::function<std::int64_t(std::int64_t)> row;
    float add = 0;  // to canonical values
    [[nodiscard]] std::int64_t canonical(std::int64_t r) const { return row ? row(r) : r; }
    [[nodiscard]] TensorSpec spec() const {
        return {as.name, *tensor_type_of(format->info().layout), as.dims};
    }
};

// GGUF keeps vectors as F32; a Hugging Face directory has them in the type of the matrices.
const WeightFormat& format_for(const ResultTarget& target, const SourceTensor& tensor) {
    const WeightFormat& f32 = weight_formats().get("f32", "--outtype");
    if (!tensor.is_matrix && target.wants_gguf()) return f32;
    if (target.type != "auto") return weight_formats().get(target.type, "--outtype");
    const WeightFormat& stored = format_of(tensor.layout());
    return layout_info(stored.info().layout).block_elements == 1 ? stored : f32;
}

std::vector<WrittenTensor> written_tensors(const ResultTarget& target) {
    std::vector<WrittenTensor> out;
    if (target.wants_gguf()) {
        for (const SourceTensor& tensor : target.source.tensors())
            out.push_back({tensor, &tensor, &format_for(target, tensor), {}, 0});
        return out;
    }
    auto own = target.source.tensors().begin();
    for (SourceTensor& tensor : hf_tensors(target.source)) {
        while (own->rule->hf.empty()) ++own;
        WrittenTensor written = {std::move(tensor), &*own, &format_for(target, *own), {}, 0};
        written.row = canonical_rows(*own, target.source.config().head_dim);
        written.add = own->rule->transform == HfTransform::kPlusOne ? -1.0f : 0.0f;
        out.push_back(std::move(written));
        ++own;
    }
    return out;
}

std::vector<TensorSpec> specs_of(const std::vector<WrittenTensor>& tensors) {
    std::vector<TensorSpec> specs;
    for (const WrittenTensor& tensor : tensors) specs.push_back(tensor.spec());
    return specs;
}

// The type of most weights.
TensorType main_type(const std::vector<WrittenTensor>& tensors) {
    std::map<TensorType, std::int64_t> weights;
    for (const WrittenTensor& t : tensors) weights[t.spec().type] += t.as.rows() * t.as.cols();
    return std::max_element(weights.begin(), weights.end(),
                            [](const auto& a, const auto& b) { return a.second < b.second; })
        ->first;
}

HfSideFiles files_beside(const ResultTarget& target, const std::vector<WrittenTensor>& tensors) {
    const bool copies =
        target.source.file().container() != Container::kGguf && !target.new_tokenizer;
    return {target.source, main_type(tensors), copies ? nullptr : &target.tokenizer};
}

Metadata metadata_of(const ResultTarget& target, bool hash_inputs = true) {
    Metadata metadata = target.source.gguf_metadata();
    if (target.source.file().container() != Container::kGguf)
        target.tokenizer.write_vocabulary(metadata);
    ProvenanceStep step = target.step;
    std::vector<std::string> inputs = target.source.file().files();
    inputs.insert(inputs.end(), target.inputs.begin(), target.inputs.end());
    step.input_files = inputs;
    append_step(metadata, step, hash_inputs);
    return metadata;
}

SafetensorsOptions options_of(const Metadata& metadata) {
    SafetensorsOptions options;
    options.metadata.emplace_back("thimble.steps", steps_text(metadata));
    return options;
}

std::unique_ptr<TensorWriter> open_writer(const ResultTarget& target,
                                          const std::vector<WrittenTensor>& tensors) {
    const IfExists if_exists = target.replace ? IfExists::kReplace : IfExists::kRefuse;
    if (target.wants_gguf()) {
        return std::make_unique<GgufWriter>(target.path, metadata_of(target), specs_of(tensors),
                                            if_exists);
    }
    SafetensorsOptions options = options_of(metadata_of(target));
    options.if_exists = if_exists;
    const HfSideFiles beside = files_beside(target, tensors);
    return std::make_unique<HfDirectoryWriter>(target.path, specs_of(tensors), beside.files(),
                                               options);
}

// Rows [first, first + count) of a tensor as they are after training and as they are written.
using ReadRows = std::function<void(const WrittenTensor&, std::int64_t first, std::int64_t count,
                                    std::span<float> out)>;

void write_model(const ResultTarget& target, const ReadRows& read) {
    const std::vector<WrittenTensor> tensors = written_tensors(target);
    const std::unique_ptr<TensorWriter> writer = open_writer(target, tensors);
    Buffer memory(row_buffer_bytes(target), Purpose::kIo);
    std::size_t index = 0;
    for (const WrittenTensor& tensor : tensors) {
        const Shape2 shape{tensor.as.rows(), tensor.as.cols()};
        const auto encoder = tensor.format->encoder(shape, {});
        TensorSink sink(*writer, index++);
        for (std::int64_t first = 0; first < shape.rows; first += kRows) {
            const std::int64_t count = std::min(kRows, shape.rows - first);
            const auto rows =
                memory.span<float>().first(static_cast<std::size_t>(count * shape.cols));
            read(tensor, first, count, rows);
            encoder->encode(first, rows, sink);
        }
    }
    writer->finish();
}

void write_trained_model(const ResultTarget& target, ParameterSet& parameters) {
    std::map<const SourceTensor*, std::size_t> trained;
    for (std::size_t i = 0; i < parameters.size(); ++i) trained[parameters[i].tensor] = i;
    HeldValues held(parameters);
    std::vector<std::byte> scratch;
    write_model(target, [&](const WrittenTensor& tensor, std::int64_t first, std::int64_t count,
                            std::span<float> out) {
        const auto at = trained.find(tensor.own);
        if (at == trained.end())
            return target.source.read_rows(tensor.as, first, count, out.data(), scratch);
        const Parameter& p = held.hold(at->second);
        const std::int64_t cols = tensor.as.cols();
        if (tensor.as.is_matrix) {
            for (std::int64_t r = 0; r < count; ++r) {
                p.read(tensor.canonical(first + r) * cols,
                       out.subspan(static_cast<std::size_t>(r * cols),
                                   static_cast<std::size_t>(cols)));
            }
        } else {
            for (std::int64_t c = 0; c < cols; ++c)
                p.read(tensor.canonical(c), out.subspan(static_cast<std::size_t>(c), 1));
        }
        for (float& value : out) value += tensor.add;
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
    write_model(target, [&](const WrittenTensor& tensor, std::int64_t first, std::int64_t count,
                            std::span<float> out) {
        target.source.read_rows(tensor.as, first, count, out.data(), scratch);
        const auto at = adapted.find(tensor.own);
        if (at == adapted.end()) return;
        for (std::int64_t r = 0; r < count; ++r) {
            merge_row(adapter.settings, *at->second, tensor.canonical(first + r),
                      out.data() + r * tensor.as.cols());
        }
    });
}

bool writes_model(const ResultTarget& target, const Method& method) {
    return method.result() == ResultKind::kModel || target.merge;
}

// A directory may be there if it is empty; a device or pipe is written in place.
void check_is_free(const ResultTarget& target) {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::file_status there = fs::status(target.path, error);
    const bool taken =
        fs::is_directory(there) ? !fs::is_empty(target.path, error) : fs::is_regular_file(there);
    if (!taken || target.replace) return;
    throw Error(Exit::kCannotCreate, escaped(target.path, 1024), "cannot create: it exists",
                "give --force to replace it");
}

}  // namespace

void check_output(const ResultTarget& target, const Method& method) {
    if (!writes_model(target, method) && target.type != "auto") {
        throw Error(Exit::kUsage, "--outtype", "is for whole models; adapters are written as f32");
    }
    if (method.result() == ResultKind::kModel && target.merge)
        throw Error(Exit::kUsage, "--merge", "there are no adapters to merge", "drop it");
    if (!writes_model(target, method) && target.wants_gguf() &&
        method.adapter(target.source, {}).settings.dora) {
        throw Error(Exit::kUsage, "--output", "a GGUF adapter cannot hold DoRA's lengths of rows",
                    "name a directory for PEFT, or --merge");
    }
    std::vector<std::string> inputs = target.source.file().files();
    inputs.push_back(target.source.file().path());
    inputs.insert(inputs.end(), target.inputs.begin(), target.inputs.end());
    refuse_overwriting_inputs(target.path, inputs);
    if (target.wants_gguf()) check_can_create(target.path);
    check_is_free(target);
}

void add_output_to_plan(Plan& plan, const ResultTarget& target, const Method& method) {
    std::uint64_t header = 0;
    if (writes_model(target, method) && !target.wants_gguf()) {
        const std::vector<WrittenTensor> tensors = written_tensors(target);
        const HfSideFiles beside = files_beside(target, tensors);
        plan.at(Tier::kRam, Purpose::kVocabulary) += beside.vocabulary_bytes();
        header = std::max<std::uint64_t>(
            SafetensorsWriter::predict(target.path, specs_of(tensors),
                                       options_of(metadata_of(target, false)))
                .header_bytes,
            kSideBufferBytes);
    }
    plan.at(Tier::kRam, Purpose::kIo) +=
        kHashBufferBytes + Buffer::charged_bytes(row_buffer_bytes(target)) + header;
}

void write_output(const ResultTarget& target, Trainer& trainer) {
    if (trainer.method().result() == ResultKind::kModel)
        return write_trained_model(target, trainer.parameters());
    const Adapter adapter = trainer.method().adapter(target.source, trainer.parameters());
    if (target.merge) return write_merged_model(target, adapter);
    AdapterOutput how;
    how.steps = steps_text(metadata_of(target));
    how.if_exists = target.replace ? IfExists::kReplace : IfExists::kRefuse;
    if (target.wants_gguf()) {
        write_gguf_adapter(target.path, target.source, adapter, how);
    } else {
        write_peft(target.path, target.source, adapter, how);
    }
}

}  // namespace thimble::train
