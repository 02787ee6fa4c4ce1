// SPDX-License-Identifier: Apache-2.0
// Weights in one buffer, each in the layout that this machine multiplies fastest: what stores keep
// for good. Room is taken tensor by tensor, then all are read piece by piece, checked and repacked;
// with an exec on a CUDA device they lie there.
#pragma once

#include <map>

#include "model/store.h"
#include "ops/exponents.h"

namespace thimble {

// The layout that a matrix is multiplied from.
[[nodiscard]] LayoutId working_layout(const SourceTensor& tensor, const Exec& exec, bool repack);
// How it lies for that: so that rows can be skipped, where kernels do so.
[[nodiscard]] Skips working_skips(const SourceTensor& tensor, const Exec& exec, bool repack);
[[nodiscard]] constexpr std::size_t weight_aligned(std::size_t bytes) noexcept {
    return (bytes + 63) & ~std::size_t{63};
}
// A matrix of floats that lies as [cols, rows].
[[nodiscard]] PackedView transposed_view(const SourceTensor& tensor, const std::byte* data);
// Whether it takes less memory as it is stored than as it is multiplied, and need not be decoded
// for that.
[[nodiscard]] bool stays_coded(const SourceTensor& tensor, const Exec& exec) noexcept;
// No weight or scale of rows from `first` on may be infinite or NaN: Error(kBadData) naming the
// file and the tensor.
void verify_weights(const ModelSource& source, const Exec& exec, const SourceTensor& tensor,
                    std::int64_t first, const PackedView& piece);

// The same of a coded matrix, and its codes must be sound: all of it is decoded once.
void verify_coded(const ModelSource& source, const Exec& exec, const SourceTensor& tensor,
                  const ops::CodedMatrix& matrix);

// A vector's values, checked to be finite.
[[nodiscard]] std::vector<float> read_vector(const ModelSource& source, const SourceTensor& tensor);

class WeightMemory {
  public:
    // `exec` needs no team before load().
    WeightMemory(const ModelSource& source, const Exec& exec, bool repack, bool keep_coded)
        : source_(source), exec_(exec), repack_(repack), keep_coded_(keep_coded) {}

    // Takes room. A matrix may be added twice (a tied head) and is held once; one that is only
    // looked up by row keeps its stored layout.
    void add_matrix(const SourceTensor& tensor, bool multiplied);
    void add_vector(const SourceTensor& tensor);
    void add_unit(const UnitSpec& unit, bool multiplied);
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::size_t staging_bytes() const noexcept { return staging_bytes_; }

    void load();  // once
    [[nodiscard]] const PackedView& matrix(const SourceTensor& tensor) const {
        return matrices_.at(&tensor);
    }
    [[nodiscard]] View vector(const SourceTensor& tensor) const { return vectors_.at(&tensor); }
    [[nodiscard]] UnitWeights unit(const UnitSpec& unit) const;
    // A matrix of a unit whose vectors are here and whose weights are anywhere.
    [[nodiscard]] Linear linear(const UnitSpec::Matrix& m, const PackedView& weight) const;
    void add_vectors(const UnitSpec& unit);

  private:
    struct Placed {
        const SourceTensor* tensor = nullptr;
        LayoutId layout = LayoutId::k_f32;
        std::size_t offset = 0, bytes = 0;
        bool coded = false;
        bool transposed = false;
    };
    [[nodiscard]] PackedView load_matrix(const Placed& place, std::byte* staging);
    [[nodiscard]] PackedView load_stored(const SourceTensor& tensor, std::byte* out);
    [[nodiscard]] PackedView load_transposed(const SourceTensor& tensor, std::byte* out,
                                             std::byte* staging);
    [[nodiscard]] PackedView load_coded(const Placed& place);
    [[nodiscard]] View load_vector(const Placed& place);
    void load_on_device();
    [[nodiscard]] bool on_device() const noexcept { return exec_.device == Device::kCuda; }

    const ModelSource& source_;
    Exec exec_;
    bool repack_, keep_coded_;
    std::vector<Placed> places_;
    std::map<const SourceTensor*, PackedView> matrices_;  // filled by load()
    std::map<const SourceTensor*, View> vectors_;
    std::vector<std::unique_ptr<const ops::CodedMatrix>> coded_;
    std::size_t bytes_ = 0, staging_bytes_ = 0;
    Buffer memory_;
};

// Bytes that one decoded token reads of these units: the embedding's row, all of the others, with
// what it may skip among them.
[[nodiscard]] std::uint64_t bytes_per_token_of(const std::vector<UnitWeights>& units);

}  // namespace thimble
