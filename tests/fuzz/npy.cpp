// SPDX-License-Identifier: Apache-2.0
// Any bytes as a .npy file: an Error, or an array that takes the file exactly.
#include <cstdlib>

#include "io/npy.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        Cursor cursor(std::as_bytes(std::span(data, size)), "fuzz.npy");
        const NpyHeader header = parse_npy_header(cursor, size);
        const std::uint64_t dims[2] = {header.rows, header.cols};
        const auto bytes = tensor_bytes(header.type, dims);
        if (!bytes || header.data_offset > size || *bytes != size - header.data_offset)
            std::abort();
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
