// SPDX-License-Identifier: Apache-2.0
// Support of the kernel tests: the levels this machine has, seeded data, matrices encoded in any
// layout, activations with NaN around and between their rows, and bounds computed from norms.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/cpu.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"
#include "kernels/layout/rng.h"
#include "ops/ops.h"

namespace thimble::test {

inline std::vector<Isa> levels() {
    std::vector<Isa> out;
    for (int i = 0; i <= static_cast<int>(best_isa()); ++i) out.push_back(static_cast<Isa>(i));
    return out;
}

// Deterministic values, roughly normal with the given deviation.
class Random {
  public:
    explicit Random(std::uint64_t seed) : seed_(seed) {}
    float unit() { return unit_float(philox(seed_, counter_++).v[0]); }
    float normal(float deviation = 1) {
        const Philox4 r = philox(seed_, counter_++);
        float sum = -2;
        for (const std::uint32_t v : r.v) sum += unit_float(v);
        return sum * 1.7320508f * deviation;
    }
    std::vector<float> normals(std::int64_t n, float deviation = 1) {
        std::vector<float> out(static_cast<std::size_t>(n));
        for (float& x : out) x = normal(deviation);
        return out;
    }

  private:
    std::uint64_t seed_, counter_ = 0;
};

// A view whose rows lie apart, with guard elements around and between them that must not change
// (and that poison whoever reads them).
class Guarded {
  public:
    Guarded(DType dtype, std::int64_t rows, std::int64_t cols)
        : dtype_(dtype), rows_(rows), cols_(cols), stride_(cols + 7) {
        bytes_.assign(static_cast<std::size_t>(rows * stride_ + 16) * size_of(dtype), 0xff);
    }
    Guarded(const Exec& exec, const std::vector<float>& values, std::int64_t rows)
        : Guarded(exec.dtype(), rows, std::ssize(values) / std::max<std::int64_t>(rows, 1)) {
        for (std::int64_t r = 0; r < rows; ++r) {
            for (std::int64_t c = 0; c < cols_; ++c)
                set(r, c, static_cast<double>(values[static_cast<std::size_t>(r * cols_ + c)]));
        }
    }
    [[nodiscard]] View view() {
        return {bytes_.data() + 8 * size_of(dtype_), dtype_, rows_, cols_, stride_};
    }
    [[nodiscard]] double at(std::int64_t r, std::int64_t c) {
        return dtype_ == DType::kF64 ? view().row<double>(r)[c]
                                     : static_cast<double>(view().row<float>(r)[c]);
    }
    void set(std::int64_t r, std::int64_t c, double x) {
        if (dtype_ == DType::kF64) {
            view().row<double>(r)[c] = x;
        } else {
            view().row<float>(r)[c] = static_cast<float>(x);
        }
    }
    // All-ones bytes (a NaN) still stand before, between and after the rows.
    [[nodiscard]] bool guards_hold() {
        const std::size_t unit = size_of(dtype_);
        for (std::size_t i = 0; i < bytes_.size(); ++i) {
            const auto element = static_cast<std::int64_t>(i / unit) - 8;
            const bool inside =
                element >= 0 && element < rows_ * stride_ && element % stride_ < cols_;
            if (!inside && bytes_[i] != 0xff) return false;
        }
        return true;
    }
    [[nodiscard]] bool same_bits(Guarded& other) { return bytes_ == other.bytes_; }
    [[nodiscard]] std::int64_t rows() const { return rows_; }
    [[nodiscard]] std::int64_t cols() const { return cols_; }

