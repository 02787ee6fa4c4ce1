// SPDX-License-Identifier: Apache-2.0
// io_uring: one thread takes what has ended and starts what waits, so that transfers go on while
// the caller computes.
#include <liburing.h>

#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "storage/engine.h"

namespace thimble::storage {
namespace {

constexpr unsigned kDepth = 32;  // pieces in flight
constexpr std::uint64_t kStop = kDepth;

class UringEngine final : public IoEngine {
  public:
    UringEngine(const io_uring& ring, Done done) : ring_(ring), done_(std::move(done)) {
        for (unsigned place = 0; place < kDepth; ++place) free_.push_back(place);
        reaper_ = std::thread([this] { reap(); });
    }
    ~UringEngine() override {
        {
            const std::lock_guard lock(mutex_);
            io_uring_sqe* entry = io_uring_get_sqe(&ring_);
            io_uring_prep_nop(entry);
            io_uring_sqe_set_data64(entry, kStop);
            submit();
        }
        reaper_.join();
        io_uring_queue_exit(&ring_);
    }
    UringEngine(const UringEngine&) = delete;
    UringEngine& operator=(const UringEngine&) = delete;

    [[nodiscard]] std::string_view name() const noexcept override { return "io_uring"; }
    void start(const Piece& piece) override {
        const std::lock_guard lock(mutex_);
        waiting_.push_back(piece);
        issue();
    }

  private:
    // Both with the mutex held.
    void submit() {
        // It is refused for want of memory or by a signal only.
        while (io_uring_sq_ready(&ring_) > 0)
            if (io_uring_submit(&ring_) < 0) std::this_thread::yield();
    }
    void issue() {
        while (!waiting_.empty() && !free_.empty()) {
            const unsigned place = free_.back();
            free_.pop_back();
            const Piece& piece = pieces_[place] = waiting_.front();
            waiting_.pop_front();
            io_uring_sqe* entry = io_uring_get_sqe(&ring_);
            const auto bytes = static_cast<unsigned>(piece.bytes);
            if (piece.writes) {
                io_uring_prep_write(entry, piece.descriptor, piece.data, bytes, piece.offset);
            } else {
                io_uring_prep_read(entry, piece.descriptor, piece.data, bytes, piece.offset);
            }
            io_uring_sqe_set_data64(entry, place);
        }
        submit();
    }
    void reap() {
        for (;;) {
            io_uring_cqe* entry = nullptr;
            if (io_uring_wait_cqe(&ring_, &entry) != 0) continue;  // a signal
            const std::uint64_t place = io_uring_cqe_get_data64(entry);
            const std::int64_t result = entry->res;
            io_uring_cqe_seen(&ring_, entry);
            if (place == kStop) return;
            Piece piece;
            {
                const std::lock_guard lock(mutex_);
                piece = pieces_[place];
                free_.push_back(static_cast<unsigned>(place));
                issue();
            }
            done_(piece, result);
        }
    }

    io_uring ring_;
    Done done_;
    std::mutex mutex_;
    std::array<Piece, kDepth> pieces_;
    std::vector<unsigned> free_;  // places in pieces_
    std::deque<Piece> waiting_;
    std::thread reaper_;
};

bool reads_and_writes(io_uring& ring) {
    io_uring_probe* probe = io_uring_get_probe_ring(&ring);
    if (probe == nullptr) return false;
    const bool both = io_uring_opcode_supported(probe, IORING_OP_READ) != 0 &&
                      io_uring_opcode_supported(probe, IORING_OP_WRITE) != 0;
    io_uring_free_probe(probe);
    return both;
}

}  // namespace

std::unique_ptr<IoEngine> make_uring_engine(IoEngine::Done done, std::string& why_not) {
    io_uring ring;
    const int code = io_uring_queue_init(kDepth + 1, &ring, 0);
    if (code < 0) {
        why_not = std::strerror(-code);
        return nullptr;
    }
    if (!reads_and_writes(ring)) {
        io_uring_queue_exit(&ring);
        why_not = "the kernel's has no reads and writes";
        return nullptr;
    }
    return std::make_unique<UringEngine>(ring, std::move(done));
}

}  // namespace thimble::storage
