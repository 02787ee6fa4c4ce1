// SPDX-License-Identifier: Apache-2.0
// Every weight in memory, read once at load piece by piece, checked, and repacked into the layout
// that this machine multiplies fastest.
// differs: the design page maps the file and drops pages behind the repacking. Reading pieces into
// one huge-page buffer keeps the ledger's peak at the weights plus one piece (a mapping is charged
// whole before it is dropped), survives a file that shrinks while in use, and lets a tensor that
// needs no repacking sit on huge pages too.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/checked.h"
#include "core/error.h"
#include "format/weight_format.h"
#include "model/store.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

struct Placement {
    LayoutId layout = LayoutId::k_f32;
    std::size_t offset = 0, bytes = 0;
};

// Where each tensor lies in the one buffer.
struct Arrangement {
    std::vector<UnitSpec> units;
    std::map<const SourceTensor*, Placement> places;
    std::size_t total_bytes = 0, staging_bytes = 0;
};

Shape2 shape_of(const SourceTensor& tensor) { return {tensor.rows(), tensor.cols()}; }

std::int64_t piece_rows(const SourceTensor& tensor) {
    const std::size_t row = tensor.form.bytes(1);
    const auto groups = static_cast<std::int64_t>(kPieceBytes / row) / ops::kRepackRows;
    return std::min(tensor.rows(), std::max<std::int64_t>(groups, 1) * ops::kRepackRows);
}

void place_matrix(const SourceTensor& tensor, bool repack, Arrangement& a) {
    if (a.places.count(&tensor) > 0) return;
    const LayoutId stored = tensor.layout();
    Placement place;
    place.layout = stored;
    if (repack) {
        place.layout = ops::resident_layout(stored).value_or(place.layout);
    }
    place.offset = a.total_bytes;
    place.bytes = place.layout == stored ? tensor.form.bytes(tensor.rows())
                                         : ops::packed_bytes(place.layout, shape_of(tensor));
    a.total_bytes += aligned(place.bytes);
    if (place.layout != stored) {
        a.staging_bytes = std::max(a.staging_bytes, tensor.form.bytes(piece_rows(tensor)));
    }
    a.places.emplace(&tensor, place);
}

void place_vector(const SourceTensor& tensor, const Exec& exec, Arrangement& a) {
    const std::size_t bytes = static_cast<std::size_t>(tensor.cols()) * size_of(exec.dtype());
    a.places.emplace(&tensor, Placement{LayoutId::k_f32, a.total_bytes, bytes});
    a.total_bytes += aligned(bytes);
}

Arrangement arrange(const ModelSource& source, const Exec& exec, const StoreOptions& options) {
    Arrangement a;
    a.units = units_of(source);
    const bool repack = options.repack && exec.device == Device::kCpu;
    for (std::size_t u = 0; u < a.units.size(); ++u) {
        // Rows of an embedding that is no head are looked up, never multiplied.
        const bool multiplied = u > 0 || source.spec().tied_embedding;
        for (const auto& m : a.units[u].matrices) {
            place_matrix(*m.weight, repack && multiplied, a);
            if (m.bias) place_vector(*m.bias, exec, a);
        }
        for (const auto& v : a.units[u].vectors) place_vector(*v.weight, exec, a);
    }
    return a;
}

class ResidentStore final : public WeightStore {
  public:
    ResidentStore(const ModelSource& source, const Exec& exec, const StoreOptions& options)
        : source_(source), exec_(exec), arrangement_(arrange(source, exec, options)) {
        memory_ = Buffer(arrangement_.total_bytes, Purpose::kWeights);
        Buffer staging(arrangement_.staging_bytes, Purpose::kIo);
        std::map<const SourceTensor*, PackedView> loaded;
        for (const UnitSpec& unit : arrangement_.units) {
            UnitWeights weights;
            for (const auto& m : unit.matrices) {
                const auto [at, is_new] = loaded.try_emplace(m.weight);
                if (is_new) at->second = load_matrix(*m.weight, staging);
                Linear linear{at->second, std::nullopt};
                if (m.bias) linear.bias = load_vector(*m.bias);
                weights.matrices.push_back(linear);
            }
            for (const auto& v : unit.vectors) weights.vectors.push_back(load_vector(*v.weight));
            units_.push_back(std::move(weights));
        }
    }

    Lease acquire(UnitId unit) override { return {*this, unit, weights_of(unit)}; }

