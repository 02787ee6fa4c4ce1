// SPDX-License-Identifier: Apache-2.0
// A build without CUDA: the same functions, none of which does anything.
#include "kernels/cuda/blas.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/memory.h"

namespace thimble::cuda {
namespace {

[[noreturn]] void refuse() { throw Failure(Failure::Kind::kNotBuilt, "this build has no CUDA"); }

}  // namespace

const char* build_kind() noexcept { return "none"; }
DeviceFacts open_device() { refuse(); }

Stream::Stream() { refuse(); }
Stream::~Stream() = default;
void Stream::wait() { refuse(); }
void Stream::wait_for(const Event&) { refuse(); }
Event::Event() { refuse(); }
Event::~Event() = default;
void Event::record(Stream&) { refuse(); }
void Event::wait() { refuse(); }
std::size_t driver_host_bytes() noexcept { return 0; }
Blas::Blas(Stream&) { refuse(); }
Blas::~Blas() = default;

void* allocate_device(std::size_t) { refuse(); }
void free_device(void*) noexcept {}
void* allocate_pinned(std::size_t) { refuse(); }
void free_pinned(void*) noexcept {}
void copy_to_device(Stream&, void*, const void*, std::size_t) { refuse(); }
void copy_to_host(Stream&, void*, const void*, std::size_t) { refuse(); }
void copy_on_device(Stream&, void*, const void*, std::size_t) { refuse(); }
void copy_rows_to_device(Stream&, const Rows&) { refuse(); }
void copy_rows_to_host(Stream&, const Rows&) { refuse(); }
void copy_rows_on_device(Stream&, const Rows&) { refuse(); }
void fill(Stream&, void*, unsigned char, std::size_t) { refuse(); }

#define THIMBLE_CUDA_KERNEL(name, Problem)                          \
    bool supports_##name(const Problem&) noexcept { return false; } \
    void name(const Problem&, Stream&) { refuse(); }
#include "kernels/cuda/kernels.def"
#undef THIMBLE_CUDA_KERNEL

}  // namespace thimble::cuda
