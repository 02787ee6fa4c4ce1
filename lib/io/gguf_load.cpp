// SPDX-License-Identifier: Apache-2.0
#include "io/container.h"
#include "io/gguf.h"

namespace thimble {

ContainerParts load_gguf(const std::string& path) {
    ContainerParts parts;
    File file(path);
    Cursor cursor(file, kGgufMaxHeaderBytes);
    GgufHeader header = parse_gguf_header(cursor, file.bytes());
    parts.metadata = std::move(header.metadata);
    parts.tensors = std::move(header.tensors);
    parts.shards.push_back(std::move(file));
    return parts;
}

}  // namespace thimble
