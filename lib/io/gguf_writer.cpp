// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_writer.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "core/checked.h"
#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "io/checkpoint_log.h"
#include "io/gguf.h"
#include "io/sha256.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

template <class T>
void put(std::string& out, T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void put_string(std::string& out, std::string_view text) {
    put<std::uint64_t>(out, text.size());
    out += text;
}

template <class T>
constexpr GgufType type_of() {
    if constexpr (std::is_same_v<T, std::uint8_t>) return GgufType::kU8;
    if constexpr (std::is_same_v<T, std::int8_t>) return GgufType::kI8;
    if constexpr (std::is_same_v<T, std::uint16_t>) return GgufType::kU16;
    if constexpr (std::is_same_v<T, std::int16_t>) return GgufType::kI16;
    if constexpr (std::is_same_v<T, std::uint32_t>) return GgufType::kU32;
    if constexpr (std::is_same_v<T, std::int32_t>) return GgufType::kI32;
    if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
    if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
    if constexpr (std::is_same_v<T, std::string>) return GgufType::kString;
    if constexpr (std::is_same_v<T, std::uint64_t>) return GgufType::kU64;
    if constexpr (std::is_same_v<T, std::int64_t>) return GgufType::kI64;
    if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
    if constexpr (std::is_same_v<T, std::shared_ptr<const MetaArray>>) return GgufType::kArray;
}

void put_array(std::string& out, const MetaArray& array) {
    std::visit(
        [&](const auto& elements) {
            using T = typename std::decay_t<decltype(elements)>::value_type;
            put(out, array.is_bool ? GgufType::kBool : type_of<T>());
            put<std::uint64_t>(out, elements.size());
            if constexpr (std::is_same_v<T, std::string>) {
                for (const std::string& text : elements) put_string(out, text);
            } else {
                out.append(reinterpret_cast<const char*>(elements.data()),
                           elements.size() * sizeof(T));
            }
        },
        array.elements);
}

void put_value(std::string& out, const MetaValue& value) {
    std::visit(
        [&](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            put(out, type_of<T>());
            if constexpr (std::is_same_v<T, std::string>) {
                put_string(out, v);
            } else if constexpr (std::is_same_v<T, std::shared_ptr<const MetaArray>>) {
                put_array(out, *v);
            } else {
                put(out, v);
            }
        },
        value);
}

constexpr const char* kLogSuffix = ".partial.checkpoints";

struct Layout {
    std::string header;                  // up to the data section, padded
    std::vector<std::uint64_t> offsets;  // absolute
    std::vector<std::uint64_t> bytes;
    std::uint64_t file_bytes = 0;
};

std::uint64_t alignment_of(const Metadata& metadata, const std::string& where) {
    const MetaValue* value = metadata.find(kGgufAlignmentKey);
    if (value == nullptr) return kGgufDefaultAlignment;
    const auto* alignment = std::get_if<std::uint32_t>(value);
    if (alignment == nullptr || !is_gguf_alignment(*alignment)) {
        throw Error(Exit::kBadData, where, "key 'general.alignment' is not a valid alignment");
    }
    return *alignment;
}

void check_spec(const TensorSpec& tensor, const std::string& where) {
    const std::string what = "tensor '" + escaped(tensor.name) + "'";
    if (tensor.name.empty() || tensor.name.size() > 63 || !is_utf8(tensor.name)) {
        throw Error(Exit::kBadData, where, what + ": a GGUF name is UTF-8 of 1 to 63 bytes");
    }
    if (tensor.dims.size() > kGgufMaxDims) {
        throw Error(Exit::kBadData, where, what + ": GGUF holds at most 4 dimensions");
    }
    if (static_cast<std::uint32_t>(tensor.type) >= kFirstSafetensorsType) {
        throw Error(Exit::kBadData, where, what + ": its type does not exist in GGUF");
    }
    if (!tensor_bytes(tensor.type, tensor.dims)) {
        throw Error(
            Exit::kBadData, where,
            what + ": rows of " + std::to_string(tensor.dims.empty() ? 1 : tensor.dims.back()) +
                " are not whole blocks of " + std::string(find_tensor_type(tensor.type)->name));
    }
}

Layout lay_out(const Metadata& metadata, std::span<const TensorSpec> tensors,
               const std::string& where) {
    const std::uint64_t alignment = alignment_of(metadata, where);
    Layout layout;
    std::string& out = layout.header;
    out += "GGUF";
    put<std::uint32_t>(out, 3);
    put<std::uint64_t>(out, tensors.size());
    put<std::uint64_t>(out, metadata.entries().size());
    for (const auto& [key, value] : metadata.entries()) {
        put_string(out, key);
        put_value(out, value);
    }
    std::unordered_set<std::string_view> names;
    std::uint64_t data_bytes = 0;
    for (const TensorSpec& tensor : tensors) {
        check_spec(tensor, where);
        if (!names.insert(tensor.name).second) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor.name) + "' would occur twice");
        }
        put_string(out, tensor.name);
        put(out, static_cast<std::uint32_t>(tensor.dims.size()));
        for (std::size_t d = tensor.dims.size(); d-- > 0;) put(out, tensor.dims[d]);
        put(out, tensor.type);
        put(out, data_bytes);
        layout.offsets.push_back(data_bytes);
        layout.bytes.push_back(*tensor_bytes(tensor.type, tensor.dims));
        const auto end = checked_add(data_bytes, layout.bytes.back());
        const auto padded = end ? checked_round_up(*end, alignment) : std::nullopt;
        if (!padded || *padded > INT64_MAX) {
            throw Error(Exit::kBadData, where, "the tensors' sizes pass 2^63 bytes");
        }
        data_bytes = *padded;
    }
    out.resize(*checked_round_up(out.size(), alignment), '\0');
    for (std::uint64_t& offset : layout.offsets) offset += out.size();
    layout.file_bytes = out.size() + data_bytes;
    return layout;
}

}  // namespace