    std::uint64_t bytes_per_token() const noexcept override {
        std::uint64_t bytes = 0;
        for (std::size_t u = 1; u < units_.size(); ++u) {
            for (const Linear& m : units_[u].matrices) {
                bytes += m.weight.bytes();
                if (m.bias) bytes += vector_bytes(*m.bias);
            }
            for (const View& v : units_[u].vectors) bytes += vector_bytes(v);
        }
        const PackedView& table = units_[0].matrices[0].weight;
        return bytes + table.bytes() / static_cast<std::uint64_t>(table.shape.rows);
    }

  private:
    void release(UnitId) noexcept override {}

    const UnitWeights& weights_of(UnitId unit) const {
        if (unit.kind == UnitKind::kEmbedding) return units_.front();
        if (unit.kind == UnitKind::kHead) return units_.back();
        return units_[static_cast<std::size_t>(unit.layer) + 1];
    }

    static std::uint64_t vector_bytes(const View& v) {
        return static_cast<std::uint64_t>(v.cols) * size_of(v.dtype);
    }

    PackedView load_matrix(const SourceTensor& tensor, Buffer& staging) {
        const Placement& place = arrangement_.places.at(&tensor);
        std::byte* out = memory_.data() + place.offset;
        if (place.layout == tensor.layout()) return load_stored(tensor, out);
        PackedView whole;
        const std::int64_t step = piece_rows(tensor);
        for (std::int64_t first = 0; first < tensor.rows(); first += step) {
            const std::int64_t count = std::min(step, tensor.rows() - first);
            const PackedView piece = source_.read_packed(tensor, first, count, staging.data());
            verify(tensor, first, piece);
            std::byte* at = out + ops::packed_bytes(place.layout, {first, tensor.cols()});
            const PackedView packed = ops::repack(exec_, piece, place.layout, at);
            if (first == 0) whole = packed;
        }
        whole.shape = shape_of(tensor);
        whole.planes[0].data = out;
        whole.planes[0].bytes = place.bytes;
        return whole;
    }

    // Plane by plane into its place.
    PackedView load_stored(const SourceTensor& tensor, std::byte* out) {
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
        verify(tensor, 0, whole);
        return whole;
    }

    // No weight or scale may be infinite or NaN.
    void verify(const SourceTensor& tensor, std::int64_t first, const PackedView& piece) {
        const WeightFormat& format = format_of(piece.layout);
        try {
            const std::int64_t grain = ceil_div<std::int64_t>(piece.shape.rows, 8);
            exec_.team->run(piece.shape.rows, grain, [&](std::int64_t begin, std::int64_t end) {
                format.verify(piece, {begin, end - begin});
            });
        } catch (const Error& e) {
            throw Error(e.exit(), escaped(source_.file().path(), 1024),
                        "tensor '" + tensor.name + "', from row " + std::to_string(first) +
                            " on: " + e.where() + ": " + e.problem());
        }
    }

    View load_vector(const SourceTensor& tensor) {
        std::vector<float> values(static_cast<std::size_t>(tensor.cols()));
        std::vector<std::byte> scratch;
        source_.read_rows(tensor, 0, 1, values.data(), scratch);
        const auto bad = std::find_if_not(values.begin(), values.end(),
                                          [](float v) { return std::isfinite(v); });
        if (bad != values.end()) {
            throw Error(Exit::kBadData, escaped(source_.file().path(), 1024),
                        "tensor '" + tensor.name + "', element " +
                            std::to_string(bad - values.begin()) + " is not a finite number");
        }
        std::byte* out = memory_.data() + arrangement_.places.at(&tensor).offset;
        if (exec_.dtype() == DType::kF64) {
            std::copy(values.begin(), values.end(), reinterpret_cast<double*>(out));
        } else {
            std::copy(values.begin(), values.end(), reinterpret_cast<float*>(out));
        }
        return {out, exec_.dtype(), 1, tensor.cols(), tensor.cols()};
    }

    const ModelSource& source_;
    Exec exec_;
    Arrangement arrangement_;
    Buffer memory_;
    std::vector<UnitWeights> units_;
};

}  // namespace

StorePlan plan_resident_store(const ModelSource& source, const Exec& exec,
                              const StoreOptions& options) {
    const Arrangement a = arrange(source, exec, options);
    return {Buffer::charged_bytes(a.total_bytes), Buffer::charged_bytes(a.staging_bytes)};
}

std::unique_ptr<WeightStore> make_resident_store(const ModelSource& source, const Exec& exec,
                                                 const StoreOptions& options) {
    return std::make_unique<ResidentStore>(source, exec, options);
}

}  // namespace thimble
