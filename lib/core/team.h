// SPDX-License-Identifier: Apache-2.0
// A fixed team of threads that runs ranges of one task at a time.
// differs from the OpenMP region of the design page: own threads, since waits that fetch, then spin
// (200 us, not 50: sampling takes 100, and a virtual machine as long to wake a thread), then sleep,
// and the lowest-index exception rule need control that an OpenMP barrier does not give.
//
// The caller alone runs block, policy, store and allocation code; only the function passed to run()
// executes on the other threads. It must not allocate tracked memory and must not call run() again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

namespace thimble {

// What the caller spends on waking the other threads and on waiting until the last one is done.
struct TeamWaits {
    std::int64_t count = 0;  // calls that other threads took part in
    double seconds = 0;
};

// Memory that a thread will read, in this order.
struct Readings {
    struct Part {
        const std::byte* data = nullptr;
        std::size_t bytes = 0;
        bool operator==(const Part&) const = default;
    };
    std::array<Part, 4> parts{};
    bool operator==(const Readings&) const = default;
};

class Team {
  public:
    explicit Team(int threads);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    [[nodiscard]] int threads() const noexcept;

    // From now on waits are added to *into; null: they are not timed, as at first.
    void time_waits(TeamWaits* into) noexcept;

    // What each thread is likely to read after the next run: while it waits for others or for work
    // then, it brings this into its cache. Only a hint: the memory may be gone by then. The span
    // must live until that run has ended.
    void will_read(std::span<const Readings> of_threads) noexcept;

    // Calls fn(begin, end) for chunks of at most `grain` items that cover [0, items) exactly once.
    // A thread goes through its share() and then helps others with theirs, so which thread gets
    // which chunk varies; chunk borders never do (multiples of grain), so a result must depend only
    // on the chunk. Returns when all are done. If chunks throw, the exception of the lowest begin
    // is rethrown.
    template <class Fn>
    void run(std::int64_t items, std::int64_t grain, Fn&& fn) {
        using F = std::remove_reference_t<Fn>;
        run_erased(
            items, grain,
            [](void* f, std::int64_t b, std::int64_t e, int) { (*static_cast<F*>(f))(b, e); },
            const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
    }

    // The same with the executing thread's index in [0, threads()), for per-thread scratch:
    // fn(begin, end, thread).
    template <class Fn>
    void run_indexed(std::int64_t items, std::int64_t grain, Fn&& fn) {
        using F = std::remove_reference_t<Fn>;
        run_erased(
            items, grain,
            [](void* f, std::int64_t b, std::int64_t e, int t) { (*static_cast<F*>(f))(b, e, t); },
            const_cast<void*>(static_cast<const void*>(std::addressof(fn))));
    }

    // Where the items begin that thread `thread` of a run takes first; `thread` may be threads().
    [[nodiscard]] std::int64_t share(std::int64_t items, std::int64_t grain,
                                     int thread) const noexcept;

  private:
    using Call = void (*)(void* fn, std::int64_t begin, std::int64_t end, int thread);
    void run_erased(std::int64_t items, std::int64_t grain, Call call, void* fn);
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace thimble