  private:
    DType dtype_;
    std::int64_t rows_, cols_, stride_;
    std::vector<std::uint8_t> bytes_;
};

// An encoded matrix and its exact decoded values.
struct Matrix {
    std::vector<std::byte> bytes;
    std::vector<double> values;
    PackedView view;
};

inline void decode_all(Matrix& m) {
    const Shape2 shape = m.view.shape;
    m.values.resize(static_cast<std::size_t>(shape.rows * shape.cols));
    format_of(m.view.layout)
        .decode(m.view, {0, shape.rows},
                {m.values.data(), DType::kF64, shape.rows, shape.cols, shape.cols});
}

// A matrix of several planes with random codes, groups of 64 columns. Odd seeds: affine with f16
// scales and zero points, nf4 with nested peaks; even ones: bf16 scales and no zero points, plain
// peaks.
inline Matrix make_planes(LayoutId layout, Shape2 shape, std::uint64_t seed) {
    const auto rows = static_cast<std::uint64_t>(shape.rows), odd = seed % 2;
    const auto cols = static_cast<std::uint64_t>(shape.cols), groups = cols / 64;
    const auto plane = [](const char* name, DType dtype, std::vector<std::uint64_t> dims) {
        PlaneInfo info;
        info.name = name, info.dtype = dtype, info.dims = std::move(dims);
        return info;
    };
    std::vector<PlaneInfo> planes = {plane("codes", DType::kU8, {rows, cols / 2})};
    if (layout == LayoutId::k_affine) {
        planes.push_back(plane("scales", odd ? DType::kF16 : DType::kBF16, {rows, groups}));
        if (odd) planes.push_back(plane("zeros", DType::kU8, {rows, groups}));
    } else {
        planes.push_back(plane("peaks", odd ? DType::kU8 : DType::kF32, {rows, groups}));
        planes.push_back(plane("values", DType::kF32, {odd ? std::uint64_t{272} : 16}));
        if (odd) planes.push_back(plane("origin", DType::kI32, {rows, 1}));
        if (odd) planes.push_back(plane("nested", DType::kF32, {3 + rows * groups / 256}));
    }
    const PackedForm form = format_of(layout).form(shape, planes);
    Matrix m;
    m.bytes.resize(form.bytes(shape.rows));
    m.view = form.view(shape, m.bytes.data());
    Random random(seed);
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        const PlaneInfo& info = form.planes[p];
        std::byte* at = m.bytes.data() + form.plane_offset(p, shape.rows);
        for (std::size_t i = 0; i < info.bytes / size_of(info.dtype); ++i) {
            const float x = random.normal(0.05f);
            const std::uint16_t half =
                info.dtype == DType::kF16 ? f32_to_f16(x / 8) : f32_to_bf16(x / 8);
            const auto row = static_cast<std::int32_t>(i * groups);
            const auto code = static_cast<std::uint8_t>(random.unit() * 256);
            const auto zero = static_cast<std::uint8_t>(code % 17);
            const void* value = &x;
            if (size_of(info.dtype) == 2) value = &half;
            if (info.dtype == DType::kI32) value = &row;
            if (info.dtype == DType::kU8) value = info.name == "zeros" ? &zero : &code;
            std::memcpy(at + i * size_of(info.dtype), value, size_of(info.dtype));
        }
    }
    decode_all(m);
    return m;
}

// Of layouts of several planes: what their formats are asked for; "" is a matrix of random codes.
inline std::vector<std::string> specs_of(LayoutId layout) {
    switch (layout) {
        case LayoutId::k_affine:
            return {"",
                    "",
                    "affine:bits=2,group=64",
                    "affine:bits=3,group=32",
                    "affine:group=16",
                    "affine:bits=4,group=32,symmetric=true",
                    "affine:bits=5",
                    "affine:bits=6",
                    "affine:bits=7,group=32",
                    "affine:bits=8",
                    "affine:bits=8,group=0,symmetric=true",
                    "affine:bits=2,group=32",
                    "affine:bits=3",
                    "affine:bits=6,group=32"};
        case LayoutId::k_nf4:
            return {"", "", "nf4:group=32", "fp4:nested=false,group=128"};
        case LayoutId::k_bitmod:
            return {"bitmod:bits=4,group=64", "bitmod:bits=3"};
        case LayoutId::k_bfp:
            return {"bfp:bits=2", "bfp:bits=3", "bfp:bits=4", "bfp:bits=5,group=64",
                    "bfp:bits=6", "bfp:bits=7", "bfp:bits=8", "bfp:group=16"};
        case LayoutId::k_bipolar:
            return {"bipolar:bits=1", "bipolar:bits=2", "bipolar:bits=3", "bipolar:bits=4,group=64",
                    "bipolar:bits=5", "bipolar:bits=6", "bipolar:bits=7", "bipolar:bits=8"};
        case LayoutId::k_fp8:
            return {"fp8", "fp8:scale=e8m0"};
        case LayoutId::k_jlcm:
            return {"jlcm:rows=16", "jlcm:bits=2,rows=16,group=64", "jlcm:bits=3,group=0",
                    "jlcm:together=1,rows=5"};
        case LayoutId::k_sparse:
            return {"sparse", "sparse:values=f16", "sparse8", "sparse4", "sparse8:group=0"};
        default:
            return {std::string(layout_info(layout).name)};
    }
}

