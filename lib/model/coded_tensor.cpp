// SPDX-License-Identifier: Apache-2.0
#include "model/coded_tensor.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "core/cpu.h"
#include "core/error.h"
#include "format/weight_format.h"

namespace thimble {
namespace {

using Code = ExponentCode;
constexpr std::size_t kCodeBytes = std::size_t{2} * Code::kSymbols;
constexpr std::int64_t kBatch = 16;   // strips read at once
constexpr std::size_t kSlack = 1024;  // words that the decoder may read behind a batch
constexpr std::array<const char*, kCodedPlanes> kNames = {".rest", ".words", ".starts", ".code",
                                                          ".low"};

template <class T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
    return std::as_writable_bytes(std::span(values));
}
constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

}  // namespace

CodedTensor::CodedTensor(const ModelFile& file, const std::string& tensor, Shape2 shape,
                         FloatKind kind, std::string where)
    : where_(std::move(where)), chunks_{shape.rows, shape.cols}, kind_(kind) {
    if (shape.rows < 1 || shape.cols < 1 || shape.cols > ExponentChunks::kMostCols)
        throw damaged("has a shape that no coded matrix has");
    const auto plane = [&](CodedPlane p, TensorType type, std::uint64_t elements) {
        const TensorEntry* entry = file.find(tensor + kNames[p]);
        if (entry == nullptr)
            throw damaged("names plane '" + std::string(kNames[p] + 1) + "', which is missing");
        if (entry->type != type ||
            (elements > 0 && entry->rows() * entry->row_elements() != elements))
            throw damaged("has a plane '" + std::string(kNames[p] + 1) +
                          "' of another size or type");
        entries_.push_back(entry);
        return entry;
    };
    rest_ = plane(kCodedRest, TensorType::kI8, 0);
    if (rest_->rows() != static_cast<std::uint64_t>(shape.rows) ||
        rest_->row_elements() != static_cast<std::uint64_t>(shape.cols))
        throw damaged("has a plane 'rest' of another shape");
    words_ = plane(kCodedWords, TensorType::kI16, 0);
    starts_ =
        plane(kCodedStarts, TensorType::kI32, static_cast<std::uint64_t>(chunks_.chunks()) + 1);
    code_entry_ = plane(kCodedCode, TensorType::kI8, kCodeBytes);
    if (low_bits(kind) > 0 && file.find(tensor + kNames[kCodedLow]) != nullptr)
        low_ = plane(kCodedLow, TensorType::kI8,
                     low_bytes(kind, static_cast<std::uint64_t>(chunks_.numbers())));
    form_ = block_form(kind == FloatKind::kF32   ? LayoutId::k_f32
                       : kind == FloatKind::kF16 ? LayoutId::k_f16
                                                 : LayoutId::k_bf16,
                       shape);
}

Error CodedTensor::damaged(const std::string& what) const { return {Exit::kBadData, where_, what}; }

void CodedTensor::open(const ModelFile& file) const {
    std::vector<std::byte> bytes(kCodeBytes);
    file.read(*code_entry_, 0, bytes);
    std::memcpy(code_.exponents, bytes.data(), Code::kSymbols);
    std::memcpy(code_.lengths, bytes.data() + Code::kSymbols, Code::kSymbols);
    if (!code_.sound()) throw damaged("has a code that is not complete");
    chunk_starts_.resize(static_cast<std::size_t>(chunks_.chunks()) + 1);
    file.read(*starts_, 0, bytes_of(chunk_starts_));
    if (!std::is_sorted(chunk_starts_.begin(), chunk_starts_.end()) || chunk_starts_.front() != 0 ||
        chunk_starts_.back() * sizeof(std::uint16_t) != words_->bytes)
        throw damaged("has chunks that are not one after the other");
    decoder_ = std::make_unique<ops::ExponentDecoder>(code_, best_isa());
}

// Of a strip's first chunk, among all.
std::size_t CodedTensor::start(std::int64_t strip) const {
    return static_cast<std::size_t>(std::min(strip, chunks_.strips()) * chunks_.chunks_of_strip());
}

// Strips [first, end).
void CodedTensor::fetch(const ModelFile& file, std::int64_t first, std::int64_t end,
                        Piece& piece) const {
    const std::uint32_t word = chunk_starts_[start(first)];
    const std::size_t count = chunk_starts_[start(end)] - word;
    piece.words.resize(count + kSlack);
    file.read(*words_, word * sizeof(std::uint16_t), bytes_of(piece.words).first(2 * count));
    const std::int64_t number = first * chunks_.strip_numbers();
    const std::int64_t last = std::min(end * chunks_.strip_numbers(), chunks_.numbers());
    piece.rest.resize(static_cast<std::size_t>(last - number));
    file.read(*rest_, static_cast<std::uint64_t>(number), bytes_of(piece.rest));
}

