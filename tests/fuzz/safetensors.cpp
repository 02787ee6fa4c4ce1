// SPDX-License-Identifier: Apache-2.0
// Any bytes as a safetensors file: an Error, or tensors that cover the data exactly.
#include <cstdlib>

#include "io/safetensors.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        Cursor cursor(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
        const SafetensorsHeader header = parse_safetensors_header(cursor, size);
        std::uint64_t end = cursor.position();
        for (const TensorEntry& tensor : header.tensors) {
            if (tensor.offset != end) std::abort();
            if (tensor_bytes(tensor.type, tensor.dims) != tensor.bytes) std::abort();
            end += tensor.bytes;
        }
        if (end != size) std::abort();
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
