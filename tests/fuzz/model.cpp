// SPDX-License-Identifier: Apache-2.0
// Any bytes as a GGUF model: an Error, or tensors of the shapes that the config says, whose every
// row decodes.
#include <algorithm>
#include <cstdlib>

#include "format/weight_format.h"
#include "memory_model.h"
#include "model/source.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const ModelSource source(
            std::make_unique<fuzz::MemoryModel>(std::as_bytes(std::span(data, size))));
        std::vector<std::byte> scratch;
        std::vector<float> rows;
        for (const SourceTensor& tensor : source.tensors()) {
            if (tensor.rows() < 1 || tensor.cols() < 1) std::abort();
            const std::int64_t count = std::min<std::int64_t>(tensor.rows(), 4);
            rows.resize(static_cast<std::size_t>(count * tensor.cols()));
            source.read_rows(tensor, tensor.rows() - count, count, rows.data(), scratch);
        }
        (void)source.gguf_metadata();
        (void)source.spec().info();
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
