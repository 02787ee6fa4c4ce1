// SPDX-License-Identifier: Apache-2.0
// Exact count of the bytes this process holds, by tier and purpose, against the stated budget.
// Buffers, mapped model pages and containers of data-dependent size are charged here; an allocation
// that would pass a tier's limit throws Error(kOverBudget) before it is made.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <string>
#include <string_view>

namespace thimble {

enum class Tier : std::uint8_t { kRam, kVram, kDisk };
inline constexpr int kTiers = 3;
enum class Purpose : std::uint8_t {
    kBaseline,     // the process before any work: code, libraries, stacks (a constant per tool)
    kWeights,      // owned or mapped weights
    kKv,           // KV cache
    kActivations,  // activations of one step, those kept for a backward pass among them
    kLogits,       // logits and per-token statistics
    kGradients,    // of trained parameters
    kOptimizer,    // its state
    kVocabulary,   // tokenizer tables
    kIo,           // read and write buffers
    kOther,
};
inline constexpr int kPurposes = 10;
[[nodiscard]] std::string_view name(Tier tier) noexcept;
[[nodiscard]] std::string_view name(Purpose purpose) noexcept;

// "ram=4GiB,vram=0,disk=20GB"; an absent tier is unlimited.
struct Budget {
    std::array<std::optional<std::uint64_t>, kTiers> limit_bytes;
    [[nodiscard]] static Budget parse(std::string_view text, std::string_view where);
};

using BytesByPurpose = std::array<std::uint64_t, kPurposes>;

class Ledger {
  public:
    static Ledger& process();  // the one that Buffer charges

    void set_budget(const Budget& budget);
    void charge(Tier tier, Purpose purpose, std::uint64_t bytes);  // throws kOverBudget
    void release(Tier tier, Purpose purpose, std::uint64_t bytes) noexcept;
    [[nodiscard]] std::uint64_t current_bytes(Tier tier) const noexcept;
    [[nodiscard]] std::uint64_t peak_bytes(Tier tier) const noexcept;
    [[nodiscard]] std::uint64_t current_bytes(Tier tier, Purpose purpose) const noexcept;
    [[nodiscard]] std::uint64_t peak_bytes(Tier tier, Purpose purpose) const noexcept;
    void reset_peaks() noexcept;

  private:
    struct Count {
        std::atomic<std::uint64_t> current{0}, peak{0};
        void add(std::uint64_t bytes) noexcept;
    };
    std::array<Count, kTiers> totals_;
    std::array<std::array<Count, kPurposes>, kTiers> parts_;
    std::array<std::atomic<std::uint64_t>, kTiers> limits_{UINT64_MAX, UINT64_MAX, UINT64_MAX};
};

// A charge held for a scope: mapped pages, foreign allocations.
class Charge {
  public:
    Charge() = default;
    Charge(Tier tier, Purpose purpose, std::uint64_t bytes);
    ~Charge() { resize(0); }
    Charge(Charge&& other) noexcept { *this = std::move(other); }
    Charge& operator=(Charge&& other) noexcept;
    void resize(std::uint64_t bytes);     // grows (may throw) or shrinks
    void keep() noexcept { bytes_ = 0; }  // the bytes stay charged: another owner releases them
    [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }

  private:
    Tier tier_ = Tier::kRam;
    Purpose purpose_ = Purpose::kOther;
    std::uint64_t bytes_ = 0;
};

// pmr resource whose allocations are charged to one purpose.
class CountingResource final : public std::pmr::memory_resource {
  public:
    explicit CountingResource(Purpose purpose) : purpose_(purpose) {}

  private:
    void* do_allocate(std::size_t bytes, std::size_t alignment) override;
    void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override;
    [[nodiscard]] bool do_is_equal(const memory_resource& o) const noexcept override {
        return this == &o;
    }
    Purpose purpose_;
};

}  // namespace thimble
