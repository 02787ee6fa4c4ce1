// SPDX-License-Identifier: Apache-2.0
// The emulated runtime: settings, faults, memory calls, streams and events. Work on a stream is
// queued and runs as late or as early as the settings say.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <set>

#include "cuda_runtime.h"
#include "kernels/emu/device_memory.h"

namespace thimble::emu {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);  // NOLINT: before any thread is made
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

Settings read_settings() {
    Settings s;
    s.devices = static_cast<int>(from_environment("THIMBLE_EMU_DEVICES", 1));
    s.capability = static_cast<int>(from_environment("THIMBLE_EMU_CAPABILITY", 80));
    s.memory_bytes = from_environment("THIMBLE_EMU_MEMORY", s.memory_bytes);
    s.driver_version = static_cast<int>(from_environment("THIMBLE_EMU_DRIVER", 13000));
    s.thread_order = from_environment("THIMBLE_EMU_ORDER", 0);
    s.track_shared = from_environment("THIMBLE_EMU_TRACK", 1) != 0;
    s.timing = static_cast<Timing>(from_environment("THIMBLE_EMU_TIMING", 0));
    return s;
}

std::mutex fault_mutex;
Fault first_fault;
std::uint64_t launch_count = 0;
cudaErrorCode last_error = cudaSuccess;
// As on a device: after a kernel failed, every call does.
cudaErrorCode sticky = cudaSuccess;

}  // namespace

Settings& settings() {
    static Settings s = read_settings();
    return s;
}

void note_fault(FaultKind kind, const std::string& what) {
    const std::lock_guard lock(fault_mutex);
    if (first_fault.kind == FaultKind::kNone) first_fault = {kind, what};
}
Fault fault() {
    const std::lock_guard lock(fault_mutex);
    return first_fault;
}
void clear_fault() {
    const std::lock_guard lock(fault_mutex);
    first_fault = {};
    sticky = last_error = cudaSuccess;
}
std::uint64_t launches() { return launch_count; }

namespace {
std::mutex live_mutex;
Live held;
void hold(std::int64_t Live::*what, std::int64_t by) {
    const std::lock_guard lock(live_mutex);
    held.*what += by;
}
}  // namespace

Live live() {
    const std::lock_guard lock(live_mutex);
    Live now = held;
    now.device_bytes = device_bytes_held();
    return now;
}
void count_handle(int by) { hold(&Live::handles, by); }
void check_leaks(const Live& before) {
    const Live now = live();
    const auto part = [](std::int64_t n, const char* name) {
        return n <= 0 ? std::string() : std::to_string(n) + " " + name + " ";
    };
    const std::string what = part(now.allocations - before.allocations, "allocations") +
                             part(now.streams - before.streams, "streams") +
                             part(now.events - before.events, "events") +
                             part(now.handles - before.handles, "handles");
    if (!what.empty()) note_fault(FaultKind::kLeak, what + "never given back");
}

std::size_t shared_optin_bytes() {
    switch (settings().capability) {
        case 80:
        case 87:
            return 163 << 10;
        case 86:
        case 89:
            return 99 << 10;
        default:
            return settings().capability >= 90 ? 227 << 10 : 96 << 10;
    }
}

}  // namespace thimble::emu

using namespace thimble;

cudaError_t::~cudaError_t() {
    if (!seen_) {
        emu::note_fault(emu::FaultKind::kUnchecked,
                        std::string("nobody looked at: ") + cudaGetErrorString(code_));
    }
}

struct ThimbleEmuEvent {
    ThimbleEmuStream* stream = nullptr;  // that it was recorded on last; null: never
    std::uint64_t place = 0;             // how many pieces of work must be done there
};
struct ThimbleEmuStream {
    struct Work {
        std::function<bool()> run;          // false: the device has failed
        ThimbleEmuStream* after = nullptr;  // waits until `after` has done `place` pieces
        std::uint64_t place = 0;
        bool is_kernel = false;
    };
    std::deque<Work> queue;
    std::uint64_t done = 0, queued = 0;
    bool busy = false;  // the work before the queue's first is not done
};

