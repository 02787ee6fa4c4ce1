// SPDX-License-Identifier: Apache-2.0
// What the operations share: the kernel table of a level, checks of shapes, loops over the Team.
#pragma once

#include <algorithm>
#include <string>

#include "core/error.h"
#include "kernels/cpu/kernels.h"
#include "ops/ops.h"

namespace thimble::ops {

[[nodiscard]] const cpu::KernelTable& kernels(Isa isa);

// Shapes and element types are the caller's duty, so a mismatch is a fault of the program.
inline void require(bool ok, const char* operation, const char* expected) {
    if (!ok) throw Error(Exit::kFailure, std::string("ops::") + operation, expected);
}
inline void require_view(const Exec& exec, const View& view, std::int64_t rows, std::int64_t cols,
                         const char* operation) {
    require(view.dtype == exec.dtype(), operation, "a view has another element type than exec");
    require(view.rows == rows && view.cols == cols && view.stride >= cols, operation,
            "the shapes do not agree");
}

inline bool is_ref(const Exec& exec) noexcept { return exec.device == Device::kRef; }
inline bool is_cuda(const Exec& exec) noexcept { return exec.device == Device::kCuda; }

// Waking the team costs about as much as this many elements of plain arithmetic.
inline constexpr std::int64_t kWorthSharing = 16384;

// fn(row) for each row, in parallel when there is enough work; `row_elements` is the work of one.
template <class Fn>
void for_rows(const Exec& exec, std::int64_t rows, std::int64_t row_elements, Fn&& fn) {
    const auto range = [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) fn(r);
    };
    if (rows * row_elements < kWorthSharing || rows == 1) return range(0, rows);
    const std::int64_t grain = std::max<std::int64_t>(1, kWorthSharing / 4 / (row_elements + 1));
    exec.team->run(rows, grain, range);
}

}  // namespace thimble::ops
