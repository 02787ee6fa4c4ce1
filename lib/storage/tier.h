// SPDX-License-Identifier: Apache-2.0
// Storage slower than memory, read and written in the background: what does not fit lies there and
// is fetched ahead of its use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/ledger.h"

namespace thimble::storage {

// A range of a tier.
struct Extent {
    std::uint64_t offset = 0, bytes = 0;
};
// A transfer under way.
struct Ticket {
    std::uint64_t id = 0;  // 0: none
};

struct TierCounters {
    std::uint64_t bytes_read = 0, bytes_written = 0;
    double busy_seconds = 0;    // with a transfer in flight
    double waited_seconds = 0;  // that callers spent on starting transfers and waiting for them
    // Share of the busy time in which callers did something else.
    [[nodiscard]] double hidden() const noexcept {
        return busy_seconds > waited_seconds ? 1 - waited_seconds / busy_seconds : 0;
    }
    [[nodiscard]] double bytes_per_second() const noexcept {
        return busy_seconds > 0 ? static_cast<double>(bytes_read + bytes_written) / busy_seconds
                                : 0;
    }
};

class StorageTier {
  public:
    // Places, lengths and addresses of transfers are multiples of it.
    static constexpr std::size_t kAlignment = 4096;
    [[nodiscard]] static constexpr std::uint64_t aligned(std::uint64_t bytes) noexcept {
        return (bytes + kAlignment - 1) & ~std::uint64_t{kAlignment - 1};
    }

    virtual ~StorageTier() = default;

    // Room for `bytes` and what alignment adds, charged to the ledger for as long as the tier
    // lives. Error(kIo) when there is not as much.
    [[nodiscard]] virtual Extent allocate(std::uint64_t bytes, Purpose purpose) = 0;
    [[nodiscard]] virtual std::uint64_t capacity() const noexcept = 0;  // allocated so far

    // From and to `offset` of an extent. The memory stays as it is until wait(). Transfers of the
    // same bytes come in no order unless one is waited for before the next begins.
    [[nodiscard]] virtual Ticket read(const Extent& extent, std::uint64_t offset,
                                      std::span<std::byte> out) = 0;
    [[nodiscard]] virtual Ticket write(const Extent& extent, std::uint64_t offset,
                                       std::span<const std::byte> bytes) = 0;
    // In any order; once more, or for no ticket, does nothing. Error(kIo) when it failed.
    virtual void wait(Ticket ticket) = 0;
    // Nothing is in flight any more; failures are forgotten. For destructors of what owns memory.
    virtual void drain() noexcept = 0;

    [[nodiscard]] virtual TierCounters counters() const = 0;
    // What moves the bytes: "io_uring, direct".
    [[nodiscard]] virtual std::string engine() const = 0;
};

enum class FileEngine { kAuto, kUring, kThreads };
// An unnamed file in a directory. kAuto: io_uring, or threads where the system refuses it. Throws
// kCannotCreate, or kUsage when the engine asked for is refused.
[[nodiscard]] std::unique_ptr<StorageTier> open_file_tier(const std::string& directory,
                                                          FileEngine engine = FileEngine::kAuto);

}  // namespace thimble::storage