namespace {

std::set<cudaStream_t>& streams() {
    static auto* all = new std::set<cudaStream_t>;
    return *all;
}
bool alive(cudaStream_t s) { return streams().count(s) != 0; }

void drain(cudaStream_t stream, std::uint64_t place);

void run_first(cudaStream_t stream) {
    ThimbleEmuStream::Work work = std::move(stream->queue.front());
    stream->queue.pop_front();
    stream->busy = true;
    if (work.after != nullptr && alive(work.after)) drain(work.after, work.place);
    if (work.run && emu::sticky == cudaSuccess && !work.run()) emu::sticky = cudaErrorLaunchFailure;
    stream->busy = false;
    ++stream->done;
}

// Whether the stream's next work is a copy that need not wait.
bool copy_is_next(cudaStream_t stream) {
    if (stream->busy || stream->queue.empty() || stream->queue.front().is_kernel) return false;
    const ThimbleEmuStream::Work& next = stream->queue.front();
    return next.after == nullptr || !alive(next.after) || next.after->done >= next.place;
}

void advance_copies() {
    for (bool more = true; more;) {
        more = false;
        for (cudaStream_t s : streams()) {
            for (; copy_is_next(s); more = true) run_first(s);
        }
    }
}

void drain(cudaStream_t stream, std::uint64_t place) {
    while (stream->done < place && !stream->queue.empty()) {
        run_first(stream);
        if (emu::settings().timing == emu::Timing::kCopiesEarly) advance_copies();
    }
}

cudaErrorCode put(cudaStream_t stream, ThimbleEmuStream::Work work) {
    if (!alive(stream)) return cudaErrorInvalidResourceHandle;
    if (emu::sticky != cudaSuccess) return emu::sticky;
    stream->queue.push_back(std::move(work));
    ++stream->queued;
    const emu::Timing timing = emu::settings().timing;
    if (timing == emu::Timing::kAtOnce) drain(stream, stream->queued);
    if (timing == emu::Timing::kCopiesEarly) advance_copies();
    return timing == emu::Timing::kLate ? cudaSuccess : emu::sticky;
}

cudaErrorCode device_state() {
    if (emu::settings().driver_version < 12000) return cudaErrorInsufficientDriver;
    return emu::settings().devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}

bool on_device(const void* p, std::size_t bytes) { return bytes == 0 || emu::is_device(p, bytes); }

cudaErrorCode copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                   std::size_t width, std::size_t height, cudaMemcpyKind kind,
                   cudaStream_t stream) {
    if (width == 0 || height == 0)
        return alive(stream) ? cudaSuccess : cudaErrorInvalidResourceHandle;
    const std::size_t to_bytes = to_pitch * (height - 1) + width,
                      from_bytes = from_pitch * (height - 1) + width;
    if (width > to_pitch || width > from_pitch ||
        on_device(to, to_bytes) != (kind != cudaMemcpyDeviceToHost) ||
        on_device(from, from_bytes) != (kind != cudaMemcpyHostToDevice)) {
        emu::note_fault(emu::FaultKind::kGlobalAccess,
                        "a copy whose ends are not as its kind says, or too short");
        return cudaErrorInvalidValue;
    }
    const auto run = [=] {
        for (std::size_t r = 0; r < height; ++r)
            std::memcpy(static_cast<std::byte*>(to) + r * to_pitch,
                        static_cast<const std::byte*>(from) + r * from_pitch, width);
        return true;
    };
    const cudaErrorCode code = put(stream, {run, nullptr, 0});
    // Pageable memory is copied before the call returns.
    const void* host = kind == cudaMemcpyHostToDevice ? from : to;
    const std::size_t host_bytes = kind == cudaMemcpyHostToDevice ? from_bytes : to_bytes;
    if (code == cudaSuccess && kind != cudaMemcpyDeviceToDevice &&
        !emu::is_pinned(host, host_bytes))
        drain(stream, stream->queued);
    return code == cudaSuccess ? emu::sticky : code;
}

}  // namespace

const char* cudaGetErrorString(cudaErrorCode code) {
    switch (code) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorInsufficientDriver:
            return "the driver is older than the runtime";
        case cudaErrorNoDevice:
            return "no CUDA-capable device is detected";
        case cudaErrorInvalidDevice:
            return "invalid device ordinal";
        case cudaErrorInvalidResourceHandle:
            return "invalid resource handle";
        case cudaErrorNotReady:
            return "device not ready";
        case cudaErrorLaunchFailure:
            return "unspecified launch failure";
    }
    return "unknown error";
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = emu::settings().devices;
    return device_state();
}
cudaError_t cudaSetDevice(int device) {
    return device >= 0 && device < emu::settings().devices ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* out, int device) {
    if (device < 0 || device >= emu::settings().devices) return cudaErrorInvalidDevice;
    *out = {};
    const int capability = emu::settings().capability;
    std::strncpy(out->name, "emulated device", sizeof out->name - 1);
    out->major = capability / 10, out->minor = capability % 10;
    out->multiProcessorCount = 4;
    out->totalGlobalMem = emu::settings().memory_bytes;
    out->sharedMemPerBlock = 48 << 10;
    out->sharedMemPerBlockOptin = emu::shared_optin_bytes();
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = emu::settings().driver_version;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *total = emu::settings().memory_bytes;
    *free = *total - emu::device_bytes_held();
    return emu::sticky;
}

