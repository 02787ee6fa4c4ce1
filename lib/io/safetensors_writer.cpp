// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <unordered_set>

#include "core/checked.h"
#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "io/checkpointed_file.h"
#include "io/safetensors.h"

namespace thimble {
namespace {

bool is_one_file(const std::string& path) { return path.ends_with(".safetensors"); }

struct Place {
    std::size_t shard = 0;
    std::uint64_t offset = 0;  // in the shard's data, then in its file
    std::uint64_t bytes = 0;
};

std::uint64_t checked_size(const TensorSpec& tensor, const std::string& where) {
    const std::string what = "tensor '" + escaped(tensor.name) + "'";
    if (tensor.name.empty() || tensor.name.size() > kSafetensorsMaxNameBytes ||
        tensor.name == kSafetensorsMetadataKey || !is_utf8(tensor.name)) {
        throw Error(Exit::kBadData, where,
                    what + ": a safetensors name is UTF-8 of 1 to 4096 bytes");
    }
    const auto bytes = tensor_bytes(tensor.type, tensor.dims);
    if (safetensors_dtype(tensor.type).empty() || !bytes ||
        tensor.dims.size() > kSafetensorsMaxDims) {
        throw Error(Exit::kBadData, where, what + ": safetensors cannot hold its type or shape");
    }
    return *bytes;
}

// Widest types first, so that every tensor is aligned to its own type.
std::vector<std::size_t> storage_order(std::span<const TensorSpec> tensors) {
    std::vector<std::size_t> order(tensors.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto width = [&](std::size_t i) {
        return find_tensor_type(tensors[i].type)->block_bytes;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return width(a) > width(b); });
    return order;
}

// Fills shards in the order given; returns their number.
std::size_t assign_shards(std::vector<Place>& places, std::uint64_t max_shard_bytes) {
    std::size_t shard = 0;
    std::uint64_t filled = 0;
    for (Place& place : places) {
        if (filled > 0 && (filled >= max_shard_bytes || place.bytes > max_shard_bytes - filled)) {
            ++shard;
            filled = 0;
        }
        place.shard = shard;
        filled += place.bytes;
    }
    return shard + 1;
}

std::string shard_name(std::size_t shard, std::size_t count) {
    if (count == 1) return "model.safetensors";
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "model-%05zu-of-%05zu.safetensors", shard + 1, count);
    return text.data();
}

// Where everything goes; offsets are in the shard's data.
struct Layout {
    std::vector<std::size_t> order;  // of the tensors in their shards' headers
    std::vector<Place> places;
    std::size_t shards = 1;
};

Layout lay_out(const std::string& path, std::span<const TensorSpec> tensors,
               const SafetensorsOptions& options) {
    const std::string where = escaped(path, 1024);
    Layout layout;
    layout.order = storage_order(tensors);
    std::unordered_set<std::string_view> names;
    for (const TensorSpec& tensor : tensors) {
        layout.places.push_back({0, 0, checked_size(tensor, where)});
        if (!names.insert(tensor.name).second) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor.name) + "' would occur twice");
        }
    }
    if (!is_one_file(path)) layout.shards = assign_shards(layout.places, options.max_shard_bytes);
    if (layout.shards > SafetensorsWriter::kMostShards) {
        throw Error(Exit::kUsage, where,
                    std::to_string(layout.shards) + " shards, at most " +
                        std::to_string(SafetensorsWriter::kMostShards) + " are written",
                    "allow larger shards");
    }
    std::vector<std::uint64_t> filled(layout.shards);
    for (const std::size_t i : layout.order) {
        Place& place = layout.places[i];
        place.offset = filled[place.shard];
        const auto end = checked_add(place.offset, place.bytes);
        if (!end || *end > INT64_MAX / 2) {
            throw Error(Exit::kBadData, where, "the tensors' sizes pass 2^62 bytes");
        }
        filled[place.shard] = *end;
    }
    return layout;
}

