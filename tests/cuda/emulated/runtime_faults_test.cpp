// SPDX-License-Identifier: Apache-2.0
// Faults around kernels: what is never given back or looked at, what nothing orders, and devices
// that are missing, full or too old.
#include <cstring>
#include <memory>
#include <string>

#include "../harness.h"
#include "kernels/cuda/blas.h"
#include "planted.h"

using namespace thimble;
using namespace thimble::cuda_test;

namespace {

struct Scene {
    emu::Settings kept = emu::settings();
    Scene() { emu::clear_fault(); }
    ~Scene() {
        emu::settings() = kept;
        emu::clear_fault();
    }
};

struct Unpinned {
    void operator()(float* p) const { cuda::free_pinned(p); }
};
using Pinned = std::unique_ptr<float[], Unpinned>;
Pinned pinned(int n, float value) {
    Pinned p(static_cast<float*>(cuda::allocate_pinned(static_cast<std::size_t>(n) * 4)));
    for (int i = 0; i < n; ++i) p[static_cast<std::size_t>(i)] = value;
    return p;
}

template <class Work>
void check_fails(cuda::Failure::Kind kind, const char* says, Work&& work) {
    try {
        work();
        FAIL("nothing was thrown");
    } catch (const cuda::Failure& failure) {
        CAPTURE(failure.what());
        CHECK(failure.kind() == kind);
        CHECK(std::strstr(failure.what(), says) != nullptr);
    }
}

}  // namespace

