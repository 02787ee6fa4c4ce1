// SPDX-License-Identifier: Apache-2.0
#include "model/device_form.h"

#include <doctest/doctest.h>

#include <vector>

#include "kernels/layout/rng.h"
#include "ops/ops.h"

using namespace thimble;

namespace {

// Random blocks with finite scales: the form that files have.
std::vector<std::byte> random_blocks(LayoutId layout, std::int64_t count) {
    const std::size_t bytes = layout_info(layout).block_bytes;
    std::vector<std::byte> out(bytes * static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<std::byte>(philox(3, i).v[0] & 255u);
    for (std::size_t b = 0; b < out.size(); b += bytes) out[b + 1] &= std::byte{0xbf};
    return out;
}

}  // namespace

TEST_CASE("device form: q8_0 and q4_0 keep every weight to the bit, in no more bytes") {
    Team team(2);
    Exec exec;
    exec.team = &team;
    for (const LayoutId layout : {LayoutId::k_q8_0, LayoutId::k_q4_0}) {
        for (const Shape2 shape : {Shape2{3, 32}, {130, 96}, {1, 1024}}) {
            CAPTURE(layout_info(layout).name);
            CAPTURE(shape.rows);
            const auto blocks = random_blocks(layout, shape.rows * shape.cols / 32);
            const std::size_t row_bytes = blocks.size() / static_cast<std::size_t>(shape.rows);
            PackedView stored{.layout = layout, .shape = shape, .n_planes = 1};
            stored.planes[0] = {blocks.data(), row_bytes, blocks.size()};
            SourceTensor tensor;
            tensor.form.layout = layout;
            tensor.is_matrix = true;
            tensor.dims = {static_cast<std::uint64_t>(shape.rows),
                           static_cast<std::uint64_t>(shape.cols)};
            const PackedForm form = device_form(tensor);
            CHECK(form.planes[0].row_bytes % 16 == 0);
            CHECK(form.planes[0].bytes + form.planes[1].bytes == blocks.size());
            std::vector<std::byte> room(form.bytes(shape.rows));
            const PackedView split = to_device_form(exec, stored, form, room.data());
            const auto decoded = [&](const PackedView& weights) {
                std::vector<float> out(static_cast<std::size_t>(shape.rows * shape.cols));
                ops::decode_rows(exec, weights, {0, shape.rows},
                                 {out.data(), DType::kF32, shape.rows, shape.cols, shape.cols});
                return out;
            };
            CHECK(decoded(split) == decoded(stored));
        }
    }
}

TEST_CASE("device form: other layouts stay as they are stored") {
    SourceTensor tensor;
    tensor.form.layout = LayoutId::k_q4_k;
    tensor.is_matrix = true;
    tensor.dims = {2, 256};
    CHECK(device_form(tensor).layout == LayoutId::k_q4_k);
    PackedView stored{.layout = LayoutId::k_q4_k, .shape = {2, 256}, .n_planes = 1};
    const std::byte none{};
    stored.planes[0] = {&none, 144, 288};
    CHECK(to_device_form(Exec{}, stored, tensor.form, nullptr).planes[0].data == &none);
}
