// SPDX-License-Identifier: Apache-2.0
#include "core/team.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <limits>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace thimble {
namespace {

void relax() noexcept {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

// Waits until `value` differs from `old`: spins at most 50 us, then sleeps in the kernel.
template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 1;; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
        if (i % 64 == 0 && std::chrono::steady_clock::now() - start > std::chrono::microseconds(50))
            break;
    }
    value.wait(old, std::memory_order_acquire);
}

// Adds the time that it runs; without an account it costs nothing.
class WaitClock {
  public:
    explicit WaitClock(TeamWaits* into) : into_(into) { start(); }
    void start() {
        if (into_ != nullptr) begun_ = std::chrono::steady_clock::now();
    }
    void stop() {
        if (into_ == nullptr) return;
        const auto passed = std::chrono::steady_clock::now() - begun_;
        into_->seconds += std::chrono::duration<double>(passed).count();
    }
    void finish() {
        stop();
        if (into_ != nullptr) ++into_->count;
    }

  private:
    TeamWaits* into_;
    std::chrono::steady_clock::time_point begun_;
};

}  // namespace

struct Team::State {
    // The job; written by the caller before `epoch` moves, read by workers after it.
    Call call = nullptr;
    void* fn = nullptr;
    std::int64_t items = 0, grain = 1;

    alignas(64) std::atomic<std::uint32_t> epoch{0};
    alignas(64) std::atomic<std::int64_t> next{0};
    alignas(64) std::atomic<std::uint32_t> busy{0};
    std::atomic<bool> stop{false};

    std::mutex error_mutex;
    std::exception_ptr error;
    std::int64_t error_begin = std::numeric_limits<std::int64_t>::max();

    std::vector<std::thread> workers;
    TeamWaits* waits = nullptr;  // the caller's

    void work(int thread) {
        for (;;) {
            const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= items) return;
            try {
                call(fn, begin, std::min(begin + grain, items), thread);
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (begin < error_begin) error_begin = begin, error = std::current_exception();
            }
        }
    }

    void loop(int thread) {
        std::uint32_t seen = 0;
        for (;;) {
            wait_while_equal(epoch, seen);
            seen = epoch.load(std::memory_order_acquire);
            if (stop.load(std::memory_order_relaxed)) return;
            work(thread);
            if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) busy.notify_one();
        }
    }
};

Team::Team(int threads) : state_(std::make_unique<State>()) {
    for (int t = 1; t < threads; ++t)
        state_->workers.emplace_back([s = state_.get(), t] { s->loop(t); });
}

Team::~Team() {
    state_->stop = true;
    state_->epoch.fetch_add(1, std::memory_order_release);
    state_->epoch.notify_all();
    for (std::thread& worker : state_->workers) worker.join();
}

int Team::threads() const noexcept { return static_cast<int>(state_->workers.size()) + 1; }

void Team::time_waits(TeamWaits* into) noexcept { state_->waits = into; }

void Team::run_erased(std::int64_t items, std::int64_t grain, Call call, void* fn) {
    if (items <= 0) return;
    grain = std::max<std::int64_t>(grain, 1);
    State& s = *state_;
    s.call = call;
    s.fn = fn;
    s.items = items;
    s.grain = grain;
    s.next.store(0, std::memory_order_relaxed);
    if (s.workers.empty() || items <= grain) {
        s.work(0);
    } else {
        WaitClock clock(s.waits);
        s.busy.store(static_cast<std::uint32_t>(s.workers.size()), std::memory_order_relaxed);
        s.epoch.fetch_add(1, std::memory_order_release);
        s.epoch.notify_all();
        clock.stop();
        s.work(0);
        clock.start();
        for (std::uint32_t left; (left = s.busy.load(std::memory_order_acquire)) != 0;)
            wait_while_equal(s.busy, left);
        clock.finish();
    }
    if (s.error) {
        s.error_begin = std::numeric_limits<std::int64_t>::max();
        std::rethrow_exception(std::exchange(s.error, nullptr));
    }
}

}  // namespace thimble
