// SPDX-License-Identifier: Apache-2.0
#include "cost/probe_matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "cost/timing.h"
#include "ops/encode.h"

namespace thimble::cost {
namespace {

// Rows that the matrices are made of: encoding more would take long.
constexpr std::int64_t kPartRows = ops::kRepackRows;

class Planes final : public PlaneSink {
  public:
    Planes(const PackedForm& form, std::byte* out) {
        for (std::size_t i = 0; i < form.planes.size(); ++i)
            at_.push_back(out + form.plane_offset(i, kPartRows));
    }
    void append(int plane, std::span<const std::byte> bytes) override {
        std::byte*& at = at_[static_cast<std::size_t>(plane)];
        std::memcpy(at, bytes.data(), bytes.size());
        at += bytes.size();
    }

  private:
    std::vector<std::byte*> at_;
};

// kPartRows rows as files have them.
ProbeMatrix make_part(const Exec& exec, const WeightFormat& format, std::int64_t cols) {
    const Shape2 shape = {kPartRows, cols};
    if (!format.info().encodes)
        throw Error(Exit::kUsage, std::string(format.name()), "files of it come from elsewhere");
    Buffer memory(static_cast<std::size_t>(shape.rows * cols) * sizeof(float), Purpose::kOther);
    const std::span<float> weights = memory.span<float>();
    fill(weights);
    SharedFormat fitted;
    if (const auto fitting = format.fitting(shape)) {
        for (std::size_t i = 0; i < weights.size(); i += 2) weights[i + (i / 2) % 2] = 0;
        fitting->see(weights);
        fitted = fitting->fitted();
    }
    const WeightFormat& how = fitted ? *fitted : format;
    const PackedForm form = form_of(how, shape);
    ProbeMatrix part;
    part.memory = Buffer(form.bytes(shape.rows), Purpose::kOther);
    const auto encoder = ops::encoder(exec.isa, how, shape, {});
    if (how.info().needs_scan) encoder->scan(0, weights);
    Planes planes(form, part.memory.data());
    encoder->encode(0, weights, planes);
    part.view = form.view(shape, part.memory.data());
    return part;
}

}  // namespace

void fill(std::span<float> out) {
    std::uint32_t state = 12345;
    for (float& v : out) {
        state = state * 1664525u + 1013904223u;
        v = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-33F;
    }
}

ProbeMatrix make_matrix(const Exec& exec, const WeightFormat& format, Shape2 shape) {
    ProbeMatrix part = make_part(exec, format, shape.cols);
    const auto layout = ops::resident_layout(part.view.layout, part.view.params);
    if (layout && exec.products == Products::kPacked) {
        Buffer resident(ops::packed_bytes(*layout, part.view.shape, part.view.params),
                        Purpose::kOther);
        part.view = ops::repack(exec, part.view, *layout, resident.data());
        part.memory = std::move(resident);
    }
    // Pieces of so many rows lie one after the other as they would in the whole.
    const auto copies = static_cast<std::size_t>(shape.rows / kPartRows);
    const auto bytes_of = [&](const PlaneView& p) {
        return ((p.row_bytes == 0 ? p.bytes : p.bytes * copies) + 63) & ~std::size_t{63};
    };
    std::size_t bytes = 0;
    for (const PlaneView& plane : part.view.planes) bytes += bytes_of(plane);
    ProbeMatrix out{Buffer(bytes, Purpose::kOther), part.view};
    out.view.shape = shape;
    std::byte* at = out.memory.data();
    for (PlaneView& plane : out.view.planes) {
        if (plane.bytes == 0) continue;
        const PlaneView from = plane;
        plane.data = at;
        const std::size_t times = from.row_bytes == 0 ? 1 : copies;
        for (std::size_t i = 0; i < times; ++i)
            std::memcpy(at + i * from.bytes, from.data, from.bytes);
        plane.bytes = times * from.bytes;
        at += bytes_of(from);
    }
    return out;
}

ProbeInput::ProbeInput(const Exec& exec, Shape2 weight, std::int64_t tokens)
    : exec_(exec),
      workspace_(ops::matmul_input_bytes(exec, tokens, weight.cols) +
                 ops::matmul_bytes(exec, weight)),
      input_(static_cast<std::size_t>(tokens * weight.cols) * sizeof(float), Purpose::kOther),
      output_(static_cast<std::size_t>(tokens * weight.rows) * sizeof(float), Purpose::kOther) {
    exec_.workspace = &workspace_;
    fill(input_.span<float>());
    x_ = {input_.data(), DType::kF32, tokens, weight.cols, weight.cols};
    y_ = {output_.data(), DType::kF32, tokens, weight.rows, weight.rows};
}

double seconds_of_products(const Exec& exec, const ProbeMatrix& matrix, std::int64_t rows,
                           std::int64_t tokens, std::int64_t repeats) {
    const ProbeInput probe(exec, {rows, matrix.view.shape.cols}, tokens);
    return median_seconds(repeats, [&] {
        for (std::int64_t first = 0; first < matrix.view.shape.rows; first += rows) {
            ops::MatmulInput shared(probe.exec(), probe.x());
            ops::matmul(probe.exec(), shared,
                        {matrix.view.slice_rows({first, rows}), probe.y(), {}, false});
        }
    });
}

}  // namespace thimble::cost
