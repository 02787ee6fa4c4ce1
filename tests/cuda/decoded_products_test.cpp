// SPDX-License-Identifier: Apache-2.0
// Products of more tokens than matrix-vector kernels take, as operations make them of several
// kernels: rows of weights decoded to bf16, some at a time, for cuBLAS.
#include <doctest/doctest.h>

#include "core/cpu.h"
#include "matmul_cases.h"
#include "ops/cuda_context.h"
#include "ops/ops.h"

using namespace thimble;

namespace {

PackedView view_of(const cuda::Matrix& m) {
    PackedView out;
    out.layout = m.layout;
    out.shape = {m.rows, m.cols};
    out.n_planes = kMaxPlanes;
    out.params = m.params;
    for (std::size_t i = 0; i < kMaxPlanes; ++i) {
        out.planes[i].data = m.planes[i];
        out.planes[i].row_bytes = m.row_bytes[i];
        out.planes[i].bytes = m.planes[i] != nullptr;  // any number: it is there
    }
    return out;
}

void multiply(const cuda::Matmul& p, cuda::Stream& stream) {
    stream.wait();  // the context has a stream of its own
    Exec host;
    host.isa = best_isa();
    CudaContext context(host);
    Exec exec = host;
    exec.device = Device::kCuda, exec.cuda = &context;
    const std::size_t bytes = ops::matmul_input_bytes(exec, p.tokens, p.weight.cols);
    Workspace workspace(bytes, Place::kDevice);
    exec.workspace = &workspace;
    const View x{const_cast<float*>(p.x), DType::kF32, p.tokens, p.weight.cols, p.x_stride};
    const View out{p.out, DType::kF32, p.tokens, p.weight.rows, p.out_stride};
    std::optional<View> bias;
    if (p.bias != nullptr)
        bias = View{const_cast<float*>(p.bias), DType::kF32, 1, p.weight.rows, p.weight.rows};
    {
        ops::MatmulInput input(exec, x);
        ops::matmul(
            exec, input,
            ops::Matmul{
                .weight = view_of(p.weight), .out = out, .bias = bias, .accumulate = p.accumulate});
        context.compute().wait();
    }
}

}  // namespace

TEST_SUITE("cuda") {
    TEST_CASE(
        "cuda: products of more than a few tokens keep to the bound of bf16 in every layout") {
        for (const cuda_test::PackedForm& form : cuda_test::packed_forms()) {
            if (form.layout == LayoutId::k_f64) continue;
            for (const bool both : {false, true})
                cuda_test::check_matmul_case({form, 19, 256, 9, 4, 5, both, both, 0x1p-8},
                                             multiply);
        }
        // More rows than are decoded at a time.
        cuda_test::check_matmul_case(
            {{LayoutId::k_q8_0, {}}, 8200, 32, 9, 0, 0, false, false, 0x1p-8}, multiply);
    }
}
