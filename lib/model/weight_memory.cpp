// SPDX-License-Identifier: Apache-2.0
#include "model/weight_memory.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/checked.h"
#include "core/error.h"
#include "format/weight_format.h"
#include "model/device_loader.h"
#include "model/factored_tensor.h"
#include "ops/kept.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

Shape2 shape_of(const SourceTensor& tensor) { return {tensor.rows(), tensor.cols()}; }

std::int64_t piece_rows(const SourceTensor& tensor) {
    const std::size_t row = tensor.form.bytes(1);
    const auto groups = static_cast<std::int64_t>(kPieceBytes / row) / ops::kRepackRows;
    return std::min(tensor.rows(), std::max<std::int64_t>(groups, 1) * ops::kRepackRows);
}

std::uint64_t vector_bytes(const View& v) {
    return static_cast<std::uint64_t>(v.cols) * size_of(v.dtype);
}

}  // namespace

LayoutId working_layout(const SourceTensor& tensor, const Exec& exec, bool repack) {
    const LayoutId stored = tensor.layout();
    if (!repack || exec.device != Device::kCpu) return stored;
    if (working_skips(tensor, exec, repack) != Skips::kNothing) return stored;
    // Bit planes are multiplied as they are stored.
    if (plane_bits(ops::activations_for(stored, exec)) != 0) return stored;
    return ops::resident_layout(stored, tensor.form.params).value_or(stored);
}

Skips working_skips(const SourceTensor& tensor, const Exec& exec, bool repack) {
    const bool can =
        repack && exec.device == Device::kCpu && !tensor.packed && ops::reads_rows(tensor.layout());
    return can ? tensor.skips : Skips::kNothing;
}

bool stays_coded(const SourceTensor& tensor, const Exec& exec) noexcept {
    return exec.device == Device::kCpu && tensor.packed && tensor.packed->kept_bytes() > 0;
}

PackedView transposed_view(const SourceTensor& tensor, const std::byte* data) {
    const Shape2 shape{tensor.cols(), tensor.rows()};
    return block_form(tensor.layout(), shape).view(shape, data);
}

void verify_weights(const ModelSource& source, const Exec& exec, const SourceTensor& tensor,
                    std::int64_t first, const PackedView& piece) {
    const WeightFormat& format = format_of(piece.layout);
    try {
        const std::int64_t grain = ceil_div<std::int64_t>(piece.shape.rows, 8);
        exec.team->run(piece.shape.rows, grain, [&](std::int64_t begin, std::int64_t end) {
            format.verify(piece, {begin, end - begin});
        });
    } catch (const Error& e) {
        throw Error(e.exit(), escaped(source.file().path(), 1024),
                    "tensor '" + tensor.name + "', from row " + std::to_string(first) +
                        " on: " + e.where() + ": " + e.problem());
    }
}

void verify_coded(const ModelSource& source, const Exec& exec, const SourceTensor& tensor,
                  const ops::CodedMatrix& matrix) {
    const std::int64_t step = matrix.chunks().strip_rows();
    exec.team->run(matrix.chunks().strips(), 1, [&](std::int64_t s, std::int64_t) {
        std::vector<std::uint16_t> numbers(matrix.strip_bytes() / sizeof(std::uint16_t));
        const char* problem = "has damaged codes";
        if (matrix.decode_groups(s, 1, numbers.data())) {
            constexpr std::uint16_t kExponent = 0x7f80;
            const auto end = numbers.begin() + matrix.chunks().rows_of(s) * matrix.chunks().cols;
            if (std::none_of(numbers.begin(), end,
                             [](std::uint16_t x) { return (x & kExponent) == kExponent; }))
                return;
            problem = "has a weight that is not a finite number";
        }
        throw Error(Exit::kBadData, escaped(source.file().path(), 1024),
                    "tensor '" + tensor.name + "' " + problem + ", from row " +
                        std::to_string(s * step) + " on");
    });
}

void WeightMemory::add_matrix(const SourceTensor& tensor, bool multiplied) {
    if (!matrices_.try_emplace(&tensor).second) return;
    Placed place;
    place.tensor = &tensor;
    place.layout = working_layout(tensor, exec_, repack_ && multiplied);
    place.offset = bytes_;
    if (on_device()) {
        place.bytes = device_matrix_bytes(tensor);
        bytes_ += place.bytes;
        staging_bytes_ = std::max(staging_bytes_, DeviceLoader::staging_bytes(tensor));
        places_.push_back(place);
        return;
    }
    if (keep_coded_ && stays_coded(tensor, exec_)) {
        place.coded = true, place.layout = tensor.layout();
        place.bytes = tensor.packed->kept_bytes();
        bytes_ += weight_aligned(place.bytes);
        places_.push_back(place);
        return;
    }
    place.transposed = working_skips(tensor, exec_, repack_ && multiplied) == Skips::kInputs;
    const bool repacked = place.layout != tensor.layout() || place.transposed;
    place.bytes = repacked ? ops::packed_bytes(place.layout, shape_of(tensor), tensor.form.params)
                           : tensor.form.bytes(tensor.rows());
    bytes_ += weight_aligned(place.bytes);
    if (repacked) staging_bytes_ = std::max(staging_bytes_, tensor.form.bytes(piece_rows(tensor)));
    places_.push_back(place);
}

