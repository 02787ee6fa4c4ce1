// SPDX-License-Identifier: Apache-2.0
#include "compress/source_bytes.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "io/gguf.h"

namespace thimble {
namespace {

constexpr int kVersion = 1;

std::vector<const TensorEntry*> by_offset(const std::vector<TensorEntry>& tensors) {
    std::vector<const TensorEntry*> out;
    for (const TensorEntry& t : tensors) out.push_back(&t);
    std::stable_sort(out.begin(), out.end(), [](const TensorEntry* a, const TensorEntry* b) {
        return a->offset < b->offset;
    });
    return out;
}

void check_zero(const File& file, std::uint64_t from, std::uint64_t to) {
    std::array<std::byte, 4096> piece;
    while (from < to) {
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(to - from, piece.size()));
        file.read(from, std::span(piece).first(n));
        const auto at = std::find_if(piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n),
                                     [](std::byte b) { return b != std::byte{0}; });
        if (at != piece.begin() + static_cast<std::ptrdiff_t>(n)) {
            throw Error(
                Exit::kBadData, escaped(file.path(), 1024),
                "byte " + std::to_string(from + static_cast<std::uint64_t>(at - piece.begin())) +
                    " belongs to no tensor and is not zero",
                "it would not come back; write the file anew, e.g. by quantize --format copy");
        }
        from += n;
    }
}

}  // namespace

SourceBytes::SourceBytes(const std::string& path, const std::vector<TensorEntry>& tensors)
    : file_(path), header_bytes_(file_.bytes()) {
    std::uint64_t at = 0;
    for (const TensorEntry* tensor : by_offset(tensors)) {
        if (at == 0) {
            header_bytes_ = tensor->offset;
        } else {
            check_zero(file_, at, tensor->offset);
        }
        at = tensor->offset + tensor->bytes;
    }
    if (at > 0) check_zero(file_, at, file_.bytes());
    if (header_bytes_ > kGgufMaxHeaderBytes)
        throw Error(Exit::kBadData, escaped(path, 1024),
                    "has no tensors, or a header beyond bounds");
}

Buffer SourceBytes::header() const {
    Buffer out(static_cast<std::size_t>(header_bytes_), Purpose::kIo);
    file_.read(0, out.span<std::byte>());
    return out;
}

std::string SourceBytes::describe(Container container, std::string_view sha256) const {
    Json json = Json::object();
    json.set("version", kVersion);
    json.set("container", container == Container::kGguf ? "gguf" : "safetensors");
    json.set("bytes", file_.bytes());
    json.set("sha256", std::string(sha256));
    return json.dump();
}

SourceFacts source_facts(const ModelFile& file) {
    const std::string where =
        escaped(file.path(), 1024) + ": key '" + std::string(kLosslessKey) + "'";
    const auto text = file.metadata().find_string(kLosslessKey);
    if (!text) {
        throw Error(Exit::kUsage, escaped(file.path(), 1024), "is not a file that compress wrote",
                    "it has no key 'thimble.lossless'");
    }
    const Json json = parse_json(*text, where);
    const auto member = [&](const char* key) -> const Json& {
        if (const Json* found = json.find(key)) return *found;
        throw Error(Exit::kBadData, where, "lacks '" + std::string(key) + "'");
    };
    if (member("version").as_int(where) != kVersion)
        throw Error(Exit::kBadData, where, "is of a version that this program does not know");
    SourceFacts facts;
    const std::string container = member("container").as_string(where);
    if (container != "gguf" && container != "safetensors")
        throw Error(Exit::kBadData, where, "names a container that is not known here");
    if (container != "gguf") facts.container = Container::kHuggingFace;
    const std::int64_t bytes = member("bytes").as_int(where);
    if (bytes < 1) throw Error(Exit::kBadData, where, "has a size below 1");
    facts.bytes = static_cast<std::uint64_t>(bytes);
    facts.sha256 = member("sha256").as_string(where);
    return facts;
}

}  // namespace thimble
