// SPDX-License-Identifier: Apache-2.0
// Keys and values of one layer of one sequence. A linear store keeps every position in the slot of
// the same number. A ring keeps the positions that a band can still read: position p lies in slot
// p mod ring; the ring is a whole number of attention tiles, so a tile never wraps and holds the
// same positions as in a linear store. In front of a ring lie copies of the sinks. An edit makes
// the store sparse: each head has its own slots, with the positions that they hold.
//
// Slots lie in one or more parts. Only the last is written to; those before it are whole tiles that
// forks share, or keys with fewer channels. An edit copies what is shared before it changes it.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <vector>

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
    [[nodiscard]] std::size_t row_bytes(std::int64_t elements) const;
};

// Everything about a layer's store that is fixed before the first token.
struct LayerPlan {
    int kv_heads = 0, head_dim = 0;
    KvEncoding k, v;
    KvBand band;  // the layer's own window or the policy's
    PageSize page = PageSize::kBase;
    std::int64_t slots = 0;
    // Of all slots, sinks included, the first so many lie on the CUDA device that attends; that
    // memory is there from the start.
    std::int64_t device_slots = 0;

    // A bounded band makes a ring, else the store is linear.
    // The first `device_tokens` lie on the device, rounded down to tiles; a ring wholly or not.
    [[nodiscard]] static LayerPlan make(const AttentionLayer& shape, KvBand band, KvEncoding k,
                                        KvEncoding v, std::int64_t context_tokens,
                                        std::int64_t device_tokens = 0,
                                        PageSize page = PageSize::kBase);
    [[nodiscard]] bool ring() const noexcept { return band.bounded(); }
    // Slots that hold memory after `tokens` tokens, sinks included.
    [[nodiscard]] std::int64_t used_slots(std::int64_t tokens) const noexcept;
    [[nodiscard]] std::int64_t all_slots() const noexcept { return used_slots(slots); }
    [[nodiscard]] std::uint64_t bytes(std::int64_t tokens) const;  // of host memory
    // The same of a sparse store with so many slots a head.
    [[nodiscard]] std::uint64_t sparse_bytes(std::int64_t slots, bool bias) const;
    [[nodiscard]] std::uint64_t device_bytes() const;
};

// For each head: slot i holds what was in slot order[i] before an edit.
using SlotOrder = std::vector<std::vector<std::int32_t>>;

class LayerStore {
  public:
    // `memory` counts what belongs to slots besides keys and values.
    LayerStore(const LayerPlan& plan, std::pmr::memory_resource& memory);

    // Makes room for what write() is about to append after `tokens` tokens.
    void reserve(std::int64_t tokens, std::int64_t count);
    // Forgets positions >= tokens and gives their memory back; with 0 the store is as new.
    void cut(std::int64_t tokens);
    // k, v [count, kv_heads * head_dim] at positions first ...; in a ring they lie in one tile.
    void write(const Exec& exec, std::int64_t first, View k, View v);

    using Segments = std::vector<ops::AttnSegment>;
    // Positions [first, end), end exclusive, ascending; in a sparse store all slots, head by head.
    // Begins at the tile of `first`, so a few earlier positions may come along: masks are the
    // reader's business.
    [[nodiscard]] Segments segments(std::int64_t first, std::int64_t end) const;
    [[nodiscard]] Segments sinks() const;
    // Slots [first, first + count) of one head.
    void add_slots(Segments& out, int kv_head, std::int64_t first, std::int64_t count) const;

    [[nodiscard]] bool sparse() const noexcept { return sparse_; }
    [[nodiscard]] std::int64_t slots(int kv_head) const;
    [[nodiscard]] std::pmr::vector<std::int32_t> positions(int kv_head) const;
    // Rows of one head as floats: out [count, head_dim] F32; channels that keys lost are zero.
    void read(const Exec& exec, bool keys, int kv_head, std::int64_t first, View out) const;
    // Key and value [1, head_dim] F32 of one position, in a store that is not sparse.
    void read_position(const Exec& exec, int kv_head, std::int64_t position, View key,
                       View value) const;

    // Carries an edit out; `fill_holes`: few slots go, and the last ones take their places, else
    // the order stays.
    SlotOrder apply(const Exec& exec, const KvEdit& edit, bool fill_holes);
    // Becomes what `other` is: whole tiles are shared from now on.
    void share(LayerStore& other);

    // Lowest count of tokens that a sequence may be cut back to (besides 0) when `written` tokens
    // have been written since it was empty.
    [[nodiscard]] std::int64_t rollback_floor(std::int64_t written) const noexcept;

    // One part's memory, which several stores may hold.
    struct Part {
        LaneMemory k, v;
        Buffer device_k, device_v;
        std::int64_t first_position = 0;  // of slot 0 while positions are implicit
        std::vector<std::int64_t> slots;  // of each head
        // Of a sparse store, each head: positions; logit biases, empty if there are none.
        std::vector<std::pmr::vector<std::int32_t>> positions;
        std::vector<std::pmr::vector<float>> bias;
        std::vector<std::vector<std::int16_t>> channels;     // of each head; empty: all
        [[nodiscard]] std::uint64_t bytes() const noexcept;  // host memory that the ledger counts
    };
    [[nodiscard]] const std::vector<std::shared_ptr<Part>>& parts() const noexcept {
        return parts_;
    }
    // For files: replaces everything by these parts.
    void set_parts(std::vector<std::shared_ptr<Part>> parts, bool sparse);
    [[nodiscard]] std::shared_ptr<Part> new_part(std::int64_t capacity,
                                                 std::int64_t k_elements) const;
    [[nodiscard]] const LayerPlan& plan() const noexcept { return plan_; }
    [[nodiscard]] std::size_t k_row_bytes(const Part& part) const;

  private:
    [[nodiscard]] Part& own() const { return *parts_.back(); }
    void make_sparse();
    [[nodiscard]] std::shared_ptr<Part> copy(const Part& part) const;
    [[nodiscard]] std::shared_ptr<Part> copy_tail(const Part& part) const;
    void append(Part& to, const Part& from) const;
    void merge(const Exec& exec, int kv_head, const KvMerge& merge);
    void narrow(const Exec& exec, const KvEdit& edit);
    void encode_row(const Exec& exec, bool keys, int kv_head, std::int64_t slot, const float* row);
    void encode(const Exec& exec, bool keys, View x, std::int64_t slot) const;
    void encode_on_host(const Exec& exec, const KvEncoding& how, View x, std::byte* out,
                        std::size_t head_bytes) const;
    void write_sparse(const Exec& exec, std::int64_t first, View k, View v);
    void read_row(const Exec& exec, const Part& part, bool keys, int kv_head, std::int64_t slot,
                  float* out) const;
    void add_segment(Segments& out, const Part& part, std::int64_t slot, std::int64_t position,
                     std::int64_t count) const;
    [[nodiscard]] ops::AttnRows rows(const KvEncoding& how, std::size_t row_bytes,
                                     const LaneMemory& host, const Buffer& device,
                                     std::int64_t slot) const;

    LayerPlan plan_;
    std::pmr::memory_resource* memory_;
    std::vector<std::shared_ptr<Part>> parts_;
    bool sparse_ = false;
};

}  // namespace thimble
