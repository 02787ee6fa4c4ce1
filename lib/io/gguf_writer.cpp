// SPDX-License-Identifier: Apache-2.0
#include "io/gguf_writer.h"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "core/checked.h"
#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "io/checkpointed_file.h"
#include "io/gguf.h"
#include "io/sha256.h"

namespace thimble {
namespace {

// A header's bytes, or with no text only their number.
struct Sink {
    std::string* text = nullptr;
    std::uint64_t bytes = 0;
    void add(const void* data, std::size_t size) {
        if (text != nullptr) text->append(static_cast<const char*>(data), size);
        bytes += size;
    }
};

template <class T>
void put(Sink& out, T value) {
    static_assert(std::is_trivially_copyable_v<T>);
    out.add(&value, sizeof(value));
}

void put_string(Sink& out, std::string_view text) {
    put<std::uint64_t>(out, text.size());
    out.add(text.data(), text.size());
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

void put_array(Sink& out, const MetaArray& array) {
    std::visit(
        [&](const auto& elements) {
            using T = typename std::decay_t<decltype(elements)>::value_type;
            put(out, array.is_bool ? GgufType::kBool : type_of<T>());
            put<std::uint64_t>(out, elements.size());
            if constexpr (std::is_same_v<T, std::string>) {
                for (const std::string& text : elements) put_string(out, text);
            } else {
                out.add(elements.data(), elements.size() * sizeof(T));
            }
        },
        array.elements);
}

void put_value(Sink& out, const MetaValue& value) {
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

struct Layout {
    std::uint64_t header_bytes = 0;      // up to the data section
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

void put_header(Sink& out, const Metadata& metadata, std::span<const TensorSpec> tensors,
                const Layout& layout) {
    out.add("GGUF", 4);
    put<std::uint32_t>(out, 3);
    put<std::uint64_t>(out, tensors.size());
    put<std::uint64_t>(out, metadata.entries().size());
    for (const auto& [key, value] : metadata.entries()) {
        put_string(out, key);
        put_value(out, value);
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const TensorSpec& tensor = tensors[i];
        put_string(out, tensor.name);
        put(out, static_cast<std::uint32_t>(tensor.dims.size()));
        for (std::size_t d = tensor.dims.size(); d-- > 0;) put(out, tensor.dims[d]);
        put(out, tensor.type);
        put(out, layout.offsets[i] - layout.header_bytes);
    }
}

Layout lay_out(const Metadata& metadata, std::span<const TensorSpec> tensors,
               const std::string& where) {
    const std::uint64_t alignment = alignment_of(metadata, where);
    Layout layout;
    std::unordered_set<std::string_view> names;
    std::uint64_t data_bytes = 0;
    for (const TensorSpec& tensor : tensors) {
        check_spec(tensor, where);
        if (!names.insert(tensor.name).second) {
            throw Error(Exit::kBadData, where,
                        "tensor '" + escaped(tensor.name) + "' would occur twice");
        }
        layout.offsets.push_back(data_bytes);
        layout.bytes.push_back(*tensor_bytes(tensor.type, tensor.dims));
        const auto end = checked_add(data_bytes, layout.bytes.back());
        const auto padded = end ? checked_round_up(*end, alignment) : std::nullopt;
        if (!padded || *padded > INT64_MAX) {
            throw Error(Exit::kBadData, where, "the tensors' sizes pass 2^63 bytes");
        }
        data_bytes = *padded;
    }
    Sink count;
    put_header(count, metadata, tensors, layout);
    layout.header_bytes = *checked_round_up(count.bytes, alignment);
    for (std::uint64_t& offset : layout.offsets) offset += layout.header_bytes;
    layout.file_bytes = layout.header_bytes + data_bytes;
    return layout;
}

// Padded; in one piece of memory from the start.
std::string header_text(const Metadata& metadata, std::span<const TensorSpec> tensors,
                        const Layout& layout) {
    std::string text;
    text.reserve(layout.header_bytes);
    Sink out{&text};
    put_header(out, metadata, tensors, layout);
    text.resize(layout.header_bytes, '\0');
    return text;
}

}  // namespace

struct GgufWriter::State {
    std::vector<TensorSpec> tensors;
    Layout layout;
    CheckpointedFile file;
    std::vector<Progress> progress;  // per tensor

    // The place in the file.
    [[nodiscard]] std::uint64_t offset_of(Position position) const {
        return position.tensor < tensors.size() ? layout.offsets[position.tensor] + position.offset
                                                : layout.file_bytes;
    }
};

GgufWriter::GgufWriter(const std::string& path, const Metadata& metadata,
                       std::vector<TensorSpec> tensors, IfExists if_exists,
                       std::string_view build) {
    Layout layout = lay_out(metadata, tensors, escaped(path, 1024));
    const Charge charge(Tier::kRam, Purpose::kIo, layout.header_bytes);
    const std::string header = header_text(metadata, tensors, layout);
    CheckpointedFile file(path, layout.file_bytes, if_exists, checkpoint_key(header, build));
    std::vector<Progress> progress(tensors.size());
    for (std::size_t i = 0; i < tensors.size() && layout.offsets[i] < file.checked(); ++i)
        progress[i] = Progress(std::min(layout.bytes[i], file.checked() - layout.offsets[i]));
    file.write(0, std::as_bytes(std::span(header)));
    state_.reset(
        new State{std::move(tensors), std::move(layout), std::move(file), std::move(progress)});
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
    state_->progress[tensor].add(offset, bytes.size());
}

void GgufWriter::check_complete() const {
    for (std::size_t i = 0; i < state_->tensors.size(); ++i) {
        const std::uint64_t written = state_->progress[i].written;
        if (written != state_->layout.bytes[i]) {
            throw Error(Exit::kFailure, escaped(state_->tensors[i].name),
                        std::to_string(written) + " of " + std::to_string(state_->layout.bytes[i]) +
                            " bytes were written");
        }
    }
}

void GgufWriter::finish() {
    check_complete();
    state_->file.sync();
    state_->file.forget();
    state_->file.commit();
}

TensorWriter::Position GgufWriter::start() const noexcept {
    const auto& offsets = state_->layout.offsets;
    const auto after = std::upper_bound(offsets.begin(), offsets.end(), state_->file.checked());
    if (after == offsets.begin()) return {};
    const auto tensor = static_cast<std::size_t>(after - offsets.begin() - 1);
    return {tensor, state_->progress[tensor].kept};
}

void GgufWriter::checkpoint(Position position) {
    state_->file.checkpoint(state_->offset_of(position));
}

void GgufWriter::abandon() noexcept { state_->file.abandon(); }
CheckpointedFile& GgufWriter::file() noexcept { return state_->file; }
const CheckpointedFile& GgufWriter::file() const noexcept { return state_->file; }

GgufWriter::Prediction GgufWriter::predict(const Metadata& metadata,
                                           std::span<const TensorSpec> tensors) {
    const Layout layout = lay_out(metadata, tensors, metadata.file());
    return {layout.file_bytes, layout.header_bytes};
}

}  // namespace thimble