void WeightMemory::add_vector(const SourceTensor& tensor) {
    if (!vectors_.try_emplace(&tensor).second) return;
    const std::size_t bytes = static_cast<std::size_t>(tensor.cols()) * size_of(exec_.dtype());
    places_.push_back({&tensor, LayoutId::k_f32, bytes_, bytes});
    bytes_ += on_device() ? device_vector_bytes(tensor) : weight_aligned(bytes);
}

void WeightMemory::add_unit(const UnitSpec& unit, bool multiplied) {
    for (const auto& m : unit.matrices)
        for (const MatrixPart& part : parts_of(*m.weight)) add_matrix(*part.tensor, multiplied);
    add_vectors(unit);
}

void WeightMemory::add_vectors(const UnitSpec& unit) {
    for (const auto& m : unit.matrices) {
        if (m.bias) add_vector(*m.bias);
        if (m.input_norm) add_vector(*m.input_norm);
    }
    for (const auto& v : unit.vectors) add_vector(*v.weight);
}

void WeightMemory::load_on_device() {
    memory_ = Buffer(bytes_, Purpose::kWeights, Place::kDevice);
    DeviceLoader loader(source_, *exec_.cuda, staging_bytes_);
    for (const Placed& place : places_) {
        const SourceTensor& tensor = *place.tensor;
        std::byte* const at = memory_.data() + place.offset;
        const auto matrix = matrices_.find(&tensor);
        if (matrix != matrices_.end()) {
            matrix->second = device_form(tensor).view(shape_of(tensor), at);
            loader.load(tensor, matrix->second, Place::kDevice);
        } else {
            vectors_.at(&tensor) = {at, DType::kF32, 1, tensor.cols(), tensor.cols()};
            loader.load(tensor, vectors_.at(&tensor), Place::kDevice);
        }
    }
}

void WeightMemory::load() {
    if (on_device()) return load_on_device();
    memory_ = Buffer(bytes_, Purpose::kWeights);
    Buffer staging(staging_bytes_, Purpose::kIo);
    for (const Placed& place : places_) {
        const auto matrix = matrices_.find(place.tensor);
        if (matrix != matrices_.end()) {
            matrix->second = load_matrix(place, staging.data());
        } else {
            vectors_.at(place.tensor) = load_vector(place);
        }
    }
}

UnitWeights WeightMemory::unit(const UnitSpec& unit) const {
    UnitWeights weights;
    for (const auto& m : unit.matrices) {
        weights.matrices.push_back(linear(m, {}));
        for (const MatrixPart& part : parts_of(*m.weight))
            set_part(weights.matrices.back(), part.kind, matrix(*part.tensor));
    }
    for (const auto& v : unit.vectors) weights.vectors.push_back(vector(*v.weight));
    return weights;
}

Linear WeightMemory::linear(const UnitSpec::Matrix& m, const PackedView& weight) const {
    Linear linear{weight, std::nullopt};
    linear.skips = working_skips(*m.weight, exec_, repack_);
    if (m.bias) linear.bias = vector(*m.bias);
    if (m.input_norm) linear.coded = CodedInput{vector(*m.input_norm), m.input_norm_epsilon};
    return linear;
}

PackedView WeightMemory::load_matrix(const Placed& place, std::byte* staging) {
    const SourceTensor& tensor = *place.tensor;
    std::byte* out = memory_.data() + place.offset;
    if (place.coded) return load_coded(place);
    if (place.transposed) return load_transposed(tensor, out, staging);
    if (place.layout == tensor.layout()) return load_stored(tensor, out);
    PackedView whole;
    const std::int64_t step = piece_rows(tensor);
    for (std::int64_t first = 0; first < tensor.rows(); first += step) {
        const std::int64_t count = std::min(step, tensor.rows() - first);
        const PackedView piece = source_.read_packed(tensor, first, count, staging);
        verify_weights(source_, exec_, tensor, first, piece);
        std::byte* at =
            out + ops::packed_bytes(place.layout, {first, tensor.cols()}, tensor.form.params);
        const PackedView packed = ops::repack(exec_, piece, place.layout, at);
        if (first == 0) whole = packed;
    }
    whole.shape = shape_of(tensor);
    whole.planes[0].data = out;
    whole.planes[0].bytes = place.bytes;
    return whole;
}

