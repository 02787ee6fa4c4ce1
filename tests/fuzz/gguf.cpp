// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF header: an Error, or tables that are consistent with the file.
#include <cstdlib>

#include "io/gguf.h"
#include "io/gguf_writer.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        Cursor cursor(std::as_bytes(std::span(data, size)), "fuzz.gguf");
        const GgufHeader header = parse_gguf_header(cursor, size);
        std::vector<TensorSpec> specs;
        for (const TensorEntry& tensor : header.tensors) {
            if (tensor.offset % header.alignment != 0) std::abort();
            if (tensor.bytes > 0 && (tensor.offset < header.data_offset || tensor.offset > size ||
                                     tensor.bytes > size - tensor.offset))
                std::abort();
            specs.push_back({tensor.name, tensor.type, tensor.dims});
        }
        // 256 KiB of slack for the tables' fixed parts; strings and arrays cannot be more than
        // four times their text.
        if (header.metadata.memory_bytes() > 16 * size + (256 << 10)) std::abort();
        for (const auto& [key, value] : header.metadata.entries()) {
            try {
                (void)header.metadata.get_int(key, 0, 100);
            } catch (const Error&) {
                // another type or range: every getter may refuse
            }
        }
        (void)GgufWriter::predict(header.metadata, specs);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