namespace {
cudaErrorCode make_memory(void** p, std::size_t bytes, bool pinned) {
    *p = nullptr;
    if (emu::sticky != cudaSuccess) return emu::sticky;
    if (device_state() != cudaSuccess) return device_state();
    if (bytes == 0) return cudaSuccess;
    std::byte* made = emu::allocate(bytes, pinned);
    if (made == nullptr) return cudaErrorMemoryAllocation;
    *p = made;
    const std::lock_guard lock(emu::live_mutex);
    ++emu::held.allocations;
    return cudaSuccess;
}
cudaErrorCode drop_memory(void* p, bool pinned) {
    if (p == nullptr) return cudaSuccess;
    for (cudaStream_t s : streams()) drain(s, s->queued);  // freeing waits for the device
    if (!emu::release(p, pinned)) return cudaErrorInvalidValue;
    const std::lock_guard lock(emu::live_mutex);
    --emu::held.allocations;
    return cudaSuccess;
}
}  // namespace

cudaError_t cudaMalloc(void** p, std::size_t bytes) { return make_memory(p, bytes, false); }
cudaError_t cudaFree(void* p) { return drop_memory(p, false); }
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
    return make_memory(p, bytes, true);
}
cudaError_t cudaFreeHost(void* p) { return drop_memory(p, true); }

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return copy(to, bytes, from, bytes, bytes, 1, kind, stream);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                              std::size_t from_pitch, std::size_t width, std::size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
    return copy(to, to_pitch, from, from_pitch, width, height, kind, stream);
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
    if (!on_device(p, bytes)) return cudaErrorInvalidValue;
    return put(stream, {[=] {
                            std::memset(p, value, bytes);
                            return true;
                        },
                        nullptr, 0});
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = nullptr;
    if (emu::sticky != cudaSuccess) return emu::sticky;
    if (device_state() != cudaSuccess) return device_state();
    *stream = new ThimbleEmuStream;
    streams().insert(*stream);
    emu::hold(&emu::Live::streams, 1);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!alive(stream)) return cudaErrorInvalidResourceHandle;
    drain(stream, stream->queued);
    streams().erase(stream);
    delete stream;
    emu::hold(&emu::Live::streams, -1);
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (!alive(stream)) return cudaErrorInvalidResourceHandle;
    drain(stream, stream->queued);
    return emu::sticky;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->stream == nullptr || event->stream == stream) return cudaSuccess;
    return put(stream, {{}, event->stream, event->place});
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = nullptr;
    if (emu::sticky != cudaSuccess) return emu::sticky;
    if (device_state() != cudaSuccess) return device_state();
    *event = new ThimbleEmuEvent;
    emu::hold(&emu::Live::events, 1);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (event == nullptr || !alive(stream)) return cudaErrorInvalidResourceHandle;
    event->stream = stream, event->place = stream->queued;
    return emu::sticky;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->stream != nullptr && alive(event->stream)) drain(event->stream, event->place);
    return emu::sticky;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (event == nullptr) return cudaErrorInvalidResourceHandle;
    delete event;
    emu::hold(&emu::Live::events, -1);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    for (cudaStream_t s : streams()) drain(s, s->queued);
    return emu::sticky;
}
cudaError_t cudaGetLastError() {
    const cudaErrorCode code = emu::sticky != cudaSuccess ? emu::sticky : emu::last_error;
    emu::last_error = cudaSuccess;
    return code;
}

namespace thimble::emu {

cudaError_t launch(Launch launch, cudaStream_t stream) {
    if (last_error != cudaSuccess)
        note_fault(FaultKind::kUnchecked,
                   std::string(launch.name) + ": the launch before it failed and nobody looked");
    ++launch_count;
    const std::string limit = beyond_limits(launch);
    if (!limit.empty()) {
        note_fault(FaultKind::kLaunch, std::string(launch.name) + ": " + limit);
        last_error = cudaErrorInvalidConfiguration;
        return last_error;
    }
    const auto run = [launch] { return run_blocks(launch) && intact(launch.name); };
    last_error = put(stream, {run, nullptr, 0, true});
    return last_error;
}

void enqueue(cudaStream_t stream, std::function<bool()> work) {
    last_error = put(stream, {std::move(work), nullptr, 0, true});
}

}  // namespace thimble::emu
