// SPDX-License-Identifier: Apache-2.0
#include "ops/stack.h"

#include "ops/dense.h"
#include "ops/dispatch.h"
#include "ops/op_clock.h"

namespace thimble::ops {
namespace {

constexpr std::int64_t kLeastRows = 32;  // of a task: fewer do not pay for their tables
constexpr std::int64_t kRoomBytes = std::int64_t{2} << 20;

std::int64_t rows_per_task(const Exec& exec, std::int64_t rows) {
    const std::int64_t share = (rows + exec.team->threads() - 1) / exec.team->threads();
    return std::clamp((share + 15) & ~std::int64_t{15}, kLeastRows, cpu::kStackRows);
}

std::uint64_t bytes_of(const Stack& stack) {
    const auto [rows, cols] = stack.shape;
    const std::int64_t block = rows * cpu::sign_row_bytes(cols) +
                               (rows + cols) * stack.rank * std::int64_t{sizeof(std::uint16_t)};
    return stack.blocks.size() * static_cast<std::uint64_t>(block);
}

void few_tokens(const Exec& exec, View x, const StackMatmul& p) {
    const Stack& stack = *p.stack;
    const auto& table = kernels(exec.isa);
    const std::int64_t rows = stack.shape.rows;
    exec.team->run(rows, rows_per_task(exec, rows), [&](std::int64_t begin, std::int64_t end) {
        cpu::StackProduct task{};
        task.blocks = stack.blocks.data(), task.count = std::ssize(stack.blocks);
        task.rank = stack.rank;
        task.first = begin, task.rows = end - begin, task.cols = stack.shape.cols;
        task.x = x.row<float>(0), task.tokens = x.rows, task.x_stride = x.stride;
        task.out = p.out.row<float>(0) + begin, task.out_stride = p.out.stride;
        task.bias = p.bias ? p.bias->row<float>(0) + begin : nullptr;
        task.accumulate = p.accumulate;
        table.stack_product(task);
    });
}

void many_tokens(const Exec& exec, View x, const StackMatmul& p) {
    const Stack& stack = *p.stack;
    const auto [rows, cols] = stack.shape;
    const std::int64_t step = std::min(std::ssize(stack.room) / cols, rows);
    require(step > 0, "stack_matmul", "no room for a row");
    for (std::int64_t first = 0; first < rows; first += step) {
        const std::int64_t count = std::min(step, rows - first);
        const auto room = stack.room.first(static_cast<std::size_t>(count * cols));
        stack_rows(exec, stack, {first, count}, room);
        dense::Product product;
        product.a = x;
        product.b = {reinterpret_cast<std::byte*>(room.data()), DType::kF32, count, cols, cols};
        product.b_transposed = true;
        product.c = p.out.slice_cols(first, count);
        product.accumulate = p.accumulate;
        product.bias = p.bias ? p.bias->row<float>(0) + first : nullptr;
        dense::multiply_tiled(exec, product);
    }
}

}  // namespace

std::int64_t stack_room_rows(Shape2 shape) noexcept {
    const std::int64_t rows = kRoomBytes / (shape.cols * std::int64_t{sizeof(float)});
    return std::clamp<std::int64_t>(rows & ~std::int64_t{15},
                                    std::min<std::int64_t>(16, shape.rows), shape.rows);
}

std::size_t stack_room_bytes(Shape2 shape) noexcept {
    return static_cast<std::size_t>(stack_room_rows(shape) * shape.cols) * sizeof(float);
}

void stack_matmul(const Exec& exec, View x, const StackMatmul& p) {
    const Timed timed(exec, "stack_matmul", bytes_of(*p.stack));
    require(exec.device == Device::kCpu, "stack_matmul", "blocks are multiplied on the CPU");
    require_view(exec, x, x.rows, p.stack->shape.cols, "stack_matmul");
    require_view(exec, p.out, x.rows, p.stack->shape.rows, "stack_matmul");
    if (p.bias) require_view(exec, *p.bias, 1, p.stack->shape.rows, "stack_matmul");
    if (x.rows == 0) return;
    x.rows <= kStackTokens ? few_tokens(exec, x, p) : many_tokens(exec, x, p);
}

void stack_rows(const Exec& exec, const Stack& stack, RowRange rows, std::span<float> out) {
    const auto& table = kernels(exec.isa);
    const std::int64_t cols = stack.shape.cols;
    require(std::ssize(out) >= rows.count * cols, "stack_rows", "the room is too small");
    exec.team->run(
        rows.count, rows_per_task(exec, rows.count), [&](std::int64_t begin, std::int64_t end) {
            table.stack_rows({stack.blocks.data(), std::ssize(stack.blocks), stack.rank,
                              rows.first + begin, end - begin, cols, out.data() + begin * cols});
        });
}

}  // namespace thimble::ops
