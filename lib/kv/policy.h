// SPDX-License-Identifier: Apache-2.0
// KV-cache policies say which keys and values are kept and which a query reads; the engine owns
// memory, positions and RoPE, gathers statistics and carries edits out. Policies have options but
// no state: what they remember of a sequence is numbers per slot that the engine keeps, moves with
// the slots, forks and saves. One leaf file in policies/ plus one line in policies.def makes a new
// one; several form a chain, "snapkv:budget=25%+adakv+think", each link doing what it can.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <memory_resource>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/leaf.h"
#include "ops/ops.h"

namespace thimble {

// What policies and the engine know of a model.
struct AttentionLayer {
    int kv_heads = 0, heads = 0, head_dim = 0;
    std::int64_t window = 0;  // sliding window, 0: none
};
struct ModelInfo {
    std::vector<AttentionLayer> layers;
    std::int64_t context_tokens = 0;  // trained length
};

enum class PositionMode : std::uint8_t {
    kOriginal,  // a key keeps the position it was written at
    kCompact,   // a key's position is its place among the keys that are kept
};

// How much is kept: "512" tokens of each K/V head and layer, "25%" of the tokens seen, or "64MiB"
// of keys and values of all layers that the policy governs.
class KvBudget {
  public:
    [[nodiscard]] static KvBudget parse(std::string_view text, std::string_view where);
    // Mean tokens of a head and layer, at least 1; token_bytes: K and V of one token in all heads
    // and governed layers.
    [[nodiscard]] std::int64_t tokens(std::int64_t seen, std::uint64_t token_bytes) const;

  private:
    enum class Unit : std::uint8_t { kTokens, kShare, kBytes };
    Unit unit_ = Unit::kTokens;
    double value_ = 0;
};

// What a policy asks of the engine.
struct KvNeeds {
    PositionMode positions = PositionMode::kOriginal;
    bool edits_prompt = false;       // drops, merges or narrows slots when a prompt ends
    bool edits_decode = false;       // and after each token that follows
    bool waits_for_layers = false;   // edits only when all layers have seen the prompt
    bool prompt_sums = false;        // accumulate() sees every row of a prompt
    bool decode_sums = false;        // and every later row
    bool moments = false;            // of queries before rotation
    std::int64_t repeat_tokens = 0;  // has the model repeat its prompt, so many tokens at a time,
                                     // and sees these rows in accumulate()
    std::int64_t window_rows = 0;    // last queries of a prompt that an edit may ask for
    std::int64_t block_tokens = 0;   // reads blocks of so many slots
    std::int64_t block_vectors = 0;  // vectors of head_dim floats that describe a block
    // What an edit holds at most, besides scores and the window's logits: rows of [slots] floats,
    // and arrays of [slots, head_dim].
    std::int64_t edit_rows = 3, edit_vectors = 0;
    bool one_set = false;  // all heads of a layer keep the same slots
};

// Which keys a query reads once sinks + window tokens precede or equal it: the first `sinks` and
// the last `window`, its own included. Before that, and always with window 0, it reads everything.
// A rule for each query row by itself, so the prefill chunk cannot change a result; the engine
// reuses the slots that no later query can read.
struct KvBand {
    std::int64_t sinks = 0, window = 0;
    [[nodiscard]] bool bounded() const noexcept { return window > 0; }
};

// Rows of logits of one K/V head as they arise.
struct KvRows {
    int layer = 0, kv_head = 0;
    std::int64_t group = 0;                   // query heads of the K/V head
    std::span<const std::int64_t> positions;  // of the queries, [T]
    std::span<const std::int32_t> keys;       // positions of the slots, [n]
    View logits;  // [T * group, n] F32, row token * group + head; may be overwritten
    bool prompt = false;
    std::int64_t prompt_tokens = 0;  // after it: tokens of the sequence when its prompt ended
    // While a prompt is repeated: the places [first, end) that the model is to repeat now, and the
    // tokens of the prompt; else end is 0.
    std::int64_t repeat_first = 0, repeat_end = 0, repeat_prompt = 0;
};

// Mean and covariance of a query head before rotation.
struct KvMoments {
    std::int64_t count = 0;
    std::span<const double> mean, covariance;  // [dim], [dim, dim]
};

// What an edit sees of one layer of one sequence.
class KvLayerView {
  public:
    virtual ~KvLayerView() = default;
    [[nodiscard]] virtual const Exec& exec() const = 0;
    [[nodiscard]] virtual const ModelInfo& model() const = 0;
    [[nodiscard]] virtual const AttentionLayer& shape() const = 0;
    [[nodiscard]] virtual const ops::Rope& rope() const = 0;
    [[nodiscard]] virtual double scale() const = 0;
    [[nodiscard]] virtual int layer() const = 0;
    [[nodiscard]] virtual std::int64_t seen() const = 0;  // tokens of the sequence so far
    [[nodiscard]] virtual bool prompt() const = 0;        // at its end, else after a later token

