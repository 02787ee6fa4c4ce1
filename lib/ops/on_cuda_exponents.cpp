// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/kernels.h"
#include "ops/dispatch.h"
#include "ops/exponents.h"

namespace thimble::ops {

void decode_on_device(cuda::Stream& stream, const DeviceCodes& from, std::uint16_t* out) {
    const cuda::DecodeExponents problem{from.chunks,
                                        0,
                                        from.chunks.chunks(),
                                        from.table,
                                        from.exponents,
                                        from.all.words,
                                        from.all.rest,
                                        from.all.starts,
                                        out,
                                        from.damaged};
    require(cuda::supports_decode_exponents(problem), "decode_on_device",
            "there is no such matrix");
    cuda::decode_exponents(problem, stream);
}

}  // namespace thimble::ops
