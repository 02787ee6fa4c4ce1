// SPDX-License-Identifier: Apache-2.0
// Any bytes as a quantised Hugging Face checkpoint (the first line is its config.json, the rest its
// safetensors file): an Error, or matrices whose every row decodes.
#include <algorithm>
#include <cstdlib>

#include "format/weight_format.h"
#include "memory_model.h"
#include "model/source.h"

using namespace thimble;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span bytes(data, size);
    const auto line = std::find(bytes.begin(), bytes.end(), '\n');
    const auto config = static_cast<std::size_t>(line - bytes.begin());
    if (config == size) return 0;
    try {
        Json json = parse_json({reinterpret_cast<const char*>(data), config}, "config.json");
        const ModelSource source(std::make_unique<fuzz::MemoryModel>(
            std::move(json), std::as_bytes(bytes.subspan(config + 1))));
        std::vector<std::byte> scratch;
        std::vector<float> rows;
        for (const SourceTensor& tensor : source.tensors()) {
            const std::int64_t count = std::min<std::int64_t>(tensor.rows(), 4);
            rows.resize(static_cast<std::size_t>(count * tensor.cols()));
            source.read_rows(tensor, tensor.rows() - count, count, rows.data(), scratch);
        }
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    return 0;
}
