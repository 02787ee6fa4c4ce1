// SPDX-License-Identifier: Apache-2.0
#include "core/ledger.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/reclaim.h"
#include "core/strings.h"

namespace thimble {
namespace {
constexpr std::array<std::string_view, kTiers> kTierNames = {"ram", "vram", "disk"};
constexpr std::array<std::string_view, kPurposes> kPurposeNames = {
    "baseline",  "weights",   "kv",         "activations", "logits",
    "gradients", "optimizer", "vocabulary", "io",          "other"};

template <class E>
constexpr std::size_t index(E e) {
    return static_cast<std::size_t>(e);
}

std::atomic<Reclaim> holder{nullptr};
}  // namespace

void set_reclaim(Reclaim reclaim) noexcept { holder = reclaim; }

std::string_view name(Tier tier) noexcept { return kTierNames[index(tier)]; }
std::string_view name(Purpose purpose) noexcept { return kPurposeNames[index(purpose)]; }

Budget Budget::parse(std::string_view text, std::string_view where) {
    Budget budget;
    if (text.empty()) return budget;
    const std::vector<std::string> known(kTierNames.begin(), kTierNames.end());
    for (const std::string& part : split(text, ',')) {
        const std::size_t equals = part.find('=');
        const std::string key = part.substr(0, equals);
        std::size_t tier = 0;
        while (tier < kTierNames.size() && kTierNames[tier] != key) ++tier;
        if (equals == std::string::npos || tier == kTierNames.size()) {
            throw Error(Exit::kUsage, std::string(where),
                        "'" + escaped(part) + "' is not tier=bytes",
                        equals == std::string::npos ? "write for example ram=4GiB"
                                                    : did_you_mean(key, known));
        }
        if (budget.limit_bytes[tier]) {
            throw Error(Exit::kUsage, std::string(where), "'" + key + "' is given twice");
        }
        budget.limit_bytes[tier] = parse_bytes(part.substr(equals + 1), where);
    }
    return budget;
}

Ledger& Ledger::process() {
    static Ledger instance;
    return instance;
}

void Ledger::set_budget(const Budget& budget) {
    for (std::size_t t = 0; t < kTiers; ++t)
        limits_[t] = budget.limit_bytes[t].value_or(UINT64_MAX);
}

void Ledger::Count::add(std::uint64_t bytes) noexcept {
    const std::uint64_t now = current.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::uint64_t seen = peak.load(std::memory_order_relaxed);
    while (seen < now && !peak.compare_exchange_weak(seen, now, std::memory_order_relaxed)) {
    }
}

void Ledger::charge(Tier tier, Purpose purpose, std::uint64_t bytes) {
    Count& total = totals_[index(tier)];
    const std::uint64_t limit = limits_[index(tier)].load(std::memory_order_relaxed);
    std::uint64_t before = total.current.load(std::memory_order_relaxed);
    const Reclaim reclaim = tier == Tier::kRam ? holder.load(std::memory_order_relaxed) : nullptr;
    const std::uint64_t most = std::min(limit, total.peak.load(std::memory_order_relaxed));
    if (reclaim != nullptr && (bytes > most || before > most - bytes)) {
        reclaim(bytes > most ? UINT64_MAX : before + bytes - most);
        before = total.current.load(std::memory_order_relaxed);
    }
    if (bytes > limit || before > limit - bytes) {
        throw Error(Exit::kOverBudget, "--max-memory",
                    std::string(name(tier)) + ": " + format_bytes(bytes) + " more for " +
                        std::string(name(purpose)) + " would pass the budget of " +
                        format_bytes(limit) + " (" + format_bytes(before) + " held)",
                    "raise " + std::string(name(tier)) + "= or run --dry-run to see the plan");
    }
    total.add(bytes);
    parts_[index(tier)][index(purpose)].add(bytes);
}

void Ledger::release(Tier tier, Purpose purpose, std::uint64_t bytes) noexcept {
    totals_[index(tier)].current.fetch_sub(bytes, std::memory_order_relaxed);
    parts_[index(tier)][index(purpose)].current.fetch_sub(bytes, std::memory_order_relaxed);
}

std::uint64_t Ledger::current_bytes(Tier t) const noexcept { return totals_[index(t)].current; }
std::uint64_t Ledger::peak_bytes(Tier t) const noexcept { return totals_[index(t)].peak; }
std::uint64_t Ledger::current_bytes(Tier t, Purpose p) const noexcept {
    return parts_[index(t)][index(p)].current;
}
std::uint64_t Ledger::peak_bytes(Tier t, Purpose p) const noexcept {
    return parts_[index(t)][index(p)].peak;
}

void Ledger::reset_peaks() noexcept {
    const auto reset = [](Count& c) { c.peak = c.current.load(); };
    for (std::size_t t = 0; t < kTiers; ++t) {
        reset(totals_[t]);
        for (Count& c : parts_[t]) reset(c);
    }
}

Charge::Charge(Tier tier, Purpose purpose, std::uint64_t bytes) : tier_(tier), purpose_(purpose) {
    resize(bytes);
}

Charge& Charge::operator=(Charge&& other) noexcept {
    if (this != &other) {
        resize(0);
        tier_ = other.tier_;
        purpose_ = other.purpose_;
        bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
}

void Charge::resize(std::uint64_t bytes) {
    if (bytes > bytes_) Ledger::process().charge(tier_, purpose_, bytes - bytes_);
    if (bytes < bytes_) Ledger::process().release(tier_, purpose_, bytes_ - bytes);
    bytes_ = bytes;
}

void* CountingResource::do_allocate(std::size_t bytes, std::size_t alignment) {
    Ledger::process().charge(Tier::kRam, purpose_, bytes);
    try {
        return std::pmr::new_delete_resource()->allocate(bytes, alignment);
    } catch (...) {
        Ledger::process().release(Tier::kRam, purpose_, bytes);
        throw;
    }
}

void CountingResource::do_deallocate(void* p, std::size_t bytes, std::size_t alignment) {
    std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
    Ledger::process().release(Tier::kRam, purpose_, bytes);
}

}  // namespace thimble
