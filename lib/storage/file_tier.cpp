// SPDX-License-Identifier: Apache-2.0
// A tier on disk: one file without a name whose room is taken before it is used. Transfers are cut
// into pieces that an engine moves in the background.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "storage/file_tier.h"
#include "storage/scratch_file.h"

namespace thimble::storage {
namespace {

constexpr std::size_t kPiece = std::size_t{1} << 20;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

class FileTier final : public StorageTier {
  public:
    explicit FileTier(const std::string& directory) : file_(directory) {
        if (file_.in_memory())
            log_warning(file_.directory() + " lies in memory: what is kept there takes ram");
    }
    ~FileTier() override { drain(); }
    FileTier(const FileTier&) = delete;
    FileTier& operator=(const FileTier&) = delete;

    // Whether there is an engine.
    [[nodiscard]] bool start(const MakeEngine& make) {
        engine_ = make([this](const Piece& piece, std::int64_t result) { ended(piece, result); });
        return engine_ != nullptr;
    }

    [[nodiscard]] Extent allocate(std::uint64_t bytes, Purpose purpose) override {
        const Extent extent{file_.bytes(), aligned(bytes)};
        if (extent.bytes == 0) return extent;
        Charge charge(Tier::kDisk, purpose, extent.bytes);
        file_.extend(extent.bytes);
        charges_.push_back(std::move(charge));
        return extent;
    }
    [[nodiscard]] std::uint64_t capacity() const noexcept override { return file_.bytes(); }

    [[nodiscard]] Ticket read(const Extent& extent, std::uint64_t offset,
                              std::span<std::byte> out) override {
        return begin(extent, {.offset = offset, .data = out.data(), .bytes = out.size()});
    }
    [[nodiscard]] Ticket write(const Extent& extent, std::uint64_t offset,
                               std::span<const std::byte> bytes) override {
        return begin(extent, {.writes = true,
                              .offset = offset,
                              .data = const_cast<std::byte*>(bytes.data()),
                              .bytes = bytes.size()});
    }
    void wait(Ticket ticket) override;
    void drain() noexcept override {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return pieces_in_flight_ == 0; });
        transfers_.clear();
    }

    [[nodiscard]] TierCounters counters() const override {
        const std::lock_guard lock(mutex_);
        TierCounters counters = counters_;
        if (pieces_in_flight_ > 0) counters.busy_seconds += now() - busy_since_;
        return counters;
    }
    [[nodiscard]] std::string engine() const override {
        return std::string(engine_->name()) +
               (file_.is_direct() ? ", direct" : ", through the page cache");
    }

  private:
    struct Transfer {
        std::size_t pieces_left = 0;
        bool writes = false;
        int error = 0;
    };

    [[nodiscard]] Ticket begin(const Extent& extent, Piece whole);
    void ended(Piece piece, std::int64_t result);

    ScratchFile file_;
    std::vector<Charge> charges_;
    mutable std::mutex mutex_;  // of what follows
    std::condition_variable changed_;
    std::map<std::uint64_t, Transfer> transfers_;  // not waited for yet
    std::uint64_t next_id_ = 1;
    std::size_t pieces_in_flight_ = 0;
    double busy_since_ = 0;
    TierCounters counters_;
    std::unique_ptr<IoEngine> engine_;  // its threads end first
};

Ticket FileTier::begin(const Extent& extent, Piece whole) {
    const auto address = reinterpret_cast<std::uintptr_t>(whole.data);
    const bool fits = whole.offset <= extent.bytes && whole.bytes <= extent.bytes - whole.offset &&
                      extent.offset <= file_.bytes() &&
                      extent.bytes <= file_.bytes() - extent.offset;
    if (!fits || (whole.offset | whole.bytes | address) % kAlignment != 0)
        throw Error(Exit::kFailure, file_.directory(), "a transfer that the tier cannot make");
    if (whole.bytes == 0) return {};
    const double start = now();
    {
        const std::lock_guard lock(mutex_);
        whole.ticket = next_id_++;
        const std::size_t pieces = (whole.bytes + kPiece - 1) / kPiece;
        transfers_[whole.ticket] = {pieces, whole.writes, 0};
        if (pieces_in_flight_ == 0) busy_since_ = start;
        pieces_in_flight_ += pieces;
    }
    for (std::size_t done = 0; done < whole.bytes; done += kPiece) {
        Piece piece = whole;
        piece.descriptor = file_.descriptor();
        piece.offset = extent.offset + whole.offset + done;
        piece.data = whole.data + done;
        piece.bytes = std::min(kPiece, whole.bytes - done);
        engine_->start(piece);
    }
    const std::lock_guard lock(mutex_);
    counters_.waited_seconds += now() - start;
    return {whole.ticket};
}

// On a thread of the engine.
void FileTier::ended(Piece piece, std::int64_t result) {
    // What a short transfer has left begins where a block does.
    const std::size_t moved =
        result > 0 ? static_cast<std::size_t>(result) / kAlignment * kAlignment : 0;
    const bool whole = result == static_cast<std::int64_t>(piece.bytes);
    if (!whole && moved > 0 && moved < piece.bytes) {
        {
            const std::lock_guard lock(mutex_);
            (piece.writes ? counters_.bytes_written : counters_.bytes_read) += moved;
        }
        piece.offset += moved, piece.data += moved, piece.bytes -= moved;
        return engine_->start(piece);
    }
    const std::lock_guard lock(mutex_);
    Transfer& transfer = transfers_[piece.ticket];
    if (whole) {
        (piece.writes ? counters_.bytes_written : counters_.bytes_read) += piece.bytes;
    } else if (transfer.error == 0) {
        transfer.error = result < 0 ? static_cast<int>(-result) : EIO;
    }
    --transfer.pieces_left;
    if (--pieces_in_flight_ == 0) counters_.busy_seconds += now() - busy_since_;
    if (transfer.pieces_left == 0) changed_.notify_all();
}

void FileTier::wait(Ticket ticket) {
    const double start = now();
    std::unique_lock lock(mutex_);
    const auto at = transfers_.find(ticket.id);
    if (at == transfers_.end()) return;
    changed_.wait(lock, [&] { return at->second.pieces_left == 0; });
    const Transfer transfer = at->second;
    transfers_.erase(at);
    counters_.waited_seconds += now() - start;
    if (transfer.error != 0)
        file_.fail(transfer.writes ? "cannot write to a file in it" : "cannot read a file in it",
                   transfer.error);
}

}  // namespace

std::unique_ptr<StorageTier> make_file_tier(const std::string& directory, const MakeEngine& make) {
    auto tier = std::make_unique<FileTier>(directory);
    return tier->start(make) ? std::move(tier) : nullptr;
}

std::unique_ptr<StorageTier> open_file_tier(const std::string& directory, FileEngine engine) {
    std::string why_not;
    const auto uring = [&](IoEngine::Done done) {
        return make_uring_engine(std::move(done), why_not);
    };
    if (engine != FileEngine::kThreads) {
        if (auto tier = make_file_tier(directory, uring)) return tier;
        if (engine == FileEngine::kUring)
            throw Error(Exit::kUsage, "io_uring", "the system refuses it: " + why_not);
        log_info("io_uring is refused (" + why_not + "): threads read and write");
    }
    return make_file_tier(directory, make_thread_engine);
}

}  // namespace thimble::storage
