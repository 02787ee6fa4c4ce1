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

void CodedTensor::read(const ModelFile& file, std::size_t, RowRange rows,
                       std::span<std::byte> out) const {
    std::call_once(opened_, [&] { open(file); });
    const std::int64_t first = rows.first * shape_.cols, end = first + rows.count * shape_.cols;
    const std::int64_t total = shape_.rows * shape_.cols;
    auto* to = reinterpret_cast<std::uint16_t*>(out.data());
    std::vector<std::uint16_t> words, chunk;
    std::vector<std::uint8_t> rest;
    for (std::int64_t c = first / Code::kChunk; c * Code::kChunk < end; c += kBatch) {
        const std::int64_t last = std::min(c + kBatch, chunks_of(end));
        const std::int64_t begin = c * Code::kChunk;
        const std::uint32_t base = chunk_starts_[static_cast<std::size_t>(c)];
        const std::size_t count = chunk_starts_[static_cast<std::size_t>(last)] - base;
        words.resize(count + kSlack);
        file.read(*words_, base * sizeof(std::uint16_t), bytes_of(words).first(2 * count));
        rest.resize(static_cast<std::size_t>(std::min(last * Code::kChunk, total) - begin));
        file.read(*rest_, static_cast<std::uint64_t>(begin), bytes_of(rest));
        for (std::int64_t k = c; k < last; ++k) {
            const std::int64_t at = k * Code::kChunk;
            const std::int64_t n = std::min<std::int64_t>(Code::kChunk, total - at);
            const auto part = std::span<const std::uint8_t>(rest).subspan(
                static_cast<std::size_t>(at - begin), static_cast<std::size_t>(n));
            const std::size_t from = chunk_starts_[static_cast<std::size_t>(k)] - base;
            const std::size_t to_word = chunk_starts_[static_cast<std::size_t>(k) + 1] - base;
            const bool whole = at >= first && at + n <= end;
            if (!whole) chunk.resize(part.size());
            const std::span<std::uint16_t> numbers =
                whole ? std::span(to + (at - first), part.size()) : std::span(chunk);
            if (!decoder_->decode(std::span(words).subspan(from, to_word - from),
                                  words.data() + words.size(), part, numbers))
                throw damaged("has damaged words in chunk " + std::to_string(k));
            if (whole) continue;
            const std::int64_t lower = std::max(at, first), upper = std::min(at + n, end);
            std::copy(chunk.begin() + (lower - at), chunk.begin() + (upper - at),
                      to + (lower - first));
        }
    }
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
