// SPDX-License-Identifier: Apache-2.0
#include "model/device_loader.h"

#include <algorithm>
#include <cstring>

#include "model/weight_memory.h"
#include "tensor/device.h"

namespace thimble {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 255) & ~std::size_t{255}; }

std::int64_t piece_rows(const SourceTensor& tensor) {
    const auto rows = static_cast<std::int64_t>(kPieceBytes / tensor.form.bytes(1));
    return std::clamp<std::int64_t>(rows, 1, tensor.rows());
}
std::size_t second_form(const SourceTensor& tensor) {
    return aligned(tensor.form.bytes(piece_rows(tensor)));
}

}  // namespace

std::size_t device_matrix_bytes(const SourceTensor& tensor) {
    return aligned(device_form(tensor).bytes(tensor.rows()));
}
std::size_t device_vector_bytes(const SourceTensor& tensor) {
    return aligned(static_cast<std::size_t>(tensor.cols()) * sizeof(float));
}

std::size_t DeviceLoader::staging_bytes(const SourceTensor& tensor) {
    if (!tensor.is_matrix) return device_vector_bytes(tensor);
    const PackedForm form = device_form(tensor);
    return second_form(tensor) +
           (form.layout == tensor.layout() ? 0 : form.bytes(piece_rows(tensor)));
}

void DeviceLoader::load(const SourceTensor& tensor, const PackedView& to, Place place) {
    const std::int64_t step = piece_rows(tensor);
    const PackedForm form = device_form(tensor);
    for (std::int64_t first = 0; first < tensor.rows(); first += step) {
        const std::int64_t count = std::min(step, tensor.rows() - first);
        const PackedView stored = source_.read_packed(tensor, first, count, staging_.data());
        verify_weights(source_, cuda_.host(), tensor, first, stored);
        const PackedView piece =
            to_device_form(cuda_.host(), stored, form, staging_.data() + second_form(tensor));
        for (int p = 0; p < to.n_planes; ++p) {
            const auto i = static_cast<std::size_t>(p);
            const bool table = to.planes[i].row_bytes == 0;
            if (piece.planes[i].bytes == 0 || (table && first > 0)) continue;
            put(const_cast<std::byte*>(to.planes[i].data) +
                    static_cast<std::size_t>(first) * to.planes[i].row_bytes,
                piece.planes[i].data, piece.planes[i].bytes, place);
        }
    }
}

void DeviceLoader::load(const SourceTensor& tensor, View to, Place place) {
    const std::vector<float> values = read_vector(source_, tensor);
    put(to.row_bytes(0), values.data(), values.size() * sizeof(float), place);
}

void DeviceLoader::put(std::byte* to, const void* from, std::size_t bytes, Place place) {
    if (place != Place::kDevice) {
        std::memcpy(to, from, bytes);
        return;
    }
    on_device([&] {
        cuda::copy_to_device(cuda_.copies(), to, from, bytes);
        cuda_.copies().wait();  // before what it came from is written again
    });
}

}  // namespace thimble
