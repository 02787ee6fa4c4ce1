// SPDX-License-Identifier: Apache-2.0
#include "model/adapter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "format/weight_format.h"
#include "model/adapter_parts.h"
#include "model/hf_export.h"
#include "ops/columns.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

std::size_t float_bytes(std::int64_t rows, std::int64_t cols) {
    return aligned(static_cast<std::size_t>(rows * cols) * sizeof(float));
}

std::int64_t piece_rows(Shape2 shape) {
    const std::size_t row = static_cast<std::size_t>(shape.cols) * sizeof(float);
    return std::clamp<std::int64_t>(static_cast<std::int64_t>(kPieceBytes / row), 1, shape.rows);
}

std::string text(const std::vector<std::uint64_t>& dims) {
    std::string out = "[";
    for (const std::uint64_t d : dims) out += (out.size() > 1 ? ", " : "") + std::to_string(d);
    return out + "]";
}

class Bytes final : public PlaneSink {
  public:
    explicit Bytes(std::vector<std::byte>& out) : out_(out) {}
    void append(int, std::span<const std::byte> bytes) override {
        out_.insert(out_.end(), bytes.begin(), bytes.end());
    }

  private:
    std::vector<std::byte>& out_;
};

}  // namespace

double adapter_scale(const AdapterSettings& settings, const AdapterMatrix& matrix) {
    const auto rank = static_cast<double>(matrix.rank);
    return matrix.alpha / (settings.rslora ? std::sqrt(rank) : rank);
}

void add_terms(const AdapterMatrix& matrix, double scale, std::int64_t r, std::span<double> row) {
    const auto rank = static_cast<std::size_t>(matrix.rank);
    ops::add_terms(matrix.a, {matrix.b + r * matrix.rank, rank}, scale, row);
}

double row_scale(const AdapterMatrix& matrix, std::int64_t r, std::span<const double> row) {
    double sum = 0;
    for (const double value : row) sum += value * value;
    return sum > 0 ? static_cast<double>(matrix.lengths[r]) / std::sqrt(sum) : 0;
}

Error AdapterFile::Parts::error(const std::string& what, const std::string& hint) const {
    return {Exit::kBadData, escaped(path, 1024), what, hint};
}

void AdapterTable::add(const AdapterParts& parts, const ModelSource& source, std::string_view name,
                       const SourceTensor* matrix, Role role, const TensorEntry& entry) {
    const std::string what = "tensor '" + escaped(entry.name, 256) + "'";
    if (matrix == nullptr) {
        for (const TensorRule& rule : source.architecture().tensors) {
            if (rule.presence == Presence::kUntied && (rule.gguf == name || rule.hf == name))
                throw parts.error(what +
                                  ": the head of this model is its embedding, for which "
                                  "adapters are not supported");
        }
        throw parts.error(what + " is for no matrix of this model",
                          "mismatched adapter: it was made for another model");
    }
    if (source.spec().input_norm_epsilon > 0)
        throw parts.error(what + ": adapters of ternary matrices are not supported");
    if (matrix->name == "token_embd.weight")
        throw parts.error(what + ": adapters of the embedding are not supported");
    const auto layout = layout_of(entry.type);
    if (!layout || (role == Role::kLengths && layout_info(*layout).block_elements > 1))
        throw parts.error(what + " has a type that is not supported here");
    AdapterParts::Stored& stored = stored_[matrix];
    const TensorEntry*& place = role == Role::kA   ? stored.a
                                : role == Role::kB ? stored.b
                                                   : stored.lengths;
    if (place != nullptr)
        throw parts.error(what + " and '" + escaped(place->name, 256) + "' are the same term");
    place = &entry;
}

