// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/strings.h"
#include "storage/file_tier.h"
#include "storage/scratch_file.h"
#include "storage/transfer_buffer.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::storage;

namespace {

constexpr std::size_t kBlock = StorageTier::kAlignment;

// Every engine that the system has.
std::vector<FileEngine> engines() {
    std::vector<FileEngine> all = {FileEngine::kThreads};
    std::string why_not;
    if (make_uring_engine([](const Piece&, std::int64_t) {}, why_not)) {
        all.push_back(FileEngine::kUring);
    } else {
        MESSAGE("io_uring is not tested here: " << why_not);
    }
    return all;
}

template <class Fn>
Error error_of(Fn&& fn) {
    try {
        fn();
    } catch (const Error& error) {
        return error;
    }
    FAIL("no error");
    return {Exit::kDone, "", ""};
}

struct Memory {
    explicit Memory(std::size_t bytes) : buffer(bytes, Purpose::kIo), span(buffer.data(), bytes) {}
    void fill(std::mt19937_64& random) {
        for (std::byte& b : span) b = static_cast<std::byte>(random());
    }
    TransferBuffer buffer;
    std::span<std::byte> span;
};

// Moves pieces at once, through `fault` first: bytes that a call may move, or a negative errno.
class FaultyEngine final : public IoEngine {
  public:
    using Fault = std::function<std::int64_t(const Piece&)>;
    FaultyEngine(Done done, Fault fault) : done_(std::move(done)), fault_(std::move(fault)) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "faulty"; }
    void start(const Piece& piece) override {
        const std::int64_t most = fault_(piece);
        if (most < 0) return done_(piece, most);
        // Whole blocks; what is said of the rest is what a file system may say.
        const std::size_t bytes = std::min(piece.bytes, static_cast<std::size_t>(most));
        const std::size_t whole = bytes / kBlock * kBlock;
        const auto offset = static_cast<off_t>(piece.offset);
        const ssize_t moved = piece.writes ? ::pwrite(piece.descriptor, piece.data, whole, offset)
                                           : ::pread(piece.descriptor, piece.data, whole, offset);
        done_(piece, moved < 0 ? -errno : static_cast<std::int64_t>(bytes));
    }

  private:
    Done done_;
    Fault fault_;
};
std::unique_ptr<StorageTier> faulty_tier(const std::string& directory, FaultyEngine::Fault fault) {
    return make_file_tier(directory, [&](IoEngine::Done done) {
        return std::make_unique<FaultyEngine>(std::move(done), fault);
    });
}

// The file that this process holds open in `directory`, though it has no name there.
int descriptor_in(const std::string& directory) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code ignored;
        const std::string target = std::filesystem::read_symlink(entry.path(), ignored).string();
        if (target.starts_with(directory + "/")) return std::stoi(entry.path().filename());
    }
    return -1;
}

}  // namespace

TEST_CASE("a file tier gives back what was written, in any order of waiting") {
    for (const FileEngine engine : engines()) {
        const test::TempDir directory;
        const auto tier = open_file_tier(directory.path(), engine);
        CAPTURE(tier->engine());
        std::mt19937_64 random(7);
        // Some transfers are one block, some many pieces.
        const std::size_t sizes[] = {kBlock, 3 * kBlock, 1 << 20, (5 << 20) + kBlock};
        std::vector<Extent> extents;
        std::vector<std::vector<std::byte>> truth;
        for (int i = 0; i < 12; ++i) {
            const std::size_t bytes = sizes[random() % 4];
            extents.push_back(tier->allocate(bytes - random() % kBlock, Purpose::kOptimizer));
            CHECK(extents.back().bytes == bytes);
            truth.emplace_back(bytes);
        }
        CHECK(directory.entries() == 0);  // it has no name
        for (int round = 0; round < 4; ++round) {
            std::vector<std::unique_ptr<Memory>> memories;
            std::vector<Ticket> tickets;
            for (std::size_t i = 0; i < extents.size(); ++i) {
                const std::size_t blocks = truth[i].size() / kBlock;
                const std::size_t first = random() % blocks;
                const std::size_t count = 1 + random() % (blocks - first);
                memories.push_back(std::make_unique<Memory>(count * kBlock));
                memories.back()->fill(random);
                std::copy(memories.back()->span.begin(), memories.back()->span.end(),
                          truth[i].begin() + static_cast<std::ptrdiff_t>(first * kBlock));
                tickets.push_back(tier->write(extents[i], first * kBlock, memories.back()->span));
            }
            std::shuffle(tickets.begin(), tickets.end(), random);
            for (const Ticket ticket : tickets) tier->wait(ticket);
            tier->wait(tickets[0]);  // once more does nothing

            std::vector<std::size_t> order;
            for (std::size_t i = 0; i < extents.size(); ++i) order.push_back(i);
            memories.clear(), tickets.clear();
            for (std::size_t i = 0; i < extents.size(); ++i) {
                memories.push_back(std::make_unique<Memory>(truth[i].size()));
                tickets.push_back(tier->read(extents[i], 0, memories.back()->span));
            }
            std::shuffle(order.begin(), order.end(), random);
            for (const std::size_t i : order) {
                tier->wait(tickets[i]);
                CHECK(std::ranges::equal(memories[i]->span, truth[i]));
            }
        }
        std::uint64_t all = 0;
        for (const Extent& extent : extents) all += extent.bytes;
        CHECK(tier->capacity() == all);
        const TierCounters counters = tier->counters();
        CHECK(counters.bytes_read == 4 * all);
        CHECK(counters.bytes_written > 0);
        CHECK(counters.busy_seconds > 0);
        CHECK(counters.waited_seconds > 0);
        CHECK(counters.hidden() < 1);
    }
}

