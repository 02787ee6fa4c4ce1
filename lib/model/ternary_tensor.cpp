// SPDX-License-Identifier: Apache-2.0
#include "model/ternary_tensor.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/error.h"
#include "format/weight_format.h"
#include "kernels/layout/half.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

// fn(values) over rows of `cols` floats, a piece at a time; `read` fetches them.
template <class Read, class Fn>
void for_pieces(RowRange rows, std::int64_t cols, Read&& read, Fn&& fn) {
    const auto row = static_cast<std::size_t>(cols) * sizeof(float);
    const auto step = static_cast<std::int64_t>(std::max<std::size_t>(kPieceBytes / row, 1));
    std::vector<float> values;
    for (std::int64_t first = 0; first < rows.count; first += step) {
        const std::int64_t count = std::min(step, rows.count - first);
        values.resize(static_cast<std::size_t>(count * cols));
        read(RowRange{rows.first + first, count}, values.data());
        fn(values);
    }
}

class TernaryTensor final : public PackedTensor {
  public:
    TernaryTensor(const TensorEntry& entry, LayoutId layout)
        : entry_(entry),
          shape_{static_cast<std::int64_t>(entry.dims[0]),
                 static_cast<std::int64_t>(entry.dims[1])},
          stored_(block_form(layout, shape_)) {
        entries_ = {&entry};
        form_ = block_form(LayoutId::k_f16, shape_);
    }

    void read(const ModelFile& file, std::size_t, RowRange rows,
              std::span<std::byte> out) const override {
        std::call_once(measured_, [&] { measure(file); });
        const std::uint16_t values[] = {f32_to_f16(-rounded_), 0, f32_to_f16(rounded_)};
        auto* to = reinterpret_cast<std::uint16_t*>(out.data());
        for_pieces(
            rows, shape_.cols, [&](RowRange r, float* w) { fetch(file, r, w); },
            [&](std::span<const float> w) {
                for (const float x : w) *to++ = values[1 + code(static_cast<double>(x))];
            });
    }

  private:
    [[nodiscard]] int code(double w) const {
        return static_cast<int>(std::clamp(std::nearbyint(w / scale_), -1.0, 1.0));
    }

    void fetch(const ModelFile& file, RowRange rows, float* out) const {
        std::vector<std::byte> packed(stored_.bytes(rows.count));
        const std::size_t row = stored_.planes[0].row_bytes;
        file.read(entry_, static_cast<std::uint64_t>(rows.first) * row, packed);
        format_of(stored_.layout)
            .decode(stored_.view({rows.count, shape_.cols}, packed.data()), {0, rows.count},
                    {out, DType::kF32, rows.count, shape_.cols, shape_.cols});
    }

    void measure(const ModelFile& file) const {
        double sum = 0;
        for_pieces(
            {0, shape_.rows}, shape_.cols, [&](RowRange r, float* w) { fetch(file, r, w); },
            [&](std::span<const float> w) {
                for (const float x : w) sum += std::abs(static_cast<double>(x));
            });
        scale_ = std::max(sum / static_cast<double>(shape_.rows * shape_.cols), 1e-5);
        rounded_ = f16_to_f32(f32_to_f16(static_cast<float>(scale_)));
        if (std::isfinite(sum) && std::isfinite(rounded_)) return;
        throw Error(Exit::kBadData, escaped(file.path(), 1024),
                    "tensor '" + escaped(entry_.name) +
                        "' has a weight that is infinite or NaN, or a mean beyond F16");
    }

    const TensorEntry& entry_;
    Shape2 shape_;
    PackedForm stored_;
    mutable std::once_flag measured_;
    mutable double scale_ = 0;   // that makes the codes
    mutable float rounded_ = 0;  // that they are multiplied by
};

class LatentTensor final : public PackedTensor {
  public:
    LatentTensor(const ModelSource& source, const SourceTensor& tensor)
        : source_(source), tensor_(tensor) {
        if (tensor.packed) entries_ = tensor.packed->entries();
        if (tensor.entry) entries_ = {tensor.entry};
        form_ = block_form(LayoutId::k_f32, {tensor.rows(), tensor.cols()});
    }

    void read(const ModelFile&, std::size_t, RowRange rows,
              std::span<std::byte> out) const override {
        std::call_once(measured_, [&] { measure(); });
        auto* to = reinterpret_cast<float*>(out.data());
        for_pieces(
            rows, tensor_.cols(), [&](RowRange r, float* w) { fetch(r, w); },
            [&](std::span<const float> w) {
                for (const float x : w)
                    *to++ = static_cast<float>(static_cast<double>(x) * factor_);
            });
    }

  private:
    void fetch(RowRange rows, float* out) const {
        std::vector<std::byte> scratch;
        source_.read_rows(tensor_, rows.first, rows.count, out, scratch);
    }

    // Zeros lower the mean: the others are enlarged by as much, and are still nearest to their
    // code.
    void measure() const {
        float scale = 0;
        std::uint64_t others = 0;
        for_pieces(
            {0, tensor_.rows()}, tensor_.cols(), [&](RowRange r, float* w) { fetch(r, w); },
            [&](std::span<const float> w) {
                for (const float x : w) {
                    if (x == 0) continue;
                    if (scale == 0) scale = std::abs(x);
                    if (std::abs(x) != scale) refuse();
                    ++others;
                }
            });
        const auto all = static_cast<double>(tensor_.rows()) * static_cast<double>(tensor_.cols());
        factor_ = others > 0 ? all / static_cast<double>(others) : 1;
    }

    [[noreturn]] void refuse() const {
        throw Error(Exit::kBadData, escaped(source_.file().path(), 1024),
                    "tensor '" + tensor_.name +
                        "' is no longer ternary: who reads a Hugging Face directory of this "
                        "architecture would make it so",
                    "start from the checkpoint, or from a file in f16, f32, tq1_0 or tq2_0");
    }

    const ModelSource& source_;
    const SourceTensor& tensor_;
    mutable std::once_flag measured_;
    mutable double factor_ = 1;
};

}  // namespace

std::shared_ptr<const PackedTensor> make_ternary_tensor(const TensorEntry& entry, LayoutId layout) {
    return std::make_shared<TernaryTensor>(entry, layout);
}

std::shared_ptr<const PackedTensor> make_latent_tensor(const ModelSource& source,
                                                       const SourceTensor& tensor) {
    return std::make_shared<LatentTensor>(source, tensor);
}

}  // namespace thimble