void AdapterTable::finish(
    const ModelSource& source, AdapterParts& parts,
    const std::function<double(const SourceTensor&, std::int64_t)>& alpha_of) {
    if (stored_.empty()) throw parts.error("it holds no low-rank terms");
    const auto check = [&](const TensorEntry& entry, std::vector<std::uint64_t> wanted) {
        if (entry.dims == wanted) return;
        throw parts.error("tensor '" + escaped(entry.name, 256) + "' has shape " +
                              text(entry.dims) + ", the model wants " + text(wanted),
                          "mismatched adapter: it was made for another model");
    };
    for (const SourceTensor& tensor : source.tensors()) {
        const auto at = stored_.find(&tensor);
        if (at == stored_.end()) continue;
        const AdapterParts::Stored& stored = at->second;
        if (stored.a == nullptr || stored.b == nullptr) {
            throw parts.error("of the terms of '" + tensor.name + "' " +
                              (stored.a == nullptr ? "A" : "B") + " is missing");
        }
        if ((stored.lengths != nullptr) != parts.adapter.settings.dora) {
            throw parts.error("the matrix '" + tensor.name + "' has " +
                              (stored.lengths ? "lengths of rows, which only DoRA has"
                                              : "no lengths of rows, which DoRA needs"));
        }
        const std::uint64_t rank = stored.a->dims.empty() ? 0 : stored.a->dims[0];
        if (rank == 0)
            throw parts.error("tensor '" + escaped(stored.a->name, 256) + "' has no rank");
        check(*stored.a, {rank, tensor.dims[1]});
        check(*stored.b, {tensor.dims[0], rank});
        if (stored.lengths != nullptr) check(*stored.lengths, {tensor.dims[0]});
        AdapterMatrix matrix;
        matrix.tensor = &tensor;
        matrix.rank = static_cast<std::int64_t>(rank);
        matrix.alpha = alpha_of(tensor, matrix.rank);
        parts.adapter.matrices.push_back(matrix);
        parts.stored.push_back(stored);
    }
}

AdapterFile::AdapterFile(const std::string& path, const ModelSource& source) {
    const bool directory = std::filesystem::is_directory(path);
    if (!directory && (path.ends_with(".safetensors") || path.ends_with(".json"))) {
        throw Error(Exit::kBadData, escaped(path, 1024), "a PEFT adapter is named by its directory",
                    "give the directory that holds the file");
    }
    parts_ = std::make_unique<Parts>(directory ? open_peft(path, source)
                                               : parse_gguf_adapter(ModelFile::open(path), source));
    parts_->path = path;
}

AdapterFile::AdapterFile(std::unique_ptr<ModelFile> file, const Json& config,
                         const ModelSource& source)
    : parts_(std::make_unique<Parts>(
          file->container() == Container::kGguf
              ? parse_gguf_adapter(std::move(file), source)
              : parse_peft(std::move(file), config, "adapter_config.json", source))) {}

AdapterFile::~AdapterFile() = default;
AdapterFile::AdapterFile(AdapterFile&& other) noexcept = default;

const std::string& AdapterFile::path() const noexcept { return parts_->path; }
const Adapter& AdapterFile::adapter() const noexcept { return parts_->adapter; }

std::vector<std::string> AdapterFile::files() const {
    std::vector<std::string> files = parts_->beside;
    for (const std::string& file : parts_->file->files()) files.push_back(file);
    return files;
}

std::size_t AdapterFile::value_bytes(std::size_t index) const noexcept {
    const AdapterMatrix& m = parts_->adapter.matrices[index];
    return float_bytes(m.rank, m.in()) + float_bytes(m.out(), m.rank) +
           (parts_->adapter.settings.dora ? float_bytes(1, m.out()) : 0);
}

std::size_t AdapterFile::value_bytes() const noexcept {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < parts_->stored.size(); ++i) sum += value_bytes(i);
    return sum;
}

