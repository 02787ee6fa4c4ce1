// SPDX-License-Identifier: Apache-2.0
// Any bytes as the planes of a small matrix in a format that has them: an Error, or a matrix whose
// weights decode, with nothing read outside a plane.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "format/weight_format.h"

using namespace thimble;

// The input: which of these, rows, columns in 32s; then the planes' bytes, zeros where they end.
static constexpr const char* kSpecs[] = {"affine:bits=3",
                                         "affine:bits=8,symmetric=true",
                                         "nf4",
                                         "nf4:nested=false",
                                         "bitmod:bits=3",
                                         "bfp",
                                         "bipolar:bits=5",
                                         "fp8",
                                         "nvfp4",
                                         "jlcm:bits=2",
                                         "jlcm:bits=3,together=1,rows=2",
                                         "sparse:slots=20",
                                         "sparse8:slots=17",
                                         "sparse4:slots=31"};

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 3) return 0;
    const SharedFormat format = make_format(kSpecs[data[0] % std::size(kSpecs)], "fuzz");
    const Shape2 shape{1 + data[1] % 40, 32 * (1 + data[2] % 8)};
    data += 3, size -= 3;
    const PackedForm form = form_of(*format, shape);
    PackedView view{form.layout, shape, {}, static_cast<int>(form.planes.size()), form.params};
    std::vector<std::vector<std::byte>> planes;  // each of its own, so that its end is seen
    for (std::size_t p = 0; p < form.planes.size(); ++p) {
        const PlaneInfo& info = form.planes[p];
        planes.emplace_back(info.bytes);
        const std::size_t n = std::min(size, info.bytes);
        std::copy_n(reinterpret_cast<const std::byte*>(data), n, planes.back().begin());
        data += n, size -= n;
        view.planes[p] = {planes.back().data(), info.row_bytes, info.bytes};
    }
    try {
        format->verify(view, {0, shape.rows});
    } catch (const Error&) {
        return 0;
    }
    std::vector<double> out(static_cast<std::size_t>(shape.rows * shape.cols));
    format->decode(view, {0, shape.rows},
                   {out.data(), DType::kF64, shape.rows, shape.cols, shape.cols});
    return 0;
}