struct GgufWriter::State {
    std::vector<TensorSpec> tensors;
    Layout layout;
    AtomicFile file;
    std::vector<std::uint64_t> written;  // bytes so far, per tensor
    std::unique_ptr<CheckpointLog> log;  // where checkpoints are made
    std::uint64_t checked = 0;           // bytes of the file that the last one covers

    // SHA-256 of the file's bytes [begin, end); "" when they are not there.
    [[nodiscard]] std::string sum(std::uint64_t begin, std::uint64_t end) const;
    // The place in the file.
    [[nodiscard]] std::uint64_t offset_of(Position position) const {
        return position.tensor < tensors.size() ? layout.offsets[position.tensor] + position.offset
                                                : layout.file_bytes;
    }
    void take_over(const std::string& path, std::string_view build);
};

std::string GgufWriter::State::sum(std::uint64_t begin, std::uint64_t end) const {
    Buffer buffer(kHashBufferBytes, Purpose::kIo);
    Sha256 hash;
    while (begin < end) {
        const auto piece =
            buffer.span<std::byte>().first(std::min<std::uint64_t>(buffer.bytes(), end - begin));
        if (!file.read(begin, piece)) return "";
        hash.update(piece);
        begin += piece.size();
    }
    return hash.finish();
}

// What an earlier run of the same work left, as far as its sums hold.
void GgufWriter::State::take_over(const std::string& path, std::string_view build) {
    const std::string key = sha256_of(sha256_of(layout.header) + std::string(build));
    log = std::make_unique<CheckpointLog>(path + kLogSuffix, key);
    std::size_t good = 0;
    for (const Checkpoint& entry : log->entries()) {
        const bool fits = entry.end >= layout.header.size() && entry.end <= layout.file_bytes;
        if (!fits || sum(checked, entry.end) != entry.sha256) break;
        checked = entry.end;
        ++good;
    }
    log->keep_first(good);
    file.keep_first(checked, layout.file_bytes);
    for (std::size_t i = 0; i < tensors.size() && layout.offsets[i] < checked; ++i)
        written[i] = std::min(layout.bytes[i], checked - layout.offsets[i]);
}

GgufWriter::GgufWriter(const std::string& path, const Metadata& metadata,
                       std::vector<TensorSpec> tensors, IfExists if_exists,
                       std::string_view build) {
    Layout layout = lay_out(metadata, tensors, escaped(path, 1024));
    const Charge charge(Tier::kRam, Purpose::kIo, layout.header.size());
    AtomicFile file(path, layout.file_bytes, if_exists,
                    build.empty() ? Leftover::kDrop : Leftover::kKeep);
    std::vector<std::uint64_t> written(tensors.size());
    state_.reset(new State{std::move(tensors), std::move(layout), std::move(file),
                           std::move(written), nullptr});
    State& s = *state_;
    if (build.empty()) {
        ::unlink((s.file.path() + kLogSuffix).c_str());  // of a run that made checkpoints
    } else {
        s.take_over(s.file.path(), build);
    }
    s.file.write(0, std::as_bytes(std::span(s.layout.header)));
    s.layout.header = {};
}

GgufWriter::~GgufWriter() = default;

std::uint64_t GgufWriter::file_bytes() const noexcept { return state_->layout.file_bytes; }

void GgufWriter::write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> bytes) {
    const std::uint64_t size = state_->layout.bytes.at(tensor);
    if (offset > size || bytes.size() > size - offset) {
        throw Error(Exit::kFailure, escaped(state_->tensors[tensor].name),
                    "bytes to write lie outside the tensor");
    }
    state_->file.write(state_->layout.offsets[tensor] + offset, bytes);
    state_->written[tensor] += bytes.size();
}

void GgufWriter::check_complete() const {
    for (std::size_t i = 0; i < state_->tensors.size(); ++i) {
        if (state_->written[i] != state_->layout.bytes[i]) {
            throw Error(Exit::kFailure, escaped(state_->tensors[i].name),
                        std::to_string(state_->written[i]) + " of " +
                            std::to_string(state_->layout.bytes[i]) + " bytes were written");
        }
    }
}

void GgufWriter::finish() {
    check_complete();
    if (state_->log) {  // else it would outlive what it is about
        state_->file.sync();
        state_->log->remove();
    }
    state_->file.commit();
}

TensorWriter::Position GgufWriter::start() const noexcept {
    const auto& offsets = state_->layout.offsets;
    const auto after = std::upper_bound(offsets.begin(), offsets.end(), state_->checked);
    if (after == offsets.begin()) return {};
    const auto tensor = static_cast<std::size_t>(after - offsets.begin() - 1);
    return {tensor, state_->written[tensor]};
}

void GgufWriter::checkpoint(Position position) {
    State& s = *state_;
    const std::uint64_t end = s.offset_of(position);
    if (!s.log || end <= s.checked) return;
    s.file.sync();
    const std::string sum = s.sum(s.checked, end);
    if (sum.empty()) throw Error(Exit::kIo, escaped(s.file.path(), 1024), "cannot be read back");
    s.log->append({end, sum});
    s.checked = end;
}

GgufWriter::Prediction GgufWriter::predict(const Metadata& metadata,
                                           std::span<const TensorSpec> tensors) {
    const Layout layout = lay_out(metadata, tensors, metadata.file());
    return {layout.file_bytes, layout.header.size()};
}

}  // namespace thimble