std::string header_text(std::span<const TensorSpec> tensors, const Layout& layout,
                        std::size_t shard, const JsonMembers& metadata) {
    const std::vector<Place>& places = layout.places;
    JsonMembers root;
    if (!metadata.empty()) root.emplace_back(kSafetensorsMetadataKey, Json(metadata));
    for (const std::size_t i : layout.order) {
        if (places[i].shard != shard) continue;
        Json shape = Json::array();
        for (const std::uint64_t dim : tensors[i].dims) shape.push(Json(dim));
        Json entry = Json::object();
        entry.set("dtype", Json(safetensors_dtype(tensors[i].type)));
        entry.set("shape", std::move(shape));
        entry.set("data_offsets", Json(JsonArray{Json(places[i].offset),
                                                 Json(places[i].offset + places[i].bytes)}));
        root.emplace_back(tensors[i].name, std::move(entry));
    }
    std::string text = Json(std::move(root)).dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
}

std::string index_text(std::span<const TensorSpec> tensors, const Layout& layout) {
    JsonMembers members;
    std::int64_t total = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Place& place = layout.places[i];
        members.emplace_back(tensors[i].name, Json(shard_name(place.shard, layout.shards)));
        total += static_cast<std::int64_t>(place.bytes);
    }
    Json metadata = Json::object();
    metadata.set("total_size", Json(total));
    Json root = Json::object();
    root.set("metadata", std::move(metadata));
    root.set("weight_map", Json(std::move(members)));
    return root.dump(2) + "\n";
}

// A directory made here and not filled is removed again.
class MadeDirectory {
  public:
    explicit MadeDirectory(const std::string& path) : path_(path) {
        if (::mkdir(path.c_str(), 0777) == 0) {
            made_ = true;
        } else if (errno != EEXIST) {
            throw Error(Exit::kCannotCreate, escaped(path, 1024),
                        std::string("cannot create: ") + std::strerror(errno));
        }
    }
    ~MadeDirectory() {
        if (made_) ::rmdir(path_.c_str());
    }
    MadeDirectory(const MadeDirectory&) = delete;
    MadeDirectory& operator=(const MadeDirectory&) = delete;
    void keep() noexcept { made_ = false; }

  private:
    std::string path_;
    bool made_ = false;
};

}  // namespace

struct SafetensorsWriter::State {
    std::vector<TensorSpec> tensors;
    Layout layout;
    std::uint64_t file_bytes = 0;
    std::optional<MadeDirectory> directory;  // destroyed after the files in it
    std::vector<Progress> progress;          // per tensor
    std::vector<CheckpointedFile> files;
    std::vector<std::uint64_t> header_ends;  // in each
    std::optional<AtomicFile> index;

    void open_shard(const std::string& path, std::size_t shard, const SafetensorsOptions& options) {
        const std::string header = header_text(tensors, layout, shard, options.metadata);
        const Charge charge(Tier::kRam, Purpose::kIo, header.size());
        std::uint64_t bytes = sizeof(std::uint64_t) + header.size();
        header_ends.push_back(bytes);
        for (Place& place : layout.places) {
            if (place.shard != shard) continue;
            place.offset += sizeof(std::uint64_t) + header.size();
            bytes += place.bytes;
        }
        CheckpointedFile& file = files.emplace_back(path, bytes, options.if_exists,
                                                    checkpoint_key(header, options.build));
        file_bytes += bytes;
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const Place& place = layout.places[i];
            if (place.shard == shard && place.offset < file.checked())
                progress[i] = Progress(std::min(place.bytes, file.checked() - place.offset));
        }
        const std::uint64_t length = header.size();
        file.write(0, std::as_bytes(std::span(&length, 1)));
        file.write(sizeof(length), std::as_bytes(std::span(header)));
    }

    void open_index(const std::string& path, IfExists if_exists) {
        const std::string text = index_text(tensors, layout);
        const Charge charge(Tier::kRam, Purpose::kIo, text.size());
        index.emplace(path, text.size(), if_exists);
        index->write(0, std::as_bytes(std::span(text)));
        file_bytes += text.size();
    }
};

SafetensorsWriter::SafetensorsWriter(const std::string& path, std::vector<TensorSpec> tensors,
                                     const SafetensorsOptions& options)
    : state_(std::make_unique<State>()) {
    state_->layout = lay_out(path, tensors, options);
    state_->tensors = std::move(tensors);
    state_->progress.resize(state_->tensors.size());
    if (is_one_file(path)) {
        state_->open_shard(path, 0, options);
        return;
    }
    const std::size_t shards = state_->layout.shards;
    state_->directory.emplace(path);
    const std::string single = path + "/" + shard_name(0, 1);
    if (shards > 1 && ::access(single.c_str(), F_OK) == 0) {
        throw Error(Exit::kCannotCreate, escaped(path, 1024),
                    "model.safetensors there would hide the shards", "remove it first");
    }
    for (std::size_t s = 0; s < shards; ++s)
        state_->open_shard(path + "/" + shard_name(s, shards), s, options);
    if (shards > 1) state_->open_index(single + ".index.json", options.if_exists);
}