// Zeros as pruning leaves them: of five rows one is all zero, one has one of every eight, one two
// of every four; the others as it comes.
inline void prune_rows(std::vector<float>& rows, std::int64_t cols, std::uint64_t seed) {
    Random random(seed + 1);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const auto row = static_cast<std::int64_t>(i) / cols;
        const auto column = static_cast<std::int64_t>(i) % cols;
        const bool two_of_four = (column % 4 + row) % 4 < 2;
        const double share[] = {1, column % 8 == 0 ? 1.0 : 0.0, two_of_four ? 1.0 : 0.0, 0.5, 0.9};
        if (static_cast<double>(random.unit()) < share[row % 5]) rows[i] = 0;
    }
}

// Rows [shape.rows, shape.cols] in a format, with room for what they hold where it asks for that.
inline Matrix encode_matrix(SharedFormat format, Shape2 shape, const std::vector<float>& rows) {
    struct Sink : PlaneSink {
        std::vector<std::byte> planes[kMaxPlanes];
        void append(int plane, std::span<const std::byte> part) override {
            planes[plane].insert(planes[plane].end(), part.begin(), part.end());
        }
    };
    if (const auto fitting = format->fitting(shape)) {
        fitting->see(rows);
        format = fitting->fitted();
    }
    const auto encoder = format->encoder(shape, {});
    if (format->info().needs_scan) encoder->scan(0, rows);
    Sink sink;
    encoder->encode(0, rows, sink);
    const PackedForm form = form_of(*format, shape);
    Matrix m;
    m.bytes.resize(form.bytes(shape.rows));
    m.view = form.view(shape, m.bytes.data());
    for (std::size_t p = 0; p < form.planes.size(); ++p)
        std::copy(sink.planes[p].begin(), sink.planes[p].end(),
                  m.bytes.begin() + static_cast<std::ptrdiff_t>(form.plane_offset(p, shape.rows)));
    decode_all(m);
    return m;
}

// A seed says which of the specs, too.
inline Matrix make_matrix(LayoutId layout, Shape2 shape, std::uint64_t seed,
                          float deviation = 0.05f) {
    const std::vector<std::string> specs = specs_of(layout);
    const std::string& spec = specs[seed % specs.size()];
    if (spec.empty()) return make_planes(layout, shape, seed);
    std::vector<float> rows = Random(seed).normals(shape.rows * shape.cols, deviation);
    if (layout == LayoutId::k_sparse) prune_rows(rows, shape.cols, seed);
    return encode_matrix(make_format(spec, "test"), shape, rows);
}

// Every stored layout, those of planes in each of their forms.
inline std::vector<std::pair<LayoutId, std::uint64_t>> layouts_and_seeds() {
    std::vector<std::pair<LayoutId, std::uint64_t>> out;
    for (const auto& format : weight_formats().items()) {
        const LayoutId layout = format->info().layout;
        const std::uint64_t forms = specs_of(layout).size();
        const std::uint64_t first = 120 - 120 % forms;
        for (std::uint64_t i = 0; i < forms; ++i) out.emplace_back(layout, first + i);
    }
    return out;
}

// An Exec with its own team and a workspace full of NaN.
struct Machine {
    explicit Machine(Isa isa, int threads = 2, std::size_t workspace_bytes = std::size_t{8} << 20,
                     Device device = Device::kCpu)
        : team(threads), workspace(workspace_bytes) {
        exec.device = device, exec.isa = isa, exec.team = &team, exec.workspace = &workspace;
        poison();
    }
    void poison() {
        std::byte* p = workspace.take(workspace.capacity() & ~std::size_t{63});
        std::memset(p, 0xff, workspace.capacity() & ~std::size_t{63});
        workspace.rewind(0);
    }
    Team team;
    Workspace workspace;
    Exec exec;
};

inline constexpr double kEpsilon = std::numeric_limits<float>::epsilon();

}  // namespace thimble::test
