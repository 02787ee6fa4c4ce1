// SPDX-License-Identifier: Apache-2.0
#include "compress/tensor_coder.h"

#include <algorithm>

#include "codec/exponent_coder.h"
#include "core/checked.h"
#include "core/error.h"

namespace thimble {
namespace {

constexpr std::size_t kBatchBytes = std::size_t{4} << 20;
constexpr std::size_t kSlack = 1024;           // words behind a chunk that its decoder may read
constexpr std::uint64_t kLeastNumbers = 1024;  // of a tensor that is worth its planes' names

std::uint64_t numbers_of(const TensorEntry& tensor) {
    return tensor.rows() * tensor.row_elements();
}
ExponentChunks chunks_of(const TensorEntry& tensor) {
    return {static_cast<std::int64_t>(tensor.rows()),
            static_cast<std::int64_t>(tensor.row_elements())};
}
FloatKind kind_of(const TensorEntry& tensor) { return float_kind(tensor.type).value(); }

}  // namespace

bool TensorCoder::takes(const TensorEntry& tensor) noexcept {
    return float_kind(tensor.type).has_value() && tensor.dims.size() > 1 &&
           tensor.dims.size() <= 4 && numbers_of(tensor) >= kLeastNumbers &&
           tensor.row_elements() <= ExponentChunks::kMostCols;
}

std::size_t TensorCoder::batch_bytes(const TensorEntry& tensor) noexcept {
    if (!takes(tensor)) return kBatchBytes;
    const std::size_t strip =
        bytes_of(kind_of(tensor)) * static_cast<std::size_t>(chunks_of(tensor).strip_numbers());
    return std::max<std::size_t>(kBatchBytes / strip, 1) * strip;
}

std::uint64_t TensorCoder::memory_bytes(const TensorEntry& tensor) noexcept {
    // The bytes, their numbers and low bits, what is not coded, and the words at most.
    const std::size_t batch = batch_bytes(tensor);
    if (!takes(tensor)) return batch;
    return batch + 3 * batch + 4 * (static_cast<std::uint64_t>(chunks_of(tensor).chunks()) + 1);
}

// fn(batch) for each.
template <class Fn>
bool TensorCoder::each_batch(const ModelFile& file, const TensorEntry& tensor,
                             const Advance& advance, Fn&& fn) {
    const std::size_t step = batch_bytes(tensor);
    const FloatKind kind = kind_of(tensor);
    for (std::uint64_t at = 0; at < tensor.bytes; at += step) {
        const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(step, tensor.bytes - at));
        const std::span<std::byte> bytes(memory_.data(), n);
        file.read(tensor, at, bytes);
        split_floats(kind, bytes, numbers_, low_);
        fn(Batch{at / bytes_of(kind), numbers_, low_});
        if (!advance(n)) return false;
    }
    return true;
}

// The words of a batch's chunks; also(place, numbers, words) is called for each on any thread,
// `place` that of its numbers in the batch.
template <class Fn>
std::span<const std::vector<std::uint16_t>> TensorCoder::encode(const Batch& batch,
                                                                const ExponentChunks& chunks,
                                                                const ExponentCode& code,
                                                                Fn&& also) {
    const ExponentCoder coder(code);
    const std::int64_t strip = chunks.strip_numbers(), parts = chunks.chunks_of_strip();
    const std::int64_t begin = static_cast<std::int64_t>(batch.first) / strip;
    const std::int64_t strips = ceil_div(std::ssize(batch.numbers), strip);
    words_.resize(std::max(words_.size(), static_cast<std::size_t>(strips * parts)));
    team_.run(strips, 1, [&](std::int64_t s, std::int64_t) {
        std::vector<std::uint16_t> woven(static_cast<std::size_t>(strip));
        chunks.weave(begin + s, batch.numbers.data() + s * strip, woven.data());
        for (std::int64_t c = 0; c < parts; ++c) {
            const std::int64_t from = chunks.start(begin + s, c);
            const std::int64_t until = chunks.start(begin + s, c + 1);
            const auto part = std::span<const std::uint16_t>(woven).subspan(
                static_cast<std::size_t>(from), static_cast<std::size_t>(until - from));
            auto& words = words_[static_cast<std::size_t>(s * parts + c)];
            coder.encode(part, words);
            also(s * strip + from, part, words);
        }
    });
    return std::span(words_).first(static_cast<std::size_t>(strips * parts));
}

