// SPDX-License-Identifier: Apache-2.0
// Keys and values of one layer of one sequence. A linear store keeps every position in the slot of
// the same number. A ring keeps the positions that a band can still read: position p lies in slot
// p mod ring; the ring is a whole number of attention tiles, so a tile never wraps and holds the
// same positions as in a linear store. In front of a ring lie copies of the sinks.
#pragma once

#include <array>
#include <cstdint>

#include "kv/lane_memory.h"
#include "kv/policy.h"
#include "ops/ops.h"

namespace thimble {

// How one of K or V is stored.
struct KvEncoding {
    bool f64 = false;  // the reference device
    LayoutId layout = LayoutId::k_f16;

    // "-ctk q8_0": throws Error(kUsage) for unknown names and for blocks that do not fit head_dim.
    [[nodiscard]] static KvEncoding parse(const std::string& name, const char* flag, int head_dim,
                                          Device device);
    [[nodiscard]] std::size_t row_bytes(int head_dim) const;
};

// Everything about a layer's store that is fixed before the first token.
struct LayerPlan {
    int kv_heads = 0, head_dim = 0;
    KvEncoding k, v;
    KvBand band;  // the layer's own window or the policy's
    std::int64_t slots = 0;
    // Of all slots, sinks included, the first so many lie on the CUDA device that attends; that
    // memory is there from the start.
    std::int64_t device_slots = 0;

    // A bounded band makes a ring, else the store is linear.
    // The first `device_tokens` lie on the device, rounded down to tiles; a ring wholly or not.
    [[nodiscard]] static LayerPlan make(const AttentionLayer& shape, KvBand band, KvEncoding k,
                                        KvEncoding v, std::int64_t context_tokens,
                                        std::int64_t device_tokens = 0);
    [[nodiscard]] bool ring() const noexcept { return band.bounded(); }
    // Slots that hold memory after `tokens` tokens, sinks included.
    [[nodiscard]] std::int64_t used_slots(std::int64_t tokens) const noexcept;
    [[nodiscard]] std::int64_t all_slots() const noexcept { return used_slots(slots); }
    [[nodiscard]] std::uint64_t bytes(std::int64_t tokens) const;  // of host memory
    [[nodiscard]] std::uint64_t device_bytes() const;
};

class LayerStore {
  public:
    explicit LayerStore(const LayerPlan& plan);

    // Commits memory for `tokens` tokens and gives back what lies beyond.
    void resize(std::int64_t tokens);
    // k, v [count, kv_heads * head_dim] at positions first ...; in a ring they lie in one tile.
    void write(const Exec& exec, std::int64_t first, View k, View v);
    // Positions [first, end), end exclusive, ascending; at most three segments. Begins at the tile
    // of `first`, so a few earlier positions may come along: masks are the reader's business.
    struct Segments {
        std::array<ops::AttnSegment, 3> part;
        std::size_t count = 0;
        [[nodiscard]] std::span<const ops::AttnSegment> span() const {
            return {part.data(), count};
        }
    };
    [[nodiscard]] Segments segments(std::int64_t first, std::int64_t end) const;
    [[nodiscard]] Segments sinks() const;

    // Lowest count of tokens that a sequence may be cut back to (besides 0) when `written` tokens
    // have been written since it was empty.
    [[nodiscard]] std::int64_t rollback_floor(std::int64_t written) const noexcept;
    [[nodiscard]] std::uint64_t bytes() const noexcept {
        return k_.host.committed_bytes() + v_.host.committed_bytes();
    }

  private:
    // Keys or values: those of the last slots in lanes, those of the first on the device.
    struct Memory {
        LaneMemory host;
        Buffer device;
    };
    void encode(const Exec& exec, const KvEncoding& how, View x, std::int64_t slot,
                Memory& memory) const;
    void encode_on_host(const Exec& exec, const KvEncoding& how, View x, std::int64_t slot,
                        LaneMemory& memory) const;
    // Slots [slot, slot + count) as one segment, or as two where some lie on the device.
    void add_segment(Segments& out, std::int64_t slot, std::int64_t position,
                     std::int64_t count) const;
    [[nodiscard]] ops::AttnRows rows(const KvEncoding& how, const Memory& memory,
                                     std::int64_t slot) const;

    LayerPlan plan_;
    Memory k_, v_;
};

}  // namespace thimble
