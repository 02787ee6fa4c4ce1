// SPDX-License-Identifier: Apache-2.0
#include "compress/factor_writer.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "model/factored_tensor.h"
#include "ops/encode.h"
#include "text/tokenizer.h"

namespace thimble {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;

std::uint64_t bytes_of(const PackedForm& form) {
    std::uint64_t sum = 0;
    for (const PlaneInfo& plane : form.planes) sum += plane.bytes;
    return sum;
}

// A plane of a tensor in the file, piece by piece.
class Planes final : public PlaneSink {
  public:
    Planes(const FactorOutput& tensor, TensorWriter& writer) : writer_(writer) {
        std::size_t spec = tensor.first_spec;
        for (std::size_t p = 0; p < tensor.form.planes.size(); ++p)
            places_[p].spec = tensor.form.planes[p].bytes > 0 ? spec++ : spec;
    }
    void append(int plane, std::span<const std::byte> bytes) override {
        if (bytes.empty()) return;
        Place& place = places_[static_cast<std::size_t>(plane)];
        writer_.write(place.spec, place.offset, bytes);
        place.offset += bytes.size();
    }

  private:
    struct Place {
        std::size_t spec = 0;
        std::uint64_t offset = 0;
    };
    TensorWriter& writer_;
    std::array<Place, kMaxPlanes> places_{};
};

std::int64_t piece_rows(const SourceTensor& tensor) {
    const auto row_bytes = tensor.cols() * std::int64_t{sizeof(float)};
    return std::clamp<std::int64_t>(kPieceBytes / row_bytes, 1, tensor.rows());
}

}  // namespace

std::uint64_t factored_bytes(const WeightFormat& format, Shape2 shape, std::int64_t rank) {
    return bytes_of(form_of(format, {rank, shape.cols})) +
           bytes_of(form_of(format, {shape.rows, rank}));
}

FactorWriter::FactorWriter(const ModelSource& source, const FactorChoices& choices)
    : source_(source) {
    for (const SourceTensor& tensor : source.tensors()) {
        const auto choice = choices.find(&tensor);
        const Shape2 shape{tensor.rows(), tensor.cols()};
        if (choice != choices.end() && choice->second.rank > 0) {
            const auto& [rank, format] = choice->second;
            Pair pair;
            pair.a = {&tensor, factor_a_name(tensor.name), {rank, shape.cols}, format, {}, 0};
            pair.b = {&tensor, factor_b_name(tensor.name), {shape.rows, rank}, format, {}, 0};
            for (FactorOutput* factor : {&pair.a, &pair.b}) {
                factor->form = form_of(*format, factor->shape);
                add_spec(*factor);
            }
            factors_.emplace(&tensor, std::move(pair));
            continue;
        }
        FactorOutput out{&tensor, tensor.name, shape, nullptr, tensor.form, 0};
        const bool as_stored = tensor.is_stored() && tensor.add == 0 &&
                               (tensor.is_matrix || !tensor.source_row) &&
                               factored_of(tensor) == nullptr;
        if (!as_stored) {
            out.format = shared_format_of(LayoutId::k_f32);
            out.form = form_of(*out.format, shape);
        }
        add_spec(out);
        copied_.push_back(std::move(out));
    }
}

void FactorWriter::add_spec(FactorOutput& tensor) {
    tensor.first_spec = specs_.size();
    if (has_planes(tensor.form.layout)) {
        for (TensorSpec& spec : plane_specs(tensor.name, tensor.form))
            specs_.push_back(std::move(spec));
        return;
    }
    std::vector<std::uint64_t> dims = {static_cast<std::uint64_t>(tensor.shape.cols)};
    if (tensor.from->dims.size() == 2)
        dims.insert(dims.begin(), static_cast<std::uint64_t>(tensor.shape.rows));
    specs_.push_back({tensor.name, *tensor_type_of(tensor.form.layout), dims});
}

Metadata FactorWriter::metadata() const {
    Metadata out = source_.gguf_metadata();
    if (source_.file().container() == Container::kHuggingFace)
        Tokenizer::open(source_.file())->write_vocabulary(out);
    for (const char* key : {"split.no", "split.count", "split.tensors.count", "general.file_type"})
        out.erase(key);
    const auto describe = [&](const FactorOutput& tensor) {
        if (has_planes(tensor.form.layout))
            out.set(std::string(kFormatKey) + tensor.name,
                    describe_planes(tensor.form, tensor.shape));
    };
    for (const FactorOutput& tensor : copied_) describe(tensor);
    for (const auto& tensor : source_.tensors()) {
        const auto pair = factors_.find(&tensor);
        if (pair == factors_.end()) continue;
        out.set(std::string(kFormatKey) + tensor.name,
                describe_factors({tensor.rows(), tensor.cols()}, pair->second.a.shape.rows));
        describe(pair->second.a);
        describe(pair->second.b);
    }
    return out;
}

void FactorWriter::copy(const FactorOutput& tensor, TensorWriter& writer) const {
    const SourceTensor& from = *tensor.from;
    const std::int64_t step = piece_rows(from);
    Planes planes(tensor, writer);
    std::vector<std::byte> bytes;
    if (!tensor.format) {
        for (std::size_t p = 0; p < from.form.planes.size(); ++p) {
            const PlaneInfo& plane = from.form.planes[p];
            if (plane.bytes == 0) continue;
            const std::int64_t count = plane.row_bytes == 0 ? from.rows() : step;
            for (std::int64_t first = 0; first < from.rows(); first += count) {
                const RowRange rows{first, std::min(count, from.rows() - first)};
                bytes.resize(from.form.plane_bytes(p, rows.count));
                source_.read_plane(from, p, rows, bytes);
                planes.append(static_cast<int>(p), bytes);
            }
        }
        return;
    }
    const std::unique_ptr<Encoder> encoder = tensor.format->encoder(tensor.shape, {});
    std::vector<float> values;
    for (std::int64_t first = 0; first < from.rows(); first += step) {
        const std::int64_t count = std::min(step, from.rows() - first);
        values.resize(static_cast<std::size_t>(count * from.cols()));
        source_.read_rows(from, first, count, values.data(), bytes);
        encoder->encode(first, values, planes);
    }
}

void FactorWriter::encode(const FactorOutput& tensor, std::span<const float> values, Isa isa,
                          TensorWriter& writer) try {
    const std::unique_ptr<Encoder> encoder = ops::encoder(isa, *tensor.format, tensor.shape, {});
    if (tensor.format->info().needs_scan) encoder->scan(0, values);
    Planes planes(tensor, writer);
    encoder->encode(0, values, planes);
} catch (const Error& e) {
    if (e.exit() != Exit::kBadData) throw;
    throw Error(e.exit(), "'" + tensor.name + "', " + e.where(), e.problem(), e.hint());
}

void FactorWriter::store(const SourceTensor& matrix, std::span<const float> a,
                         std::span<const float> b, Isa isa, TensorWriter& writer) const {
    const Pair& pair = factors_.at(&matrix);
    encode(pair.a, a, isa, writer);
    encode(pair.b, b, isa, writer);
}

std::uint64_t FactorWriter::buffer_bytes(const ModelSource& source) {
    std::int64_t most = 0;
    for (const SourceTensor& tensor : source.tensors())
        most = std::max(most, piece_rows(tensor) * tensor.cols() * std::int64_t{8});
    return static_cast<std::uint64_t>(most);
}

}  // namespace thimble
