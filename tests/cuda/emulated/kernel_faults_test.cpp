// SPDX-License-Identifier: Apache-2.0
// The emulation is trusted to find faults of kernels: here are kernels with one fault each.
#include <optional>
#include <string>

#include "../harness.h"
#include "planted.h"

using namespace thimble;
using namespace thimble::cuda_test;

namespace {

// Settings for one test; faults and settings are as before after it.
struct Scene {
    emu::Settings kept = emu::settings();
    Scene() { emu::clear_fault(); }
    ~Scene() {
        emu::settings() = kept;
        emu::clear_fault();
    }
};

std::optional<cuda::Failure> failure_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const cuda::Failure& failure) {
        return failure;
    }
    return std::nullopt;
}

}  // namespace

TEST_SUITE("cuda") {
    TEST_CASE("cuda emulation: every planted fault is found, in every order of threads") {
        for (const Planted& p : planted()) {
            for (const std::uint64_t order : {0U, 1U, 12345U}) {
                const Scene scene;
                emu::settings().thread_order = order;
                emu::settings().timing = order == 1 ? emu::Timing::kAtOnce : emu::Timing::kLate;
                CAPTURE(p.name);
                CAPTURE(order);
                cuda::Stream mine;
                const Array<float> x(kPlantedFloats);
                const auto failure = failure_of([&] {
                    p.run(x.data(), mine);
                    mine.wait();
                });
                const emu::Fault fault = emu::fault();
                CAPTURE(fault.what);
                REQUIRE(failure.has_value());
                CHECK(failure->kind() == cuda::Failure::Kind::kBroken);
                CHECK(std::string(failure->what()).find(fault.what) != std::string::npos);
                CHECK(fault.kind == p.kind);
                CHECK(fault.what.starts_with(p.name));
                CHECK(fault.what.find(p.says) != std::string::npos);
                if (fault.what.find(": wrote ") == std::string::npos) {  // seen after the launch
                    CHECK(fault.what.find(", block (") != std::string::npos);
                    CHECK(fault.what.find(", thread (") != std::string::npos);
                }
            }
        }
    }

    TEST_CASE("cuda emulation: after a fault the device fails until the fault is cleared") {
        const Scene scene;
        const std::vector<float> values(kPlantedFloats, 2);
        cuda::Stream mine;
        const Array<float> x(kPlantedFloats), out(kPlantedFloats);
        REQUIRE(failure_of([&] {
            planted()[0].run(x.data(), mine);
            mine.wait();
        }));
        const std::string first = emu::fault().what;
        const auto broken = [&](const std::function<void()>& work) {
            const auto failure = failure_of(work);
            return failure && failure->kind() == cuda::Failure::Kind::kBroken;
        };
        CHECK(broken([&] { mine.wait(); }));
        CHECK(broken([&] { cuda::free_device(cuda::allocate_device(4)); }));
        CHECK(broken([&] { const cuda::Stream another; }));
        CHECK(broken([&] { const cuda::Event event; }));
        CHECK(broken([&] { launch_increment(x.data(), out.data(), kPlantedFloats, mine); }));
        CHECK(broken([&] { cuda::fill(mine, x.data(), 0, 4); }));
        CHECK(emu::fault().what == first);
        emu::clear_fault();
        CHECK(emu::fault().kind == emu::FaultKind::kNone);
        cuda::copy_to_device(mine, x.data(), values.data(), 4 * values.size());
        launch_increment(x.data(), out.data(), kPlantedFloats, mine);
        std::vector<float> got(kPlantedFloats);
        cuda::copy_to_host(mine, got.data(), out.data(), 4 * got.size());
        mine.wait();
        CHECK(got == std::vector<float>(kPlantedFloats, 3));
        CHECK(emu::fault().kind == emu::FaultKind::kNone);
    }

    TEST_CASE("cuda emulation: correct programs are not blamed") {
        for (const Correct& c : correct()) {
            CAPTURE(c.name);
            const std::vector<float> got = run_all_orders([&] {
                const Array<float> out(static_cast<std::size_t>(c.outputs));
                c.run(out.data(), stream());
                return out.get();
            });
            REQUIRE(got.size() == static_cast<std::size_t>(c.outputs));
            for (int i = 0; i < c.outputs; ++i) {
                CAPTURE(i);
                REQUIRE(got[static_cast<std::size_t>(i)] == c.want(i));
            }
        }
    }

    TEST_CASE("cuda emulation: correct programs give the same with tracking off") {
        const Scene scene;
        emu::settings().track_shared = false;
        for (const Correct& c : correct()) {
            CAPTURE(c.name);
            const Array<float> out(static_cast<std::size_t>(c.outputs));
            c.run(out.data(), stream());
            const std::vector<float> got = out.get();
            for (int i = 0; i < c.outputs; ++i)
                REQUIRE(got[static_cast<std::size_t>(i)] == c.want(i));
        }
        CHECK(emu::fault().kind == emu::FaultKind::kNone);
    }

    TEST_CASE("cuda emulation: launches beyond the capability's limits are refused") {
        struct Limit {
            int capability;
            std::size_t most;
        };
        for (const Limit limit :
             {Limit{80, 163 << 10}, {86, 99 << 10}, {89, 99 << 10}, {90, 227 << 10}}) {
            const Scene scene;
            const auto most = limit.most;
            emu::settings().capability = limit.capability;
            CAPTURE(limit.capability);
            cuda::Stream mine;
            const auto refused = [&](const unsigned(&grid)[3], const unsigned(&block)[3],
                                     std::size_t shared, const char* says) {
                emu::clear_fault();
                const auto failure = failure_of([&] {
                    launch_shaped(grid, block, shared, mine);
                    mine.wait();
                });
                const std::string what = emu::fault().what;
                CAPTURE(what);
                REQUIRE(failure.has_value());
                CHECK(emu::fault().kind == emu::FaultKind::kLaunch);
                CHECK(what.starts_with("shaped"));
                CHECK(what.find(says) != std::string::npos);
            };
            refused({1, 1, 1}, {1025, 1, 1}, 0, "a block of 1025 x 1 x 1 threads");
            refused({1, 1, 1}, {32, 33, 1}, 0, "a block of 32 x 33 x 1 threads");
            refused({1, 1, 1}, {1, 1, 65}, 0, "a block of 1 x 1 x 65 threads");
            refused({1, 1, 1}, {0, 1, 1}, 0, "a block of 0 x 1 x 1 threads");
            refused({1, 65536, 1}, {1, 1, 1}, 0, "a grid of 1 x 65536 x 1 blocks");
            refused({1, 1, 65536}, {1, 1, 1}, 0, "a grid of 1 x 1 x 65536 blocks");
            refused({0x80000000u, 1, 1}, {1, 1, 1}, 0, "a grid of 2147483648 x 1 x 1 blocks");
            refused({1, 1, 1}, {32, 1, 1}, most + 1, "bytes of dynamic shared memory (limit ");
            refused({1, 1, 1}, {32, 1, 1}, most, "static and dynamic shared memory pass the limit");
            refused({1, 1, 1}, {32, 1, 1}, 48 << 10, "static and dynamic shared memory pass");
            emu::clear_fault();
            launch_shaped({1, 1, 1}, {32, 1, 1}, most - 256, mine);
            launch_shaped({1, 1, 1}, {1, 16, 64}, 0, mine);
            mine.wait();
            CHECK(emu::fault().kind == emu::FaultKind::kNone);
        }
    }
}