bool TensorCoder::choose(const ModelFile& file, const TensorEntry& tensor, const Advance& advance,
                         CodedChoice& choice) {
    ExponentCounts counts{};
    bool low = false;
    if (!each_batch(file, tensor, advance, [&](const Batch& batch) {
            count_exponents(batch.numbers, counts);
            low = low || !batch.low.empty();
        }))
        return false;
    const FloatKind kind = kind_of(tensor);
    const std::uint64_t numbers = numbers_of(tensor);
    choice = {};
    choice.low = low;
    choice.entropy_bits = 8 + (low ? low_bits(kind) : 0) + entropy_bits(counts);
    choice.code = best_code(counts);
    std::uint64_t words = 0;
    choice.starts = {0};
    const ExponentChunks chunks = chunks_of(tensor);
    if (!each_batch(file, tensor, advance, [&](const Batch& batch) {
            for (const auto& chunk : encode(batch, chunks, choice.code, [](auto&&...) {})) {
                words += chunk.size();
                choice.starts.push_back(static_cast<std::uint32_t>(words));
            }
        }))
        return false;
    choice.stored =
        numbers + 2 * words + 4 * choice.starts.size() + 32 + (low ? low_bytes(kind, numbers) : 0);
    choice.coded = choice.stored < tensor.bytes && words <= INT32_MAX;
    return true;
}

bool TensorCoder::write(const ModelFile& file, const TensorEntry& tensor, const CodedChoice& choice,
                        const Put& put, const Advance& advance) {
    put(kCodedStarts, 0, std::as_bytes(std::span(choice.starts)));
    put(kCodedCode, 0, std::as_bytes(std::span(choice.code.exponents)));
    put(kCodedCode, sizeof choice.code.exponents, std::as_bytes(std::span(choice.code.lengths)));
    const ExponentChunks chunks = chunks_of(tensor);
    const FloatKind kind = kind_of(tensor);
    const ops::ExponentDecoder decoder(choice.code, isa_);
    std::vector<std::uint8_t> rest;
    std::uint64_t words = 0;
    return each_batch(file, tensor, advance, [&](const Batch& batch) {
        rest.resize(batch.numbers.size());
        const auto coded = encode(
            batch, chunks, choice.code,
            [&](std::int64_t place, std::span<const std::uint16_t> part,
                std::vector<std::uint16_t>& of) {
                const auto mine =
                    std::span(rest).subspan(static_cast<std::size_t>(place), part.size());
                std::transform(part.begin(), part.end(), mine.begin(), rest_of_bf16);
                std::vector<std::uint16_t> again(part.size());
                const std::size_t n = of.size();
                of.resize(n + kSlack);
                const bool same =
                    decoder.decode(std::span(of).first(n), of.data() + of.size(), mine, again) &&
                    std::equal(part.begin(), part.end(), again.begin());
                of.resize(n);
                if (!same)
                    throw Error(Exit::kFailure, tensor.name, "does not decode to what was coded");
            });
        put(kCodedRest, batch.first, std::as_bytes(std::span(rest)));
        for (const auto& chunk : coded) {
            put(kCodedWords, 2 * words, std::as_bytes(std::span(chunk)));
            words += chunk.size();
        }
        if (!choice.low) return;
        const std::uint64_t at = low_bytes(kind, batch.first);
        low_.resize(low_bytes(kind, batch.numbers.size()), 0);  // this batch's may all be zero
        put(kCodedLow, at, std::as_bytes(std::span(low_)));
    });
}

}  // namespace thimble