SafetensorsWriter::~SafetensorsWriter() = default;

std::uint64_t SafetensorsWriter::file_bytes() const noexcept { return state_->file_bytes; }

void SafetensorsWriter::write(std::size_t tensor, std::uint64_t offset,
                              std::span<const std::byte> bytes) {
    const Place& place = state_->layout.places.at(tensor);
    if (offset > place.bytes || bytes.size() > place.bytes - offset) {
        throw Error(Exit::kFailure, escaped(state_->tensors[tensor].name),
                    "bytes to write lie outside the tensor");
    }
    state_->files[place.shard].write(place.offset + offset, bytes);
    state_->progress[tensor].add(offset, bytes.size());
}

void SafetensorsWriter::finish() {
    for (std::size_t i = 0; i < state_->tensors.size(); ++i) {
        const Place& place = state_->layout.places[i];
        const std::uint64_t written = state_->progress[i].written;
        if (written != place.bytes) {
            throw Error(Exit::kFailure, escaped(state_->tensors[i].name),
                        std::to_string(written) + " of " + std::to_string(place.bytes) +
                            " bytes were written");
        }
    }
    for (CheckpointedFile& file : state_->files) file.settle();
    for (CheckpointedFile& file : state_->files) file.commit();
    if (state_->index) state_->index->commit();
    for (CheckpointedFile& file : state_->files) file.forget();
    if (state_->directory) state_->directory->keep();
}

// The first tensor that is not whole. Types of different widths may lie in another order than they
// are written; what of those behind it is there is written again.
TensorWriter::Position SafetensorsWriter::start() const noexcept {
    const std::vector<Place>& places = state_->layout.places;
    std::size_t i = 0;
    while (i < places.size() && state_->progress[i].kept == places[i].bytes) ++i;
    return {i, i < places.size() ? state_->progress[i].kept : 0};
}

// In each shard, up to the first byte that is still to come.
void SafetensorsWriter::checkpoint(Position position) {
    const std::vector<Place>& places = state_->layout.places;
    std::vector<std::uint64_t> ends(state_->files.size(), UINT64_MAX);
    for (std::size_t i = position.tensor; i < places.size(); ++i) {
        const std::uint64_t begun = i == position.tensor ? position.offset : 0;
        if (begun == places[i].bytes) continue;
        std::uint64_t& end = ends[places[i].shard];
        end = std::min(end, places[i].offset + begun);
    }
    for (std::size_t s = 0; s < ends.size(); ++s) {
        CheckpointedFile& file = state_->files[s];
        if (ends[s] == UINT64_MAX) {
            file.settle();
        } else if (ends[s] > state_->header_ends[s]) {
            file.checkpoint(ends[s]);
        }
    }
}

void SafetensorsWriter::abandon() noexcept {
    for (CheckpointedFile& file : state_->files) file.abandon();
}

SafetensorsWriter::Prediction SafetensorsWriter::predict(const std::string& path,
                                                         std::span<const TensorSpec> tensors,
                                                         const SafetensorsOptions& options) {
    const Layout layout = lay_out(path, tensors, options);
    Prediction out;
    for (std::size_t s = 0; s < layout.shards; ++s)
        out.shards.push_back(shard_name(s, layout.shards));
    for (const Place& place : layout.places) out.file_bytes += place.bytes;
    for (std::size_t s = 0; s < layout.shards; ++s) {
        const std::uint64_t header = header_text(tensors, layout, s, options.metadata).size();
        out.file_bytes += sizeof(std::uint64_t) + header;
        out.header_bytes = std::max(out.header_bytes, header);
    }
    if (layout.shards > 1) {
        const std::uint64_t index = index_text(tensors, layout).size();
        out.file_bytes += index;
        out.header_bytes = std::max(out.header_bytes, index);
    }
    return out;
}

}  // namespace thimble