namespace {

// Row r of the tensor becomes row row_of(r) (empty: r) of out.
void read_floats(const AdapterParts& parts, const TensorEntry& entry, Shape2 shape,
                 const std::function<std::int64_t(std::int64_t)>& row_of, float* out) {
    const LayoutId layout = layout_of(entry.type).value();
    const PackedForm form = block_form(layout, shape);
    const std::int64_t most = piece_rows(shape);
    std::vector<std::byte> raw(form.bytes(most));
    std::vector<float> values(static_cast<std::size_t>(most * shape.cols));
    for (std::int64_t first = 0; first < shape.rows; first += most) {
        const std::int64_t rows = std::min(most, shape.rows - first);
        const std::size_t row_bytes = form.planes[0].row_bytes;
        parts.file->read(entry, static_cast<std::uint64_t>(first) * row_bytes,
                         std::span(raw).first(static_cast<std::size_t>(rows) * row_bytes));
        format_of(layout).decode(form.view({rows, shape.cols}, raw.data()), {0, rows},
                                 {values.data(), DType::kF32, rows, shape.cols, shape.cols});
        const auto end = values.begin() + rows * shape.cols;
        if (!std::all_of(values.begin(), end, [](float v) { return std::isfinite(v); }))
            throw parts.error("tensor '" + escaped(entry.name, 256) +
                              "' has a value that is infinite or not a number");
        for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t to = row_of ? row_of(first + r) : first + r;
            std::memcpy(out + to * shape.cols, values.data() + r * shape.cols,
                        static_cast<std::size_t>(shape.cols) * sizeof(float));
        }
    }
}

}  // namespace

AdapterMatrix AdapterFile::read(std::size_t index, std::byte* memory) const {
    const Parts& parts = *parts_;
    AdapterMatrix m = parts.adapter.matrices[index];
    const Parts::Stored& stored = parts.stored[index];
    std::function<std::int64_t(std::int64_t)> row_of;
    if (parts.hf_rows) row_of = canonical_rows(*m.tensor, parts.head_dim);
    const auto take = [&](const TensorEntry& entry, Shape2 shape, bool of_output) {
        auto* out = reinterpret_cast<float*>(memory);
        memory += float_bytes(shape.rows, shape.cols);
        read_floats(parts, entry, shape, of_output ? row_of : nullptr, out);
        return out;
    };
    m.a = take(*stored.a, {m.rank, m.in()}, false);
    m.b = take(*stored.b, {m.out(), m.rank}, true);
    if (stored.lengths != nullptr) m.lengths = take(*stored.lengths, {m.out(), 1}, true);
    return m;
}

Adapter AdapterFile::read(std::byte* memory) const {
    Adapter adapter{parts_->adapter.settings, {}};
    for (std::size_t i = 0; i < parts_->stored.size(); ++i) {
        adapter.matrices.push_back(read(i, memory));
        memory += value_bytes(i);
    }
    return adapter;
}

void write_floats(TensorWriter& writer, std::size_t tensor, const FloatMatrix& matrix,
                  TensorType type) {
    const Shape2 shape = matrix.shape;
    const LayoutId layout = layout_of(type).value();
    const auto encoder = format_of(layout).encoder(shape, {});
    const std::int64_t most = piece_rows(shape);
    std::vector<float> values(static_cast<std::size_t>(most * shape.cols));
    std::vector<std::byte> bytes;
    std::uint64_t offset = 0;
    for (std::int64_t first = 0; first < shape.rows; first += most) {
        const std::int64_t rows = std::min(most, shape.rows - first);
        for (std::int64_t r = 0; r < rows; ++r) {
            const std::int64_t from = matrix.row_of ? matrix.row_of(first + r) : first + r;
            for (std::int64_t c = 0; c < shape.cols; ++c) {
                const float v = matrix.values[from * shape.cols + c];
                values[static_cast<std::size_t>(r * shape.cols + c)] =
                    matrix.factor == 1 ? v
                                       : static_cast<float>(matrix.factor * static_cast<double>(v));
            }
        }
        bytes.clear();
        Bytes sink(bytes);
        encoder->encode(first, std::span(values).first(static_cast<std::size_t>(rows * shape.cols)),
                        sink);
        writer.write(tensor, offset, bytes);
        offset += bytes.size();
    }
}

}  // namespace thimble