TEST_SUITE("cuda") {
    TEST_CASE("cuda emulation: what is never given back is a leak") {
        const Scene scene;
        const emu::Live before = emu::live();
        const auto leak = [&] {
            emu::clear_fault();
            emu::check_leaks(before);
            const emu::Fault fault = emu::fault();
            CHECK((fault.kind == emu::FaultKind::kLeak) == !fault.what.empty());
            return fault.what;
        };
        CHECK(leak().empty());
        {
            const cuda::Stream s;
            CHECK(leak() == "1 streams never given back");
        }
        {
            const cuda::Event one, two;
            CHECK(leak() == "2 events never given back");
        }
        void* memory = cuda::allocate_device(100);
        void* host = cuda::allocate_pinned(100);
        CHECK(leak() == "2 allocations never given back");
        CHECK(emu::live().device_bytes == before.device_bytes + 100);
        cuda::free_device(memory);
        cuda::free_pinned(host);
        {
            cuda::Stream s;
            const cuda::Blas blas(s);
            CHECK(leak() == "1 allocations 1 streams 1 handles never given back");
        }
        CHECK(leak().empty());
    }

    TEST_CASE("cuda emulation: errors that nobody looks at are noted") {
        const Scene scene;
        forget_runtime_error();
        CHECK(emu::fault().kind == emu::FaultKind::kUnchecked);
        CHECK(emu::fault().what == "nobody looked at: invalid resource handle");
        emu::clear_fault();
        forget_launch_error();
        CHECK(emu::fault().kind == emu::FaultKind::kUnchecked);
        emu::clear_fault();
        launch_unchecked_twice();
        CHECK(emu::fault().kind == emu::FaultKind::kUnchecked);
        CHECK(emu::fault().what == "second: the launch before it failed and nobody looked");
    }

    TEST_CASE("cuda emulation: a copy is not there before its stream was waited for") {
        const Scene scene;
        const Array<float> x(std::vector<float>(64, 1));
        stream().wait();
        for (const bool lazy : {true, false}) {
            emu::settings().timing = lazy ? emu::Timing::kLate : emu::Timing::kAtOnce;
            cuda::Stream mine;
            const Pinned to = pinned(64, -1);
            cuda::copy_to_host(mine, to.get(), x.data(), 256);
            CHECK(to[0] == (lazy ? -1.0f : 1.0f));  // used too early
            mine.wait();
            CHECK(to[0] == 1);
        }
    }

    TEST_CASE("cuda emulation: without an event the compute stream overtakes the copy") {
        const Scene scene;
        for (const bool with_event : {true, false}) {
            CAPTURE(with_event);
            cuda::Stream copies, compute;
            cuda::Event copied;
            const Array<float> x(std::vector<float>(64, 1)), out(64);
            stream().wait();
            const Pinned from = pinned(64, 5), to = pinned(64, 0);
            cuda::copy_to_device(copies, x.data(), from.get(), 256);
            copied.record(copies);
            if (with_event) compute.wait_for(copied);
            launch_increment(x.data(), out.data(), 64, compute);
            cuda::copy_to_host(compute, to.get(), out.data(), 256);
            compute.wait();
            CHECK(to[0] == (with_event ? 6.0f : 2.0f));
        }
    }

    TEST_CASE(
        "cuda emulation: without an event a copy overtakes the kernel that reads its target") {
        const Scene scene;
        emu::settings().timing = emu::Timing::kCopiesEarly;
        for (const bool with_event : {true, false}) {
            CAPTURE(with_event);
            cuda::Stream copies, compute;
            cuda::Event used;
            const Array<float> x(std::vector<float>(64, 1)), out(64);
            stream().wait();
            const Pinned from = pinned(64, 5), to = pinned(64, 0), later = pinned(64, 0);
            launch_increment(x.data(), out.data(), 64, compute);
            used.record(compute);
            if (with_event) copies.wait_for(used);
            cuda::copy_to_device(copies, x.data(), from.get(), 256);
            cuda::copy_to_host(copies, later.get(), x.data(), 256);
            CHECK(later[0] == (with_event ? 0.0f : 5.0f));
            cuda::copy_to_host(compute, to.get(), out.data(), 256);
            compute.wait();
            CHECK(to[0] == (with_event ? 2.0f : 6.0f));
            CHECK(later[0] == 5);  // nothing was waited for but the kernel
        }
    }

    TEST_CASE("cuda emulation: an event marks the place where it was recorded last") {
        const Scene scene;
        cuda::Stream copies;
        cuda::Event event;
        const Array<float> x(std::vector<float>(64, 1));
        stream().wait();
        const Pinned one = pinned(64, 0), two = pinned(64, 0);
        cuda::copy_to_host(copies, one.get(), x.data(), 256);
        event.record(copies);
        cuda::copy_to_host(copies, two.get(), x.data(), 256);
        event.wait();
        CHECK(one[0] == 1);
        CHECK(two[0] == 0);
        event.record(copies);
        event.wait();
        CHECK(two[0] == 1);
    }

    TEST_CASE("cuda emulation: host memory that is not pinned is copied before the call returns") {
        const Scene scene;
        cuda::Stream mine;
        const Array<float> x(64);
        std::vector<float> from(64, 7), to(64, 0);
        cuda::copy_to_device(mine, x.data(), from.data(), 256);
        from.assign(64, 0);
        cuda::copy_to_host(mine, to.data(), x.data(), 256);
        CHECK(to == std::vector<float>(64, 7));
    }

    TEST_CASE("cuda emulation: copies that leave their allocation are refused") {
        const Scene scene;
        cuda::Stream mine;
        const Array<float> x(64);
        std::vector<float> host(65);
        check_fails(cuda::Failure::Kind::kBroken, "a copy whose ends",
                    [&] { cuda::copy_to_device(mine, x.data(), host.data(), 257); });
        emu::clear_fault();
        check_fails(cuda::Failure::Kind::kBroken, "a copy whose ends",
                    [&] { cuda::copy_on_device(mine, x.data(), host.data(), 4); });
    }

    TEST_CASE("cuda emulation: a full, missing or too old device says so") {
        const Scene scene;
        const std::uint64_t held = emu::live().device_bytes;
        emu::settings().memory_bytes = held + 1000;
        void* most = cuda::allocate_device(1000);
        check_fails(cuda::Failure::Kind::kOutOfMemory, "device memory: out of memory",
                    [] { (void)cuda::allocate_device(1); });
        cuda::free_device(most);
        cuda::free_device(cuda::allocate_device(1000));

        emu::settings() = scene.kept;
        emu::settings().devices = 0;
        check_fails(cuda::Failure::Kind::kNoDevice, "no CUDA-capable device",
                    [] { (void)cuda::open_device(); });

        emu::settings() = scene.kept;
        emu::settings().driver_version = 11080;
        check_fails(cuda::Failure::Kind::kDriverTooOld,
                    "the driver supports CUDA 11.8, this build needs 13.0",
                    [] { (void)cuda::open_device(); });
        CHECK(emu::fault().kind == emu::FaultKind::kNone);

        emu::settings() = scene.kept;
        emu::settings().capability = 90;
        const cuda::DeviceFacts facts = cuda::open_device();
        CHECK(facts.capability == 90);
        CHECK(facts.memory_bytes == scene.kept.memory_bytes);
        CHECK(facts.free_bytes == facts.memory_bytes - held);
    }
}