TEST_CASE("what was never written reads as zeros") {
    for (const FileEngine engine : engines()) {
        const test::TempDir directory;
        const auto tier = open_file_tier(directory.path(), engine);
        const Extent extent = tier->allocate(2 << 20, Purpose::kOptimizer);
        Memory memory(2 << 20);
        std::memset(memory.span.data(), 0x5a, memory.span.size());
        tier->wait(tier->read(extent, 0, memory.span));
        CHECK(std::ranges::all_of(memory.span, [](std::byte b) { return b == std::byte{0}; }));
    }
}

TEST_CASE("several threads use one tier") {
    for (const FileEngine engine : engines()) {
        const test::TempDir directory;
        const auto tier = open_file_tier(directory.path(), engine);
        std::vector<Extent> extents;
        for (int t = 0; t < 4; ++t)
            extents.push_back(tier->allocate(64 * kBlock, Purpose::kActivations));
        std::atomic<int> wrong = 0;
        std::vector<std::thread> threads;
        for (std::size_t t = 0; t < extents.size(); ++t) {
            threads.emplace_back([&, t] {
                Memory out(64 * kBlock), in(64 * kBlock);
                std::mt19937_64 random(t);
                for (int round = 0; round < 20; ++round) {
                    out.fill(random);
                    tier->wait(tier->write(extents[t], 0, out.span));
                    tier->wait(tier->read(extents[t], 0, in.span));
                    if (!std::ranges::equal(out.span, in.span)) ++wrong;
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        CHECK(wrong == 0);
    }
}

TEST_CASE("a tier takes whole blocks within an extent only") {
    const test::TempDir directory;
    const auto tier = open_file_tier(directory.path());
    const Extent extent = tier->allocate(4 * kBlock, Purpose::kOptimizer);
    Memory memory(8 * kBlock);
    const auto refused = [&](std::uint64_t offset, std::span<std::byte> span) {
        return error_of([&] { tier->wait(tier->read(extent, offset, span)); }).exit() ==
               Exit::kFailure;
    };
    CHECK(refused(512, memory.span.first(kBlock)));
    CHECK(refused(0, memory.span.first(512)));
    CHECK(refused(0, memory.span.subspan(64, kBlock)));
    CHECK(refused(0, memory.span.first(5 * kBlock)));
    CHECK(refused(5 * kBlock, memory.span.first(0)));
    CHECK(refused(~std::uint64_t{kBlock - 1}, memory.span.first(2 * kBlock)));
    tier->wait(tier->read(extent, 4 * kBlock, memory.span.first(0)));
    tier->wait({});
}

TEST_CASE("a tier's room is in the ledger and within its budget") {
    const test::TempDir directory;
    Ledger& ledger = Ledger::process();
    const std::uint64_t before = ledger.current_bytes(Tier::kDisk);
    {
        const auto tier = open_file_tier(directory.path());
        (void)tier->allocate(1, Purpose::kOptimizer);
        (void)tier->allocate(2 * kBlock, Purpose::kActivations);
        CHECK(ledger.current_bytes(Tier::kDisk) == before + 3 * kBlock);
        ledger.set_budget(Budget::parse("disk=16KiB", "test"));
        CHECK(error_of([&] { (void)tier->allocate(2 * kBlock, Purpose::kOptimizer); }).exit() ==
              Exit::kOverBudget);
        ledger.set_budget({});
        CHECK(tier->capacity() == 3 * kBlock);
    }
    CHECK(ledger.current_bytes(Tier::kDisk) == before);
}

TEST_CASE("a disk that is short is told of before anything is written") {
    const test::TempDir directory;
    const auto tier = open_file_tier(directory.path());
    const Error error =
        error_of([&] { (void)tier->allocate(std::uint64_t{1} << 50, Purpose::kOptimizer); });
    CHECK(error.exit() == Exit::kIo);
    CHECK(error.where() == directory.path());
    CHECK(error.problem().find("free, " + format_bytes(std::uint64_t{1} << 50) + " are needed") !=
          std::string::npos);

    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit tight = before;
    tight.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_FSIZE, &tight);
    (void)tier->allocate(1 << 20, Purpose::kOptimizer);
    const Error limited = error_of([&] { (void)tier->allocate(1 << 20, Purpose::kOptimizer); });
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    CHECK(limited.exit() == Exit::kIo);
    CHECK(limited.where() == directory.path());
    CHECK(tier->capacity() == 1 << 20);
}

TEST_CASE("a tier needs a directory that it can write to") {
    const test::TempDir directory;
    const Error error = error_of([&] { (void)open_file_tier(directory / "missing"); });
    CHECK(error.exit() == Exit::kCannotCreate);
    CHECK(error.where() == directory / "missing");
}

TEST_CASE("a file that became shorter is an I/O error") {
    for (const FileEngine engine : engines()) {
        const test::TempDir directory;
        const auto tier = open_file_tier(directory.path(), engine);
        const Extent extent = tier->allocate(3 << 20, Purpose::kOptimizer);
        const int fd = descriptor_in(directory.path());
        REQUIRE(fd >= 0);
        REQUIRE(::ftruncate(fd, (1 << 20) + 100) == 0);
        Memory memory(3 << 20);
        const Ticket ticket = tier->read(extent, 0, memory.span);
        const Error error = error_of([&] { tier->wait(ticket); });
        CHECK(error.exit() == Exit::kIo);
        CHECK(error.where() == directory.path());
        CHECK(error.problem() == "cannot read a file in it: Input/output error");
        tier->wait(tier->read(extent, 0, memory.span.first(1 << 20)));  // that much is left
    }
}

TEST_CASE("short transfers go on where the last whole block ended") {
    const test::TempDir directory;
    std::mt19937_64 random(3);
    const auto tier = faulty_tier(directory.path(), [&](const Piece&) {
        return static_cast<std::int64_t>(kBlock + random() % (6 * kBlock));
    });
    const Extent extent = tier->allocate(3 << 20, Purpose::kOptimizer);
    Memory out(3 << 20), in(3 << 20);
    out.fill(random);
    tier->wait(tier->write(extent, 0, out.span));
    tier->wait(tier->read(extent, 0, in.span));
    CHECK(std::ranges::equal(out.span, in.span));
    CHECK(tier->counters().bytes_read == 3 << 20);
    CHECK(tier->counters().bytes_written == 3 << 20);
}

TEST_CASE("faults of the disk reach whoever waits, and only them") {
    for (const auto& [code, text, hint] :
         {std::tuple{ENOSPC, "No space left on device", "free some space or choose another disk"},
          std::tuple{EIO, "Input/output error", ""}}) {
        const test::TempDir directory;
        int pieces = 0;
        const auto tier = faulty_tier(directory.path(), [&](const Piece& piece) -> std::int64_t {
            return piece.writes && ++pieces == 2 ? -code : 1 << 30;
        });
        const Extent extent = tier->allocate(8 << 20, Purpose::kOptimizer);
        Memory memory(4 << 20);
        std::memset(memory.span.data(), 1, memory.span.size());
        const Ticket bad = tier->write(extent, 0, memory.span);
        const Ticket good = tier->write(extent, 4 << 20, memory.span);
        tier->wait(good);
        const Error error = error_of([&] { tier->wait(bad); });
        CHECK(error.exit() == Exit::kIo);
        CHECK(error.problem() == std::string("cannot write to a file in it: ") + text);
        CHECK(error.hint() == hint);
        tier->wait(bad);  // told once
    }
}

TEST_CASE("where io_uring is refused threads do its work") {
    const test::TempDir directory;
    std::string engine;
    Exit forced = Exit::kDone;
    bool same = false;
    // The filter holds for the thread that sets it.
    std::thread([&] {
        sock_filter rules[] = {
            {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
            {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup},
            {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
            {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
        };
        sock_fprog program = {4, rules};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return;
        const auto tier = open_file_tier(directory.path());
        engine = tier->engine();
        try {
            (void)open_file_tier(directory.path(), FileEngine::kUring);
        } catch (const Error& error) {
            forced = error.exit();
        }
        const Extent extent = tier->allocate(kBlock, Purpose::kOptimizer);
        Memory out(kBlock), in(kBlock);
        std::mt19937_64 random(5);
        out.fill(random);
        tier->wait(tier->write(extent, 0, out.span));
        tier->wait(tier->read(extent, 0, in.span));
        same = std::ranges::equal(out.span, in.span);
    }).join();
    if (engine.empty()) {
        MESSAGE("skipped: no seccomp filters here");
        return;
    }
    CHECK(engine.starts_with("threads"));
    CHECK(forced == Exit::kUsage);
    CHECK(same);
}

TEST_CASE("memory for transfers is aligned and planned to the byte") {
    for (const std::size_t bytes : {std::size_t{0}, kBlock, std::size_t{100} * kBlock,
                                    (std::size_t{2} << 20) - kBlock, std::size_t{3} << 20}) {
        const std::uint64_t before = Ledger::process().current_bytes(Tier::kRam);
        TransferBuffer buffer(bytes, Purpose::kIo);
        CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % kBlock == 0);
        CHECK(Ledger::process().current_bytes(Tier::kRam) - before ==
              TransferBuffer::charged_bytes(bytes));
    }
}
