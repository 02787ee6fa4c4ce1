// SPDX-License-Identifier: Apache-2.0
#include "compress/vector_space.h"

#include <algorithm>
#include <cmath>

#include "ops/scan.h"

namespace thimble {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;
constexpr std::int64_t kMostRows = 4096;

std::size_t float_bytes(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(float);
}

}  // namespace

double normalise(float* x, std::int64_t rows, std::int64_t stride, std::int64_t dims) noexcept {
    double lengths = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
        float* const row = x + r * stride;
        double squares = 0;
        for (std::int64_t d = 0; d < dims; ++d)
            squares += static_cast<double>(row[d]) * static_cast<double>(row[d]);
        if (squares == 0) continue;
        const double length = std::sqrt(squares);
        lengths += length;
        for (std::int64_t d = 0; d < dims; ++d)
            row[d] = static_cast<float>(static_cast<double>(row[d]) / length);
    }
    return lengths;
}

VectorSpace::VectorSpace(SpaceSetting setting, VectorPasses& passes, Team& team, Isa isa)
    : setting_(std::move(setting)),
      passes_(passes),
      team_(team),
      isa_(isa),
      x_(float_bytes(setting_.most_rows * setting_.file->dims() + cpu::kScanPadding),
         Purpose::kIo) {
    std::fill_n(x_.as<float>(), x_.bytes() / sizeof(float), 0.0f);
}

void VectorSpace::read(const Take& fn) {
    const VectorFile& file = *setting_.file;
    const RowChoice& choice = setting_.rows;
    std::vector<std::int64_t> rows;
    const auto give = [&] {
        if (!rows.empty()) {
            fn({x_.as<float>(), rows.size() * static_cast<std::size_t>(file.dims())}, rows);
        }
        rows.clear();
    };
    if (choice.only) {
        for (const std::int64_t row : choice.rows) {
            if (passes_.stopped()) return;
            file.read(row, 1, x_.as<float>() + std::ssize(rows) * file.dims());
            rows.push_back(row);
            if (std::ssize(rows) == setting_.most_rows) give();
            passes_.add(1);
        }
        return give();
    }
    auto next = choice.rows.begin();
    for (std::int64_t first = 0; first < file.rows(); first += setting_.most_rows) {
        if (passes_.stopped()) return;
        const std::int64_t count = std::min(setting_.most_rows, file.rows() - first);
        file.read(first, count, x_.as<float>());
        for (std::int64_t i = 0; i < count; ++i) {
            if (next != choice.rows.end() && *next == first + i) {
                ++next;
                continue;
            }
            if (std::ssize(rows) < i) {
                std::copy_n(x_.as<float>() + i * file.dims(), file.dims(),
                            x_.as<float>() + std::ssize(rows) * file.dims());
            }
            rows.push_back(first + i);
        }
        give();
        passes_.add(count);
    }
}

void VectorSpace::each(const Take& fn) {
    const std::int64_t dims = setting_.file->dims();
    read([&](std::span<float> x, std::span<const std::int64_t> rows) {
        if (setting_.similarity == Similarity::kCosine) {
            team_.run(std::ssize(rows), 64, [&](std::int64_t begin, std::int64_t end) {
                (void)normalise(x.data() + begin * dims, end - begin, dims, dims);
            });
        }
        fn(x, rows);
    });
}

void VectorSpace::each(const Projection& projection, const TakeProjected& fn) {
    const std::int64_t dims = setting_.file->dims(), most = projection.kept.back();
    const std::int64_t full_stride = ops::padded_dims(most);
    const bool plain = projection.kept.front() == 0,
               cosine = setting_.similarity == Similarity::kCosine;
    const auto need = [&](Buffer& buffer, std::int64_t stride) {
        const std::size_t bytes = float_bytes(setting_.most_rows * stride);
        if (buffer.bytes() < bytes) buffer = Buffer(bytes, Purpose::kIo);
    };
    need(z_, ops::padded_dims(plain ? dims : most));
    if (most > 0) need(full_, full_stride);
    lengths_.assign(projection.kept.size(), 0.0);
    seen_ = 0;
    std::vector<double> lengths;
    each([&](std::span<float> x, std::span<const std::int64_t> rows) {
        const std::int64_t n = std::ssize(rows);
        seen_ += n;
        for (std::size_t i = 0; i < projection.kept.size(); ++i) {
            const std::int64_t kept = projection.kept[i], count = kept > 0 ? kept : dims;
            const std::int64_t stride = ops::padded_dims(count);
            const float* from = x.data();
            std::int64_t from_stride = dims;
            if (kept > 0) {
                if (i == 0 || projection.kept[i - 1] == 0) {
                    projection.components->project(x.data(), n, cosine || !projection.queries, most,
                                                   full_.as<float>(), team_, isa_);
                }
                from = full_.as<float>(), from_stride = full_stride;
            }
            float* const z = z_.as<float>();
            lengths.assign(static_cast<std::size_t>(n), 0.0);
            team_.run(n, 64, [&](std::int64_t begin, std::int64_t end) {
                for (std::int64_t r = begin; r < end; ++r) {
                    std::copy_n(from + r * from_stride, count, z + r * stride);
                    std::fill(z + r * stride + count, z + (r + 1) * stride, 0.0f);
                    if (kept > 0 && cosine)
                        lengths[static_cast<std::size_t>(r)] =
                            normalise(z + r * stride, 1, stride, count);
                }
            });
            for (const double length : lengths) lengths_[i] += length;
            fn(i, {z, static_cast<std::size_t>(n * stride)}, rows);
        }
    });
}

std::int64_t VectorSpace::usual_rows(const VectorFile& file) noexcept {
    const std::int64_t row = 4 * file.dims();
    return std::clamp<std::int64_t>(kPieceBytes / row, 1, std::min(kMostRows, file.rows()));
}

std::uint64_t VectorSpace::bytes(std::int64_t dims, std::int64_t most_rows, std::int64_t most_kept,
                                 bool plain) {
    const auto held = [&](std::int64_t stride) {
        return Buffer::charged_bytes(float_bytes(most_rows * stride));
    };
    std::uint64_t out = Buffer::charged_bytes(float_bytes(most_rows * dims + cpu::kScanPadding));
    if (most_kept > 0) out += held(ops::padded_dims(most_kept));
    return out + held(ops::padded_dims(plain ? dims : most_kept));
}

}  // namespace thimble
