// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_split.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/checked.h"
#include "core/error.h"
#include "io/gguf.h"

namespace thimble {
namespace {

// The number of the file, from zero, that each tensor goes into.
std::vector<std::size_t> assign(std::span<const TensorSpec> tensors, const GgufSplit& split,
                                const std::string& where) {
    std::vector<std::size_t> part_of;
    std::size_t part = split.empty_first ? 1 : 0;
    std::uint64_t filled = 0, count = 0;
    for (const TensorSpec& tensor : tensors) {
        const auto bytes = tensor_bytes(tensor.type, tensor.dims);
        const auto padded = bytes ? checked_round_up(*bytes, kGgufDefaultAlignment) : std::nullopt;
        if (!padded) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor.name) + "': GGUF cannot hold its shape");
        }
        const bool too_large =
            split.max_bytes > 0 && (filled > split.max_bytes || *padded > split.max_bytes - filled);
        const bool too_many = split.max_tensors > 0 && count >= split.max_tensors;
        if (count > 0 && (too_large || too_many)) {
            ++part;
            filled = count = 0;
        }
        filled += *padded;
        ++count;
        part_of.push_back(part);
    }
    return part_of;
}

void set_split_keys(Metadata& metadata, std::size_t part, std::size_t parts, std::size_t tensors) {
    for (const std::string_view key : kGgufSplitKeys) metadata.erase(key);
    // In the order in which llama-gguf-split leaves them, so that equal input gives equal bytes.
    metadata.set(std::string(kGgufSplitNo), static_cast<std::uint16_t>(part));
    metadata.set(std::string(kGgufSplitTensors), static_cast<std::int32_t>(tensors));
    metadata.set(std::string(kGgufSplitCount), static_cast<std::uint16_t>(parts));
}

}  // namespace

std::string gguf_part_path(const std::string& prefix, std::size_t number, std::size_t count) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), "-%05zu-of-%05zu.gguf", number, count);
    return prefix + text.data();
}

GgufParts::GgufParts(const std::string& prefix, const Metadata& metadata,
                     std::span<const TensorSpec> tensors, const GgufSplit& split) {
    const std::string where = escaped(prefix, 1024);
    const std::vector<std::size_t> part_of = assign(tensors, split, where);
    const std::size_t count = part_of.empty() ? 1 : part_of.back() + 1;
    if (count > kMost) {
        throw Error(
            Exit::kUsage, where,
            std::to_string(count) + " files, at most " + std::to_string(kMost) + " are written",
            "allow more in one file");
    }
    const MetaValue* alignment = metadata.find(kGgufAlignmentKey);
    for (std::size_t i = 0; i < count; ++i) {
        Part part;
        part.path = gguf_part_path(prefix, i + 1, count);
        if (i == 0) part.metadata = metadata;
        if (i > 0 && alignment != nullptr)
            part.metadata.set(std::string(kGgufAlignmentKey), *alignment);
        set_split_keys(part.metadata, i, count, tensors.size());
        for (std::size_t t = 0; t < tensors.size(); ++t)
            if (part_of[t] == i) part.tensors.push_back(tensors[t]);
        const GgufWriter::Prediction size = GgufWriter::predict(part.metadata, part.tensors);
        part.file_bytes = size.file_bytes;
        part.header_bytes = size.header_bytes;
        parts.push_back(std::move(part));
    }
}

std::uint64_t GgufParts::file_bytes() const noexcept {
    std::uint64_t sum = 0;
    for (const Part& part : parts) sum += part.file_bytes;
    return sum;
}

std::uint64_t GgufParts::header_bytes() const noexcept {
    std::uint64_t most = 0;
    for (const Part& part : parts) most = std::max(most, part.header_bytes);
    return most;
}

std::vector<std::string> GgufParts::paths() const {
    std::vector<std::string> out;
    for (const Part& part : parts) out.push_back(part.path);
    return out;
}

struct GgufSplitWriter::State {
    std::vector<std::unique_ptr<GgufWriter>> files;
    std::vector<std::pair<std::size_t, std::size_t>> places;  // file, tensor in it
    std::vector<std::size_t> first;                           // tensor of each file
    std::uint64_t file_bytes = 0;
};

GgufSplitWriter::GgufSplitWriter(GgufParts parts, IfExists if_exists, std::string_view build)
    : state_(std::make_unique<State>()) {
    const std::size_t count = parts.parts.size();
    state_->files.resize(count);
    const auto open = [&](std::size_t i, IfExists how) {
        GgufParts::Part& part = parts.parts[i];
        state_->files[i] = std::make_unique<GgufWriter>(part.path, part.metadata,
                                                        std::move(part.tensors), how, build);
    };
    for (std::size_t i = 0; i < count; ++i) {
        const GgufParts::Part& part = parts.parts[i];
        state_->first.push_back(state_->places.size());
        for (std::size_t t = 0; t < part.tensors.size(); ++t) state_->places.emplace_back(i, t);
        state_->file_bytes += part.file_bytes;
    }
    // Checkpoints of the last file are the last to be complete and the last to be forgotten. Where
    // they are complete, an earlier run was about to end, and files without any are its own.
    open(count - 1, if_exists);
    const GgufWriter& last = *state_->files.back();
    const bool ending = !build.empty() && last.file().checked() == last.file_bytes();
    for (std::size_t i = 0; i + 1 < count; ++i) open(i, ending ? IfExists::kReplace : if_exists);
}

GgufSplitWriter::~GgufSplitWriter() = default;

std::uint64_t GgufSplitWriter::file_bytes() const noexcept { return state_->file_bytes; }

void GgufSplitWriter::write(std::size_t tensor, std::uint64_t offset,
                            std::span<const std::byte> bytes) {
    const auto& [file, index] = state_->places.at(tensor);
    state_->files[file]->write(index, offset, bytes);
}

void GgufSplitWriter::finish() {
    auto& files = state_->files;
    for (const auto& file : files) file->check_complete();
    for (const auto& file : files) file->file().settle();
    for (auto file = files.rbegin(); file != files.rend(); ++file) (*file)->file().commit();
    for (const auto& file : files) file->file().forget();
}

// Where the first file that is not whole goes on. What an earlier run stored in those behind it is
// stored again.
TensorWriter::Position GgufSplitWriter::start() const noexcept {
    for (std::size_t f = 0; f < state_->files.size(); ++f) {
        const GgufWriter& file = *state_->files[f];
        if (file.file().checked() == file.file_bytes()) continue;
        const Position own = file.start();
        return {state_->first[f] + own.tensor, own.offset};
    }
    return {state_->places.size(), 0};
}

void GgufSplitWriter::checkpoint(Position position) {
    for (std::size_t f = 0; f < state_->files.size(); ++f) {
        const std::size_t first = state_->first[f];
        if (position.tensor < first || (position.tensor == first && position.offset == 0)) return;
        state_->files[f]->checkpoint({position.tensor - first, position.offset});
    }
}

void GgufSplitWriter::abandon() noexcept {
    for (const auto& file : state_->files) file->abandon();
}

}  // namespace thimble
