// SPDX-License-Identifier: Apache-2.0
// The device, streams, events, memory and copies: the runtime's calls, every result looked at.
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/memory.h"

namespace thimble::cuda {
namespace {

// What a destructor can do with an error: nothing, but it is looked at.
void ignore(cudaError_t result) { (void)static_cast<decltype(cudaSuccess)>(result); }

cudaEvent_t raw_event(const Event& event) { return static_cast<cudaEvent_t>(event.handle()); }

void copy_rows(Stream& stream, const Rows& r, cudaMemcpyKind kind) {
    if (r.to_pitch == r.width && r.from_pitch == r.width)
        return check(cudaMemcpyAsync(r.to, r.from, r.width * r.rows, kind, raw(stream)), "copy");
    check(cudaMemcpy2DAsync(r.to, r.to_pitch, r.from, r.from_pitch, r.width, r.rows, kind,
                            raw(stream)),
          "copy");
}

}  // namespace

const char* build_kind() noexcept {
#ifdef THIMBLE_CUDA_EMULATED
    return "emulated";
#else
    return "cuda";
#endif
}

DeviceFacts open_device() {
    int count = 0, driver = 0, runtime = 0;
    const auto found = static_cast<decltype(cudaSuccess)>(cudaGetDeviceCount(&count));
    if (found == cudaErrorInsufficientDriver) {
        check(cudaDriverGetVersion(&driver), "the driver's version");
        check(cudaRuntimeGetVersion(&runtime), "the runtime's version");
        ignore(cudaGetLastError());
        if (driver == 0) throw Failure(Failure::Kind::kNoDevice, "no NVIDIA driver is loaded");
        char text[160];
        std::snprintf(text, sizeof text, "the driver supports CUDA %d.%d, this build needs %d.%d",
                      driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
        throw Failure(Failure::Kind::kDriverTooOld, text);
    }
    if (found == cudaErrorNoDevice || (found == cudaSuccess && count == 0)) {
        ignore(cudaGetLastError());
        throw Failure(Failure::Kind::kNoDevice, cudaGetErrorString(cudaErrorNoDevice));
    }
    check(found, "looking for devices");
    check(cudaSetDevice(0), "device 0");
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, 0), "device 0");
    DeviceFacts facts{};
    std::snprintf(facts.name, sizeof facts.name, "%s", properties.name);
    facts.capability = properties.major * 10 + properties.minor;
    facts.processors = properties.multiProcessorCount;
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "device memory");
    facts.memory_bytes = total, facts.free_bytes = free;
    return facts;
}

Stream::Stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
    handle_ = stream;
}
Stream::~Stream() { ignore(cudaStreamDestroy(raw(*this))); }
void Stream::wait() { check(cudaStreamSynchronize(raw(*this)), "device"); }
void Stream::wait_for(const Event& event) {
    check(cudaStreamWaitEvent(raw(*this), raw_event(event), 0), "waiting for an event");
}

Event::Event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
    handle_ = event;
}
Event::~Event() { ignore(cudaEventDestroy(raw_event(*this))); }
void Event::record(Stream& stream) {
    check(cudaEventRecord(raw_event(*this), raw(stream)), "recording an event");
}
void Event::wait() { check(cudaEventSynchronize(raw_event(*this)), "device"); }

void* allocate_device(std::size_t bytes) {
    void* p = nullptr;
    if (bytes > 0) check(cudaMalloc(&p, bytes), "device memory");
    return p;
}
void free_device(void* p) noexcept { ignore(cudaFree(p)); }
void* allocate_pinned(std::size_t bytes) {
    void* p = nullptr;
    if (bytes > 0) check(cudaHostAlloc(&p, bytes, cudaHostAllocDefault), "pinned host memory");
    return p;
}
void free_pinned(void* p) noexcept { ignore(cudaFreeHost(p)); }

void copy_to_device(Stream& stream, void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, raw(stream)), "copy");
}
void copy_to_host(Stream& stream, void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, raw(stream)), "copy");
}
void copy_on_device(Stream& stream, void* to, const void* from, std::size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, raw(stream)), "copy");
}
void copy_rows_to_device(Stream& stream, const Rows& rows) {
    copy_rows(stream, rows, cudaMemcpyHostToDevice);
}
void copy_rows_to_host(Stream& stream, const Rows& rows) {
    copy_rows(stream, rows, cudaMemcpyDeviceToHost);
}
void copy_rows_on_device(Stream& stream, const Rows& rows) {
    copy_rows(stream, rows, cudaMemcpyDeviceToDevice);
}
void fill(Stream& stream, void* p, unsigned char value, std::size_t bytes) {
    check(cudaMemsetAsync(p, value, bytes, raw(stream)), "fill");
}

}  // namespace thimble::cuda
