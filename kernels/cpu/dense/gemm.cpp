// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/dense/gemm.h"

#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <string>

// Of the OpenMP runtime that the library was built with, whatever compiler this is.
extern "C" void omp_set_num_threads(int);

namespace thimble::cpu {
namespace {

using dnnl::memory;

// One primitive serves all sizes and strides; what else differs is its index.
struct Form {
    bool bf16, a_transposed, b_transposed, accumulate;
    [[nodiscard]] unsigned index() const {
        return bf16 * 8u + a_transposed * 4u + b_transposed * 2u + accumulate;
    }
};

memory::desc matrix(bool bf16, std::int64_t rows, std::int64_t cols, std::int64_t row_stride,
                    std::int64_t col_stride) {
    return {{rows, cols},
            bf16 ? memory::data_type::bf16 : memory::data_type::f32,
            memory::dims{row_stride, col_stride}};
}

const dnnl::engine& engine() {
    static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

dnnl::matmul make(const Form& form) {
    constexpr auto kAny = DNNL_RUNTIME_DIM_VAL;
    const auto operand = [&](bool bf16, bool transposed) {
        return matrix(bf16, kAny, kAny, transposed ? 1 : kAny, transposed ? kAny : 1);
    };
    const dnnl::matmul::desc problem(operand(form.bf16, form.a_transposed),
                                     operand(form.bf16, form.b_transposed), operand(false, false));
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // of size 0
    if (form.accumulate) {
        dnnl::post_ops sum;
        sum.append_sum(1.0f);
        attributes.set_post_ops(sum);
    }
    return dnnl::matmul(dnnl::matmul::primitive_desc(problem, attributes, engine()));
}

const dnnl::matmul& primitive(const Form& form) {
    static std::once_flag made[16];
    static dnnl::matmul primitives[16];
    const unsigned i = form.index();
    std::call_once(made[i], [&] { primitives[i] = make(form); });
    return primitives[i];
}

}  // namespace

Isa limit_gemm(Isa isa) {
    static const Isa limit = [isa] {
        if (isa == Isa::kPortable) dnnl::set_max_cpu_isa(dnnl::cpu_isa::sse41);
        if (isa == Isa::kAvx2) dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2);
        return isa;
    }();
    return limit;
}

bool gemm_has_bf16() {
    // A level's bits include those of the levels below it.
    constexpr auto kWanted = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    static const auto level = static_cast<unsigned>(dnnl::get_effective_cpu_isa());
    return (level & kWanted) == kWanted;
}

void gemm(const Gemm& p) {
    thread_local const bool alone = (omp_set_num_threads(1), true);
    thread_local dnnl::stream stream(engine());
    (void)alone;
    const auto operand = [&](const GemmOperand& o, std::int64_t rows, std::int64_t cols) {
        return memory(matrix(p.bf16, rows, cols, o.row_stride, o.col_stride), engine(),
                      const_cast<void*>(o.data));
    };
    try {
        const Form form = {p.bf16, p.a.col_stride != 1, p.b.col_stride != 1, p.accumulate};
        const memory c(matrix(false, p.m, p.n, p.c_stride, 1), engine(), p.c);
        primitive(form).execute(stream, {{DNNL_ARG_SRC, operand(p.a, p.m, p.k)},
                                         {DNNL_ARG_WEIGHTS, operand(p.b, p.k, p.n)},
                                         {DNNL_ARG_DST, c}});
        stream.wait();
    } catch (const dnnl::error& e) {
        throw std::runtime_error(std::string("oneDNN: ") + e.what());
    }
}

}  // namespace thimble::cpu