    // Slots of a head, in no particular order after edits of single tokens.
    [[nodiscard]] virtual std::span<const std::int32_t> positions(int kv_head) const = 0;
    [[nodiscard]] virtual std::span<float> sums(int kv_head) const = 0;
    // Logits of the last `rows` queries of the prompt (or as many as there are) with every slot,
    // [rows * group, slots] F32, oldest first; `memory` holds them.
    [[nodiscard]] virtual View window_logits(int kv_head, std::int64_t rows,
                                             std::pmr::vector<float>& memory) const = 0;
    // The rotated queries themselves, [rows, heads * head_dim] F32.
    [[nodiscard]] virtual View window_queries(std::int64_t rows,
                                              std::pmr::vector<float>& memory) const = 0;
    // As stored, rotated: [slots, head_dim] F32.
    [[nodiscard]] virtual View keys(int kv_head, std::pmr::vector<float>& memory) const = 0;
    [[nodiscard]] virtual View values(int kv_head, std::pmr::vector<float>& memory) const = 0;
    [[nodiscard]] virtual KvMoments moments(int head) const = 0;
    // Where an edit's own arrays lie, so that they are counted.
    [[nodiscard]] virtual std::pmr::memory_resource& memory() const = 0;
};

// A number for every slot of every head: what is largest is kept.
struct KvScores {
    std::vector<std::pmr::vector<float>> heads;
};

// Several slots become one: key and value are the weighted sums, which take the place of slot
// `into`, one of them, with its position.
struct KvMerge {
    std::int32_t into = 0;
    std::vector<std::int32_t> slots;
    std::vector<float> key_weights, value_weights;  // of each
    float bias = 0;  // added to its logits from now on, on top of what its members had on average
};
struct KvHeadEdit {
    std::vector<std::int32_t> keep;  // slots, ascending
    std::vector<KvMerge> merges;     // done first; each `into` is among the kept
};
struct KvEdit {
    std::vector<KvHeadEdit> heads;
    // Of each head, ascending, equally many: the channels that keys keep which lie before position
    // `narrow_before`. Empty: all.
    std::vector<std::vector<std::int16_t>> channels;
    std::int64_t narrow_before = 0;
};

// A request for budgets of layers.
struct KvLayerBudgets {
    const ModelInfo& model;
    std::vector<int> layers;       // those that the policy governs
    std::int64_t tokens = 0;       // mean of a layer
    std::int64_t seen = 0;         // tokens of the prompt
    std::vector<std::int64_t> of;  // the answer, for each of `layers`
};

class KvPolicy {
  public:
    virtual ~KvPolicy() = default;
    [[nodiscard]] virtual KvNeeds needs() const = 0;
    // Throws Error where the policy was made for another model.
    virtual void check(const ModelInfo& /*model*/, std::string_view /*where*/) const {}
    // The file with what was measured of a model beforehand, and that model's fingerprint; "":
    // none.
    struct Measured {
        std::string file, model;
    };
    [[nodiscard]] virtual Measured measured() const { return {}; }
    [[nodiscard]] virtual KvBand band(const ModelInfo& /*model*/, int /*layer*/) const {
        return {};
    }

    // What a link of a chain can do; at most one link does each.
    enum Duty : unsigned {
        kFilter = 128,
        kBand = 1,
        kScore = 2,
        kLayers = 4,
        kHeads = 8,
        kMerge = 16,
        kChannels = 32,
        kBlocks = 64
    };
    [[nodiscard]] virtual unsigned duties() const = 0;

    // kScore. The budget, and slots that are kept whatever their score, inside it: positions below
    // `sinks` and the last `recent` ones.
    [[nodiscard]] virtual const KvBudget* budget() const { return nullptr; }
    struct Protected {
        std::int64_t sinks = 0, recent = 0;
    };
    [[nodiscard]] virtual Protected protects(std::int64_t /*tokens*/) const { return {}; }
    virtual void accumulate(const Exec& /*exec*/, const KvRows& /*rows*/,
                            std::span<float> /*sums*/) const {}
    virtual void score(const KvLayerView& /*view*/, KvScores& /*out*/) const {}

    // kLayers: splits the budget over layers.
    virtual void plan_layers(KvLayerBudgets& /*budgets*/) const {}
    // kHeads: which slots each head keeps when the layer keeps `tokens` a head on average; a link
    // that merges, too, may say so at once.
    virtual void choose(const KvLayerView& /*view*/, const KvScores& /*scores*/,
                        Protected /*protect*/, std::int64_t /*tokens*/, KvEdit& /*edit*/) const {}
    // kMerge: what becomes of slots that are not kept.
    virtual void merge(const KvLayerView& /*view*/, const KvScores& /*scores*/,
                       KvEdit& /*edit*/) const {}
    // kChannels: sets edit.channels from the slots that are kept: so many of a head, of all keys
    // but those of the last whole_tokens().
    [[nodiscard]] virtual std::int64_t key_channels(std::int64_t head_dim) const {
        return head_dim;
    }
    [[nodiscard]] virtual std::int64_t whole_tokens() const { return 0; }
    virtual void narrow(const KvLayerView& /*view*/, KvEdit& /*edit*/) const {}

    // kFilter: before anything else a pass over the prompt up to and including `filter_layer` rates
    // its tokens; the model then reads the best `filter_budget` of them as if they were the prompt.
    [[nodiscard]] virtual int filter_layer(const ModelInfo& /*model*/) const { return 0; }
    [[nodiscard]] virtual const KvBudget* filter_budget() const { return nullptr; }
    virtual void rate_prompt(const KvLayerView& /*view*/, std::span<float> /*out*/) const {}

    // kBlocks: describes keys [count, dim] of one block in block_vectors * dim numbers; and rates
    // blocks (described one after the other) for the queries [group, dim] of one token.
    virtual void describe(View /*keys*/, float* /*out*/) const {}
    virtual void rate(View /*queries*/, std::span<const float> /*blocks*/,
                      std::span<float> /*out*/) const {}
    struct Reading {
        std::int64_t tokens = 0;  // read at most; rounded down to blocks
        std::int64_t sinks = 0, recent = 0;
        bool all = false;  // this layer reads everything
    };
    [[nodiscard]] virtual Reading reading(const ModelInfo& /*model*/, int /*layer*/,
                                          std::int64_t /*seen*/,
                                          std::uint64_t /*token_bytes*/) const {
        return {};
    }
};

using KvPolicyType = LeafType<KvPolicy>;
[[nodiscard]] const Registry<KvPolicyType>& kv_policies();

}  // namespace thimble
