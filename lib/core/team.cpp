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

// A thread's way through what it will read.
class Fetching {
  public:
    void start(const Readings& list) noexcept { list_ = list, part_ = 0, at_ = 0; }
    // Asks for a few lines more; false: there are none.
    bool step() noexcept {
        constexpr std::size_t kLine = 64, kStep = 8 * kLine;
        if (part_ == list_.parts.size()) return false;
        const Readings::Part& now = list_.parts[part_];
        const std::size_t end = std::min(at_ + kStep, now.bytes);
        for (; at_ < end; at_ += kLine) __builtin_prefetch(now.data + at_, 0, 2);
        if (at_ >= now.bytes) ++part_, at_ = 0;
        return true;
    }

  private:
    Readings list_{};
    std::size_t part_ = 0, at_ = 0;
};

// Waits until `value` differs from `old`: fetches, spins at most 200 us, then sleeps in the kernel.
template <class T>
void wait_while_equal(const std::atomic<T>& value, T old, Fetching& fetching) {
    while (value.load(std::memory_order_acquire) == old && fetching.step()) {
    }
    const auto start = std::chrono::steady_clock::now();
    for (int i = 1;; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
        if (i % 64 == 0 &&
            std::chrono::steady_clock::now() - start > std::chrono::microseconds(200))
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
    struct alignas(64) Share {
        std::atomic<std::int64_t> next{0};
        std::int64_t end = 0;
    };

    // The job; written by the caller before `epoch` moves, read by workers after it.
    Call call = nullptr;
    void* fn = nullptr;
    std::int64_t grain = 1;
    std::vector<Share> shares;              // a thread's each
    std::span<const Readings> will_read{};  // empty: as before

    alignas(64) std::atomic<std::uint32_t> epoch{0};
    alignas(64) std::atomic<std::uint32_t> busy{0};
    std::atomic<bool> stop{false};

    std::mutex error_mutex;
    std::exception_ptr error;
    std::int64_t error_begin = std::numeric_limits<std::int64_t>::max();

    std::vector<std::thread> workers;
    Fetching fetching;           // the caller's
    TeamWaits* waits = nullptr;  // the caller's

    explicit State(int threads) : shares(static_cast<std::size_t>(threads)) {}

    void work(int thread) {
        const std::size_t count = shares.size();
        for (std::size_t i = 0; i < count; ++i)
            work_on(shares[(static_cast<std::size_t>(thread) + i) % count], thread);
    }

    void work_on(Share& share, int thread) {
        for (;;) {
            const std::int64_t begin = share.next.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= share.end) return;
            try {
                call(fn, begin, std::min(begin + grain, share.end), thread);
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (begin < error_begin) error_begin = begin, error = std::current_exception();
            }
        }
    }

    void start_fetching(int thread, Fetching& fetching_of_thread) const {
        if (!will_read.empty())
            fetching_of_thread.start(will_read[static_cast<std::size_t>(thread)]);
    }

    void loop(int thread) {
        std::uint32_t seen = 0;
        Fetching mine;
        for (;;) {
            wait_while_equal(epoch, seen, mine);
            seen = epoch.load(std::memory_order_acquire);
            if (stop.load(std::memory_order_relaxed)) return;
            start_fetching(thread, mine);
            work(thread);
            if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) busy.notify_one();
        }
    }
};

Team::Team(int threads) : state_(std::make_unique<State>(std::max(threads, 1))) {
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

void Team::will_read(std::span<const Readings> of_threads) noexcept {
    if (std::ssize(of_threads) == threads()) state_->will_read = of_threads;
}

std::int64_t Team::share(std::int64_t items, std::int64_t grain, int thread) const noexcept {
    const std::int64_t chunks = (items + grain - 1) / grain;
    return std::min(chunks * thread / threads() * grain, items);
}

void Team::run_erased(std::int64_t items, std::int64_t grain, Call call, void* fn) {
    if (items <= 0) return;
    grain = std::max<std::int64_t>(grain, 1);
    State& s = *state_;
    s.call = call;
    s.fn = fn;
    s.grain = grain;
    for (int t = 0; t < threads(); ++t) {
        State::Share& mine = s.shares[static_cast<std::size_t>(t)];
        mine.next.store(share(items, grain, t), std::memory_order_relaxed);
        mine.end = share(items, grain, t + 1);
    }
    if (s.workers.empty() || items <= grain) {
        s.work(0);
    } else {
        WaitClock clock(s.waits);
        s.busy.store(static_cast<std::uint32_t>(s.workers.size()), std::memory_order_relaxed);
        s.epoch.fetch_add(1, std::memory_order_release);
        s.epoch.notify_all();
        clock.stop();
        s.start_fetching(0, s.fetching);
        s.work(0);
        clock.start();
        for (std::uint32_t left; (left = s.busy.load(std::memory_order_acquire)) != 0;)
            wait_while_equal(s.busy, left, s.fetching);
        clock.finish();
    }
    s.will_read = {};
    if (s.error) {
        s.error_begin = std::numeric_limits<std::int64_t>::max();
        std::rethrow_exception(std::exchange(s.error, nullptr));
    }
}

}  // namespace thimble
