// SPDX-License-Identifier: Apache-2.0
#include "io/vector_file.h"

#include <array>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/strings.h"
#include "io/npy.h"
#include "io/safetensors.h"
#include "kernels/layout/half.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMostRows = std::uint64_t{1} << 40;

Error bad_data(const std::string& path, const std::string& what, const std::string& hint = {}) {
    return {Exit::kBadData, escaped(path, 1024), what, hint};
}

const TensorEntry& choose(const std::vector<TensorEntry>& tensors, const std::string& name,
                          const std::string& path) {
    std::vector<std::string> names;
    for (const TensorEntry& t : tensors) {
        if (t.name == name || (name.empty() && tensors.size() == 1)) return t;
        names.push_back(t.name);
    }
    if (!name.empty()) {
        throw Error(Exit::kUsage, escaped(path, 1024), "has no tensor '" + escaped(name) + "'",
                    did_you_mean(name, names));
    }
    throw Error(Exit::kUsage, escaped(path, 1024),
                "holds " + std::to_string(tensors.size()) + " tensors",
                names.empty() ? "" : "name one: --tensor " + escaped(names.front()));
}

}  // namespace

VectorFile::VectorFile(const std::string& path, const std::string& tensor) : file_(path) {
    std::array<char, 9> start{};
    if (file_.bytes() >= start.size()) file_.read(0, std::as_writable_bytes(std::span(start)));
    if (std::string_view(start.data(), kNpyMagic.size()) == kNpyMagic) {
        take_npy();
    } else if (start[8] == '{') {  // behind the header's length
        take_safetensors(tensor);
    } else {
        throw bad_data(path, "is neither a NumPy array (.npy) nor a safetensors file");
    }
    if (rows_ < 1 || dims_ < 1 || dims_ > static_cast<std::int64_t>(kMostDims)) {
        throw bad_data(path,
                       "is of " + std::to_string(rows_) + " vectors of " + std::to_string(dims_) +
                           " numbers; expected at least one of 1 to " + std::to_string(kMostDims));
    }
}

void VectorFile::take_npy() {
    Cursor cursor(file_, file_.bytes());
    const NpyHeader header = parse_npy_header(cursor, file_.bytes());
    type_ = header.type, offset_ = header.data_offset;
    if (header.rows > kMostRows) throw bad_data(path(), "has more than 2^40 rows");
    rows_ = static_cast<std::int64_t>(header.rows), dims_ = static_cast<std::int64_t>(header.cols);
}

void VectorFile::take_safetensors(const std::string& tensor) {
    Cursor cursor(file_, file_.bytes());
    const SafetensorsHeader header = parse_safetensors_header(cursor, file_.bytes());
    const TensorEntry& entry = choose(header.tensors, tensor, path());
    if (entry.type != TensorType::kF32 && entry.type != TensorType::kF16 &&
        entry.type != TensorType::kBF16) {
        throw bad_data(path(), "tensor '" + escaped(entry.name) + "' is of " +
                                   std::string(safetensors_dtype(entry.type)) +
                                   ", not F32, F16 or BF16");
    }
    if (entry.dims.size() != 2) {
        throw bad_data(path(), "tensor '" + escaped(entry.name) + "' has " +
                                   std::to_string(entry.dims.size()) + " dimensions, not two");
    }
    if (entry.dims[0] > kMostRows) throw bad_data(path(), "has more than 2^40 rows");
    type_ = entry.type, offset_ = entry.offset;
    rows_ = static_cast<std::int64_t>(entry.dims[0]),
    dims_ = static_cast<std::int64_t>(entry.dims[1]);
}

void VectorFile::read(std::int64_t first, std::int64_t count, float* out) const {
    const std::size_t size = type_ == TensorType::kF32 ? 4 : 2;
    const auto numbers = static_cast<std::size_t>(count * dims_);
    const std::uint64_t begin =
        offset_ + static_cast<std::uint64_t>(first) * static_cast<std::uint64_t>(dims_) * size;
    // Halves are read behind what they become, so that widening them in place overtakes none.
    std::byte* const to = reinterpret_cast<std::byte*>(out) + (4 - size) * numbers;
    file_.read(begin, {to, size * numbers});
    for (std::size_t i = 0; i < numbers; ++i) {
        if (size == 2) {
            std::uint16_t half = 0;
            std::memcpy(&half, to + 2 * i, sizeof half);
            out[i] = type_ == TensorType::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
        }
        if (!std::isfinite(out[i])) {
            const auto row = first + static_cast<std::int64_t>(i) / dims_;
            throw bad_data(path(), "row " + std::to_string(row) + ", number " +
                                       std::to_string(static_cast<std::int64_t>(i) % dims_) +
                                       " is not finite");
        }
    }
}

}  // namespace thimble
