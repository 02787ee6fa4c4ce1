// SPDX-License-Identifier: Apache-2.0
#include "model/fingerprint.h"

#include <algorithm>
#include <vector>

#include "io/sha256.h"

namespace thimble {

std::string fingerprint(const ModelSource& source) {
    constexpr std::uint64_t kSample = 4096;
    Sha256 hash;
    std::vector<std::byte> bytes;
    const ModelFile& file = source.file();
    for (const TensorEntry& tensor : file.tensors()) {
        std::string text = tensor.name + " " + std::to_string(static_cast<unsigned>(tensor.type));
        for (const std::uint64_t dim : tensor.dims) text += " " + std::to_string(dim);
        hash.update(text + "\n");
        bytes.resize(std::min(tensor.bytes, kSample));
        for (const std::uint64_t offset : {std::uint64_t{0}, tensor.bytes - bytes.size()}) {
            file.read(tensor, offset, bytes);
            hash.update(bytes);
        }
    }
    return hash.finish();
}

}  // namespace thimble
