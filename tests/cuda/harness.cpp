// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <cmath>
#include <cstring>

#ifdef THIMBLE_CUDA_EMULATED
#include "kernels/emu/emu.h"
#endif

namespace thimble::cuda_test {

cuda::Stream& stream() {
    static cuda::Stream s;
    return s;
}

std::vector<float> values(std::size_t n, std::uint32_t seed, float size) {
    std::vector<float> out(n);
    for (std::size_t i = 0; i < n; ++i) {
        const Philox4 r = philox(seed, i);
        float sum = -2;
        for (const std::uint32_t v : r.v) sum += unit_float(v);
        out[i] = size * 1.7320508f * sum;
    }
    return out;
}

std::vector<float> run_all_orders(const std::function<std::vector<float>()>& work) {
#ifdef THIMBLE_CUDA_EMULATED
    std::vector<float> first;
    const emu::Settings kept = emu::settings();
    struct Order {
        std::uint64_t threads;
        std::uint8_t poison;
        emu::Timing timing;
    };
    for (const auto& [order, poison, timing] :
         {Order{0, 0xff, emu::Timing::kLate}, Order{1, 0x7b, emu::Timing::kAtOnce},
          Order{12345, 0xff, emu::Timing::kCopiesEarly}}) {
        emu::settings() = kept;
        emu::settings().thread_order = order;
        emu::settings().poison = poison;
        emu::settings().timing = timing;
        emu::clear_fault();
        const std::vector<float> result = work();
        stream().wait();
        const emu::Fault fault = emu::fault();
        CAPTURE(order);
        INFO(fault.what);
        REQUIRE(fault.kind == emu::FaultKind::kNone);
        if (first.empty()) first = result;
        REQUIRE(result.size() == first.size());
        if (!first.empty())
            CHECK(std::memcmp(result.data(), first.data(), first.size() * sizeof(float)) == 0);
    }
    emu::settings() = kept;
    return first;
#else
    std::vector<float> result = work();
    stream().wait();
    return result;
#endif
}

void check_close(std::span<const float> got, std::span<const double> want, double tolerance) {
    REQUIRE(got.size() == want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
        const double difference = std::abs(static_cast<double>(got[i]) - want[i]);
        if (difference <= tolerance) continue;  // NaN is no less
        CAPTURE(i);
        CAPTURE(got[i]);
        CAPTURE(want[i]);
        CHECK(difference <= tolerance);
        return;
    }
}

}  // namespace thimble::cuda_test

using namespace thimble;

TEST_SUITE("cuda") {
#define THIMBLE_CUDA_KERNEL(name, Problem) \
    TEST_CASE("cuda: " #name " agrees with the reference") { cuda_test::check_##name(); }
#include "kernels/cuda/kernels.def"
#undef THIMBLE_CUDA_KERNEL
}