PackedView WeightMemory::load_transposed(const SourceTensor& tensor, std::byte* out,
                                         std::byte* staging) {
    const std::int64_t step = piece_rows(tensor);
    for (std::int64_t first = 0; first < tensor.rows(); first += step) {
        const std::int64_t count = std::min(step, tensor.rows() - first);
        const PackedView piece = source_.read_packed(tensor, first, count, staging);
        verify_weights(source_, exec_, tensor, first, piece);
        ops::transpose_piece(exec_, piece, first, tensor.rows(), out);
    }
    return transposed_view(tensor, out);
}

PackedView WeightMemory::load_coded(const Placed& place) {
    const SourceTensor& tensor = *place.tensor;
    auto matrix = tensor.packed->keep(source_.file(), memory_.data() + place.offset, exec_.isa);
    verify_coded(source_, exec_, tensor, *matrix);
    PackedView view;
    view.layout = place.layout;
    view.shape = shape_of(tensor);
    view.n_planes = 1;
    view.planes[0] = {nullptr, tensor.form.bytes(1), tensor.packed->stored_bytes()};
    view.coded = matrix.get();
    coded_.push_back(std::move(matrix));
    return view;
}

// Plane by plane into its place.
PackedView WeightMemory::load_stored(const SourceTensor& tensor, std::byte* out) {
    const PackedView whole = tensor.form.view(shape_of(tensor), out);
    const std::int64_t step = piece_rows(tensor);
    for (std::size_t p = 0; p < tensor.form.planes.size(); ++p) {
        std::byte* plane = out + tensor.form.plane_offset(p, tensor.rows());
        const std::size_t row_bytes = tensor.form.planes[p].row_bytes;
        if (row_bytes == 0) {
            if (whole.planes[p].bytes > 0)
                source_.read_plane(tensor, p, {}, {plane, whole.planes[p].bytes});
            continue;
        }
        for (std::int64_t first = 0; first < tensor.rows(); first += step) {
            const RowRange rows{first, std::min(step, tensor.rows() - first)};
            source_.read_plane(tensor, p, rows,
                               {plane + static_cast<std::size_t>(first) * row_bytes,
                                static_cast<std::size_t>(rows.count) * row_bytes});
        }
    }
    verify_weights(source_, exec_, tensor, 0, whole);
    return whole;
}

template <class Real>
std::vector<Real> read_vector_as(const ModelSource& source, const SourceTensor& tensor) {
    std::vector<Real> values(static_cast<std::size_t>(tensor.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, 1, values.data(), scratch);
    const auto bad =
        std::find_if_not(values.begin(), values.end(), [](Real v) { return std::isfinite(v); });
    if (bad != values.end()) {
        throw Error(Exit::kBadData, escaped(source.file().path(), 1024),
                    "tensor '" + tensor.name + "', element " +
                        std::to_string(bad - values.begin()) + " is not a finite number");
    }
    return values;
}

std::vector<float> read_vector(const ModelSource& source, const SourceTensor& tensor) {
    return read_vector_as<float>(source, tensor);
}

View WeightMemory::load_vector(const Placed& place) {
    const SourceTensor& tensor = *place.tensor;
    std::byte* out = memory_.data() + place.offset;
    const auto put = [&]<class Real>(const std::vector<Real>& values) {
        std::copy(values.begin(), values.end(), reinterpret_cast<Real*>(out));
    };
    if (exec_.dtype() == DType::kF64) {
        put(read_vector_as<double>(source_, tensor));
    } else {
        put(read_vector(source_, tensor));
    }
    return {out, exec_.dtype(), 1, tensor.cols(), tensor.cols()};
}

std::uint64_t bytes_per_token_of(const std::vector<UnitWeights>& units) {
    std::uint64_t bytes = 0;
    for (std::size_t u = 1; u < units.size(); ++u) {
        for (const Linear& m : units[u].matrices) {
            bytes += m.weight.bytes();
            if (m.factors) bytes += m.factors->a.bytes() + m.factors->b.bytes();
            if (m.bias) bytes += vector_bytes(*m.bias);
            if (m.coded) bytes += vector_bytes(m.coded->norm);
        }
        for (const View& v : units[u].vectors) bytes += vector_bytes(v);
    }
    const PackedView& table = units[0].matrices[0].weight;
    return bytes + table.bytes() / static_cast<std::uint64_t>(table.shape.rows);
}

}  // namespace thimble
