// SPDX-License-Identifier: Apache-2.0
// From the library's views to the CUDA kernels' problems.
#pragma once

#include "kernels/cuda/kernels.h"
#include "ops/cuda_context.h"
#include "ops/dispatch.h"
#include "tensor/device.h"

namespace thimble::ops::on_cuda {

inline float* floats(View v) { return static_cast<float*>(v.data); }

inline cuda::Matrix matrix(const PackedView& p) {
    cuda::Matrix m{.layout = p.layout,
                   .params = p.params,
                   .planes = {},
                   .row_bytes = {},
                   .rows = p.shape.rows,
                   .cols = p.shape.cols};
    for (int i = 0; i < p.n_planes; ++i) {
        const PlaneView& plane = p.planes[static_cast<std::size_t>(i)];
        m.planes[i] = plane.bytes > 0 ? plane.data : nullptr;
        m.row_bytes[i] = plane.row_bytes;
    }
    return m;
}

// Bytes of two views of the same shape, as copies take them.
inline cuda::Rows rows_of(View from, View to) {
    const std::size_t element = size_of(from.dtype);
    const auto bytes = [&](std::int64_t n) { return static_cast<std::size_t>(n) * element; };
    return {.to = to.data,
            .to_pitch = bytes(to.stride),
            .from = from.data,
            .from_pitch = bytes(from.stride),
            .width = bytes(from.cols),
            .rows = static_cast<std::size_t>(from.rows)};
}

// With exec.dry nothing is launched, but what no kernel takes is refused as well.
template <class Problem>
void launch(const Exec& exec, bool (*supports)(const Problem&) noexcept,
            void (*kernel)(const Problem&, cuda::Stream&), const Problem& problem) {
    require(supports(problem), "cuda", "no kernel takes this problem");
    if (exec.dry) return;
    on_device([&] { kernel(problem, exec.cuda->compute()); });
}

template <class T>
const T* upload(const Exec& exec, std::span<const T> values) {
    return exec.dry ? nullptr : exec.cuda->upload(values);
}

// Waits for all that was put on the compute stream.
inline void to_host(const Exec& exec, const void* from, void* to, std::size_t bytes) {
    on_device([&] {
        cuda::copy_to_host(exec.cuda->compute(), to, from, bytes);
        exec.cuda->compute().wait();
    });
}

}  // namespace thimble::ops::on_cuda
