// SPDX-License-Identifier: Apache-2.0
#include "model/coded_tensor.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/cpu.h"
#include "core/error.h"
#include "format/weight_format.h"

namespace thimble {
namespace {

using Code = ExponentCode;
constexpr std::size_t kCodeBytes = std::size_t{2} * Code::kSymbols;
constexpr std::int64_t kBatch = 16;   // chunks read at once
constexpr std::size_t kSlack = 1024;  // words that the decoder may read behind a batch
constexpr std::array<const char*, kCodedPlanes> kNames = {".rest", ".words", ".starts", ".code"};

template <class T>
std::span<std::byte> bytes_of(std::vector<T>& values) {
    return std::as_writable_bytes(std::span(values));
}

}  // namespace

CodedTensor::CodedTensor(const ModelFile& file, const std::string& tensor, Shape2 shape,
                         std::string where)
    : where_(std::move(where)), shape_(shape) {
    const auto rows = static_cast<std::uint64_t>(shape.rows);
    const auto cols = static_cast<std::uint64_t>(shape.cols);
    const auto chunks = static_cast<std::uint64_t>(chunks_of(shape.rows * shape.cols));
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
    rest_ = plane(kCodedRest, TensorType::kI8, rows * cols);
    if (rest_->row_elements() != cols) throw damaged("has a plane 'rest' of another shape");
    words_ = plane(kCodedWords, TensorType::kI16, 0);
    starts_ = plane(kCodedStarts, TensorType::kI32, chunks + 1);
    code_ = plane(kCodedCode, TensorType::kI8, kCodeBytes);
    form_ = block_form(LayoutId::k_bf16, shape);
}

Error CodedTensor::damaged(const std::string& what) const { return {Exit::kBadData, where_, what}; }

void CodedTensor::open(const ModelFile& file) const {
    std::vector<std::byte> bytes(kCodeBytes);
    file.read(*code_, 0, bytes);
    Code code;
    std::memcpy(code.exponents, bytes.data(), Code::kSymbols);
    std::memcpy(code.lengths, bytes.data() + Code::kSymbols, Code::kSymbols);
    if (!code.sound()) throw damaged("has a code that is not complete");
    chunk_starts_.resize(static_cast<std::size_t>(chunks_of(shape_.rows * shape_.cols)) + 1);
    file.read(*starts_, 0, bytes_of(chunk_starts_));
    if (!std::is_sorted(chunk_starts_.begin(), chunk_starts_.end()) || chunk_starts_.front() != 0 ||
        chunk_starts_.back() * sizeof(std::uint16_t) != words_->bytes)
        throw damaged("has chunks that are not one after the other");
    decoder_ = std::make_unique<ops::ExponentDecoder>(code, best_isa());
}

// Chunks [first, end).
void CodedTensor::fetch(const ModelFile& file, std::int64_t first, std::int64_t end,
                        Piece& piece) const {
    const std::uint32_t word = chunk_starts_[static_cast<std::size_t>(first)];
    const std::size_t count = chunk_starts_[static_cast<std::size_t>(end)] - word;
    const std::int64_t number = first * Code::kChunk;
    if (kept_ != nullptr) {
        piece.words = reinterpret_cast<const std::uint16_t*>(kept_) + word;
        piece.readable_end = reinterpret_cast<const std::uint16_t*>(kept_ + kept_bytes());
        piece.rest = reinterpret_cast<const std::uint8_t*>(kept_ + words_->bytes) + number;
        return;
    }
    piece.word_room.resize(count + kSlack);
    file.read(*words_, word * sizeof(std::uint16_t), bytes_of(piece.word_room).first(2 * count));
    piece.words = piece.word_room.data();
    piece.readable_end = piece.words + piece.word_room.size();
    piece.rest_room.resize(
        static_cast<std::size_t>(std::min(end * Code::kChunk, numbers()) - number));
    file.read(*rest_, static_cast<std::uint64_t>(number), bytes_of(piece.rest_room));
    piece.rest = piece.rest_room.data();
}

void CodedTensor::read(const ModelFile& file, std::size_t, RowRange rows,
                       std::span<std::byte> out) const {
    std::call_once(opened_, [&] { open(file); });
    const std::int64_t first = rows.first * shape_.cols, end = first + rows.count * shape_.cols;
    auto* to = reinterpret_cast<std::uint16_t*>(out.data());
    std::vector<std::uint16_t> chunk;
    Piece piece;
    for (std::int64_t c = first / Code::kChunk; c * Code::kChunk < end; c += kBatch) {
        const std::int64_t last = std::min(c + kBatch, chunks_of(end));
        fetch(file, c, last, piece);
        for (std::int64_t k = c; k < last; ++k) {
            const std::int64_t at = k * Code::kChunk;
            const std::int64_t n = std::min<std::int64_t>(Code::kChunk, numbers() - at);
            const auto start = [&](std::int64_t i) {
                return piece.words + (chunk_starts_[static_cast<std::size_t>(i)] -
                                      chunk_starts_[static_cast<std::size_t>(c)]);
            };
            const bool whole = at >= first && at + n <= end;
            if (!whole) chunk.resize(static_cast<std::size_t>(n));
            std::uint16_t* numbers_to = whole ? to + (at - first) : chunk.data();
            const auto size = static_cast<std::size_t>(n);
            if (!decoder_->decode({start(k), start(k + 1)}, piece.readable_end,
                                  {piece.rest + (at - c * Code::kChunk), size}, {numbers_to, size}))
                throw damaged("has damaged words in chunk " + std::to_string(k));
            if (whole) continue;
            const std::int64_t lower = std::max(at, first), upper = std::min(at + n, end);
            std::copy(chunk.begin() + (lower - at), chunk.begin() + (upper - at),
                      to + (lower - first));
        }
    }
}

std::size_t CodedTensor::kept_bytes() const noexcept {
    const std::size_t bytes = words_->bytes + rest_->bytes + kSlack * sizeof(std::uint16_t);
    return (bytes + 63) & ~std::size_t{63};
}

CodedTensor::CodedTensor(const CodedTensor& other, std::byte* memory)
    : where_(other.where_),
      shape_(other.shape_),
      rest_(other.rest_),
      words_(other.words_),
      starts_(other.starts_),
      code_(other.code_),
      kept_(memory) {
    form_ = other.form_;
    entries_ = other.entries_;
}

std::unique_ptr<const PackedTensor> CodedTensor::keep(const ModelFile& file,
                                                      std::byte* memory) const {
    file.read(*words_, 0, {memory, words_->bytes});
    file.read(*rest_, 0, {memory + words_->bytes, rest_->bytes});
    return std::unique_ptr<const PackedTensor>(new CodedTensor(*this, memory));
}

std::vector<TensorSpec> coded_specs(const std::string& tensor,
                                    const std::vector<std::uint64_t>& dims, std::uint64_t words) {
    std::int64_t numbers = 1;
    for (const std::uint64_t d : dims) numbers *= static_cast<std::int64_t>(d);
    const auto starts = static_cast<std::uint64_t>(chunks_of(numbers)) + 1;
    return {{tensor + kNames[kCodedRest], TensorType::kI8, dims},
            {tensor + kNames[kCodedWords], TensorType::kI16, {words}},
            {tensor + kNames[kCodedStarts], TensorType::kI32, {starts}},
            {tensor + kNames[kCodedCode], TensorType::kI8, {kCodeBytes}}};
}

}  // namespace thimble
