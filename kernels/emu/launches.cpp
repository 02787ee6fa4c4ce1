// SPDX-License-Identifier: Apache-2.0
// The blocks of a launch, spread over OS threads that are kept from launch to launch.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "kernels/emu/worker.h"

namespace thimble::emu {

namespace {

Dim3 block_at(std::uint64_t i, Dim3 grid) {
    return {static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
            static_cast<unsigned>(i / grid.x / grid.y)};
}

// Never destroyed: its threads sleep until the process ends.
class Pool {
  public:
    bool run(const Launch& launch, unsigned wanted) {
        catch_bad_accesses();
        while (members_.size() < wanted) add();
        launch_ = &launch;
        blocks_ = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
        next_ = 0;
        good_ = true;
        if (wanted > 1) {
            const std::lock_guard lock(mutex_);
            ++turn_;
            wanted_ = wanted;
            busy_ = wanted - 1;
            wake_.notify_all();
        }
        work(*members_[0]);
        if (wanted > 1) {
            std::unique_lock lock(mutex_);
            done_.wait(lock, [&] { return busy_ == 0; });
        }
        return good_;
    }

  private:
    void add() {
        members_.push_back(std::make_unique<Worker>());
        const auto number = static_cast<unsigned>(members_.size() - 1);
        Worker& mine = *members_.back();
        if (number > 0)
            std::thread([this, number, &mine, seen = turn_] {
                serve(number, mine, seen);
            }).detach();
    }

    void serve(unsigned number, Worker& mine, std::uint64_t seen) {
        for (;;) {
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return turn_ != seen; });
                seen = turn_;
                if (number >= wanted_) continue;
            }
            work(mine);
            const std::lock_guard lock(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    void work(Worker& mine) {
        static thread_local bool given = false;
        if (!given) give_signal_stack(mine);
        given = true;
        for (std::uint64_t i; good_ && (i = next_++) < blocks_;) {
            if (!mine.run(*launch_, block_at(i, launch_->grid))) good_ = false;
        }
    }

    std::vector<std::unique_ptr<Worker>> members_;
    const Launch* launch_ = nullptr;
    std::uint64_t blocks_ = 0;
    std::atomic<std::uint64_t> next_{0};
    std::atomic<bool> good_{true};
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    std::uint64_t turn_ = 0;
    unsigned wanted_ = 0, busy_ = 0;
};

}  // namespace

std::string beyond_limits(const Launch& launch) {
    const Dim3 g = launch.grid, b = launch.block;
    const std::uint64_t threads = std::uint64_t{b.x} * b.y * b.z;
    if (threads == 0 || threads > kMostThreads || b.z > 64)
        return "a block of " + std::to_string(b.x) + " x " + std::to_string(b.y) + " x " +
               std::to_string(b.z) + " threads (1 to 1024 are possible, 64 of them along z)";
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return "a grid of " + std::to_string(g.x) + " x " + std::to_string(g.y) + " x " +
               std::to_string(g.z) + " blocks";
    if (launch.shared_bytes > launch.shared_limit)
        return std::to_string(launch.shared_bytes) + " bytes of dynamic shared memory (limit " +
               std::to_string(launch.shared_limit) + ")";
    return {};
}

bool run_blocks(const Launch& launch) {
    static auto* const pool = new Pool;
    const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    const unsigned most = settings().workers > 0
                              ? static_cast<unsigned>(settings().workers)
                              : std::max(std::thread::hardware_concurrency(), 1u);
    return pool->run(launch,
                     static_cast<unsigned>(std::min<std::uint64_t>(most, (blocks + 3) / 4)));
}

}  // namespace thimble::emu
