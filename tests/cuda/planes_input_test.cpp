// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "ops/cuda_context.h"
#include "ops/ops.h"

using namespace thimble;

TEST_SUITE("cuda") {
    TEST_CASE("cuda: bit planes and bytes of one input take the workspace that was foreseen") {
        CudaContext context{Exec{}};
        for (const std::int64_t tokens : {1, 8, 9, 40}) {
            for (const std::int64_t cols : {64, 1024}) {
                CAPTURE(tokens);
                CAPTURE(cols);
                Workspace workspace;
                Exec exec;
                exec.device = Device::kCuda, exec.activations = Activations::kBits8;
                exec.workspace = &workspace, exec.cuda = &context, exec.dry = true;
                const View x{nullptr, DType::kF32, tokens, cols, cols};
                const View out{nullptr, DType::kF32, tokens, 32, 32};
                PackedView planes{LayoutId::k_bipolar, {32, cols}, {}, 2, {3, 32, ScaleType::kF16}};
                PackedView bytes{LayoutId::k_affine, {32, cols}, {}, 2, {8, 32, ScaleType::kF16}};
                ops::MatmulInput input(exec, x);
                ops::matmul(exec, input, ops::Matmul{planes, out, std::nullopt, false});
                const std::size_t alone = workspace.peak();
                CHECK(alone >= static_cast<std::size_t>(tokens * (cols + 4)));
                ops::matmul(exec, input, ops::Matmul{planes, out, std::nullopt, false});
                CHECK(workspace.peak() == alone);  // made once
                ops::matmul(exec, input, ops::Matmul{bytes, out, std::nullopt, false});
                const std::size_t foreseen = ops::matmul_input_bytes(exec, tokens, cols);
                CHECK(workspace.peak() <= foreseen);
                CHECK((workspace.peak() == foreseen) == (tokens <= 8));
            }
        }
    }
}