void CodedTensor::read(const ModelFile& file, std::size_t, RowRange rows,
                       std::span<std::byte> out) const {
    std::call_once(opened_, [&] { open(file); });
    const std::int64_t step = chunks_.strip_rows(), end = rows.first + rows.count;
    std::vector<std::uint16_t> high(  // of other types than bfloat16
        kind_ == FloatKind::kBF16 ? 0 : static_cast<std::size_t>(rows.count * chunks_.cols));
    auto* to = high.empty() ? reinterpret_cast<std::uint16_t*>(out.data()) : high.data();
    std::vector<std::uint16_t> numbers(static_cast<std::size_t>(chunks_.strip_numbers()));
    Piece piece;
    for (std::int64_t s = rows.first / step; s * step < end; s += kBatch) {
        const std::int64_t last = std::min(s + kBatch, (end + step - 1) / step);
        fetch(file, s, last, piece);
        for (std::int64_t k = s; k < last; ++k) {
            const std::uint32_t* starts = &chunk_starts_[start(k)];
            const ops::CodedStrip strip{piece.words.data() + (*starts - chunk_starts_[start(s)]),
                                        piece.words.data() + piece.words.size(),
                                        piece.rest.data() + (k - s) * chunks_.strip_numbers(),
                                        starts};
            if (!ops::decode_strip(*decoder_, chunks_, k, strip, numbers.data()))
                throw damaged("has damaged words from row " + std::to_string(k * step) + " on");
            const std::int64_t from = std::max(rows.first, k * step);
            const std::int64_t until = std::min(end, (k + 1) * step);
            chunks_.unweave(k, from - k * step, until - k * step, numbers.data(),
                            to + (from - rows.first) * chunks_.cols);
        }
    }
    if (!high.empty()) join(file, rows, high, out);
}

// With the low bits of these rows.
void CodedTensor::join(const ModelFile& file, RowRange rows, std::span<const std::uint16_t> high,
                       std::span<std::byte> out) const {
    const auto bits = static_cast<std::uint64_t>(low_bits(kind_));
    const std::uint64_t first = static_cast<std::uint64_t>(rows.first * chunks_.cols) * bits;
    const std::uint64_t end = first + high.size() * bits;
    std::vector<std::uint8_t> low;
    if (low_ != nullptr) {
        low.resize(static_cast<std::size_t>((end + 7) / 8 - first / 8));
        file.read(*low_, first / 8, bytes_of(low));
    }
    join_floats(kind_, high, low, first % 8, out);
}

// In memory: the words, which may be read beyond their end, then the rest, then the starts.
std::size_t CodedTensor::kept_bytes() const noexcept {
    if (kind_ != FloatKind::kBF16) return 0;
    return aligned(words_->bytes) + aligned(rest_->bytes + kSlack * sizeof(std::uint16_t)) +
           aligned(starts_->bytes);
}

std::unique_ptr<const ops::CodedMatrix> CodedTensor::keep(const ModelFile& file, std::byte* memory,
                                                          Isa isa) const {
    std::call_once(opened_, [&] { open(file); });
    std::byte* const rest = memory + aligned(words_->bytes);
    std::byte* const starts = memory + kept_bytes() - aligned(starts_->bytes);
    file.read(*words_, 0, {memory, words_->bytes});
    file.read(*rest_, 0, {rest, rest_->bytes});
    std::memcpy(starts, chunk_starts_.data(), starts_->bytes);
    const ops::CodedStrip all{reinterpret_cast<const std::uint16_t*>(memory),
                              reinterpret_cast<const std::uint16_t*>(starts),
                              reinterpret_cast<const std::uint8_t*>(rest),
                              reinterpret_cast<const std::uint32_t*>(starts)};
    return std::make_unique<const ops::CodedMatrix>(code_, chunks_, all, isa);
}

std::vector<TensorSpec> coded_specs(const std::string& tensor,
                                    const std::vector<std::uint64_t>& dims, std::uint64_t words,
                                    std::uint64_t low) {
    std::uint64_t rows = 1;
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) rows *= dims[i];
    const ExponentChunks chunks{static_cast<std::int64_t>(rows),
                                static_cast<std::int64_t>(dims.back())};
    std::vector<TensorSpec> specs = {{tensor + kNames[kCodedRest], TensorType::kI8, dims},
                                     {tensor + kNames[kCodedWords], TensorType::kI16, {words}},
                                     {tensor + kNames[kCodedStarts],
                                      TensorType::kI32,
                                      {static_cast<std::uint64_t>(chunks.chunks()) + 1}},
                                     {tensor + kNames[kCodedCode], TensorType::kI8, {kCodeBytes}}};
    if (low > 0) specs.push_back({tensor + kNames[kCodedLow], TensorType::kI8, {low}});
    return specs;
}

namespace {

constexpr std::array<std::pair<FloatKind, TensorType>, 3> kKinds = {
    std::pair{FloatKind::kBF16, TensorType::kBF16},
    {FloatKind::kF16, TensorType::kF16},
    {FloatKind::kF32, TensorType::kF32}};

}  // namespace

std::optional<FloatKind> float_kind(TensorType type) noexcept {
    for (const auto& [kind, of] : kKinds)
        if (of == type) return kind;
    return std::nullopt;
}

std::string describe_coded(Shape2 shape, FloatKind kind) {
    Json json = Json::object();
    json.set("format", kCodedFormat);
    json.set("version", kCodedVersion);
    json.set("shape", JsonArray{shape.rows, shape.cols});
    for (const auto& [of, type] : kKinds)
        if (of == kind) json.set("type", find_tensor_type(type)->name);
    json.set("linear", Json::object());
    return json.dump();
}

FloatKind coded_kind(const Json& description, std::string_view where) {
    const Json* version = description.find("version");
    const Json* name = description.find("type");
    if (version == nullptr || version->as_int(where) != kCodedVersion || name == nullptr)
        throw Error(Exit::kBadData, std::string(where),
                    "is of a version that this program does not know", "compress the source anew");
    const TensorTypeInfo* info = find_tensor_type(name->as_string(where));
    if (const auto kind = info == nullptr ? std::nullopt : float_kind(info->type)) return *kind;
    throw Error(Exit::kBadData, std::string(where), "names a type whose exponents are not coded");
}

}  // namespace thimble
