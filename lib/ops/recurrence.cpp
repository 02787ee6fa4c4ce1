// SPDX-License-Identifier: Apache-2.0
// What layers with a recurrence are made of, besides products.
#include "kernels/ref/ref.h"
#include "ops/dispatch.h"
#include "ops/op_clock.h"

namespace thimble::ops {
namespace {

void require_host(const Exec& exec, const char* operation) {
    require(!is_cuda(exec), operation, "there is no kernel of it on a CUDA device");
}

}  // namespace

void round_codes(const Exec& exec, View x, View out) {
    const Timed timed(exec, "round_codes");
    require_view(exec, out, x.rows, x.cols, "round_codes");
    require_host(exec, "round_codes");
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, x.rows, x.cols, [&](std::int64_t r) {
        if (is_ref(exec)) {
            ref::round_codes(x.row<double>(r), x.cols, out.row<double>(r));
        } else {
            table.round_codes(x.row<float>(r), x.cols, out.row<float>(r));
        }
    });
}

void forget_gate(const Exec& exec, View x, View lowest, View keep, View take) {
    const Timed timed(exec, "forget_gate");
    require_view(exec, lowest, 1, x.cols, "forget_gate");
    require_view(exec, keep, x.rows, x.cols, "forget_gate");
    require_view(exec, take, x.rows, x.cols, "forget_gate");
    require_host(exec, "forget_gate");
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    for_rows(exec, x.rows, x.cols * 2, [&](std::int64_t r) {
        if (is_ref(exec)) {
            ref::forget_gate(x.row<double>(r), lowest.row<double>(0), x.cols, keep.row<double>(r),
                             take.row<double>(r));
        } else {
            table.forget_gate(x.row<float>(r), lowest.row<float>(0), x.cols, keep.row<float>(r),
                              take.row<float>(r));
        }
    });
}

void recurrence(const Exec& exec, View keep, View take, View before, View out) {
    const Timed timed(exec, "recurrence");
    require_view(exec, keep, out.rows, out.cols, "recurrence");
    require_view(exec, take, out.rows, out.cols, "recurrence");
    require_view(exec, before, 1, out.cols, "recurrence");
    require_host(exec, "recurrence");
    if (exec.dry) return;
    const auto& table = kernels(exec.isa);
    // Tokens follow one another; channels know nothing of each other.
    constexpr std::int64_t kChannels = 256;
    const auto run = [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t n = end - begin;
        for (std::int64_t t = 0; t < out.rows; ++t) {
            const View from = t == 0 ? before : out.slice_rows(t - 1, 1);
            if (is_ref(exec)) {
                ref::recurrence(keep.row<double>(t) + begin, take.row<double>(t) + begin,
                                from.row<double>(0) + begin, n, out.row<double>(t) + begin);
            } else {
                table.recurrence(keep.row<float>(t) + begin, take.row<float>(t) + begin,
                                 from.row<float>(0) + begin, n, out.row<float>(t) + begin);
            }
        }
    };
    if (out.rows * out.cols < kWorthSharing) return run(0, out.cols);
    exec.team->run(out.cols, kChannels, run);
}

}  // namespace thimble::ops
