// SPDX-License-Identifier: Apache-2.0
// A few threads that read and write, for systems without io_uring.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/engine.h"

namespace thimble::storage {
namespace {

constexpr int kThreads = 4;

std::int64_t transfer(const Piece& piece) {
    for (;;) {
        const auto offset = static_cast<off_t>(piece.offset);
        const ssize_t moved = piece.writes
                                  ? ::pwrite(piece.descriptor, piece.data, piece.bytes, offset)
                                  : ::pread(piece.descriptor, piece.data, piece.bytes, offset);
        if (moved >= 0) return moved;
        if (errno != EINTR) return -errno;
    }
}

class ThreadEngine final : public IoEngine {
  public:
    explicit ThreadEngine(Done done) : done_(std::move(done)) {
        for (int i = 0; i < kThreads; ++i) threads_.emplace_back([this] { work(); });
    }
    ~ThreadEngine() override {
        {
            const std::lock_guard lock(mutex_);
            stops_ = true;
        }
        woken_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }
    ThreadEngine(const ThreadEngine&) = delete;
    ThreadEngine& operator=(const ThreadEngine&) = delete;

    [[nodiscard]] std::string_view name() const noexcept override { return "threads"; }
    void start(const Piece& piece) override {
        {
            const std::lock_guard lock(mutex_);
            waiting_.push_back(piece);
        }
        woken_.notify_one();
    }

  private:
    void work() {
        for (;;) {
            Piece piece;
            {
                std::unique_lock lock(mutex_);
                woken_.wait(lock, [this] { return stops_ || !waiting_.empty(); });
                if (waiting_.empty()) return;
                piece = waiting_.front();
                waiting_.pop_front();
            }
            done_(piece, transfer(piece));
        }
    }

    Done done_;
    std::mutex mutex_;
    std::condition_variable woken_;
    std::deque<Piece> waiting_;
    bool stops_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoEngine> make_thread_engine(IoEngine::Done done) {
    return std::make_unique<ThreadEngine>(std::move(done));
}

}  // namespace thimble::storage
