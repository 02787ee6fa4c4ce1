// SPDX-License-Identifier: Apache-2.0
// The KvEngine's inside.
#pragma once

#include <optional>

#include "kv/engine.h"
#include "kv/layer_state.h"
#include "kv/recurrent_state.h"

namespace thimble {

// What follows from a model and options before there is a sequence.
struct KvShape {
    KvShape(StateLayers layers, const KvOptions& options, const KvPlacement& placement);

    std::vector<AttentionSpec> specs;
    std::vector<RecurrentLayer> recurrent;
    KvPlacement placement;
    ModelInfo model;
    KvChain chain;
    std::vector<LayerPlan> plans;
    std::int64_t capacity = 0;
    std::uint64_t token_bytes = 0;  // K and V of one token in the governed layers

    [[nodiscard]] DType state_dtype() const {
        return placement.device == Device::kRef ? DType::kF64 : DType::kF32;
    }
    [[nodiscard]] bool governs(std::size_t layer) const {
        return KvChain::governs(specs[layer].shape);
    }
    // Rows after the prompt go one by one where each may change what the next one reads.
    [[nodiscard]] bool row_by_row(std::size_t layer) const {
        return governs(layer) &&
               (chain.needs().edits_decode || chain.of(KvPolicy::kBlocks) != nullptr);
    }
};

struct KvEngine::State {
    struct Sequence {
        std::vector<std::unique_ptr<LayerState>> layers;
        RecurrentState recurrent;
        std::vector<bool> edited;  // in this prompt, by layer
        std::int64_t tokens = 0;
        std::int64_t written = 0;  // most tokens since it was empty: rings have lost what is older
        bool in_prompt = true;
        std::optional<KvBudget> budget;  // in place of the policy's
        // Places that the model repeats now, and the prompt's tokens; end 0: it does not.
        std::int64_t repeat_first = 0, repeat_end = 0, repeat_prompt = 0;

        [[nodiscard]] std::int64_t floor() const;
        void check() const;  // throws where a failed step took keys away
        void cut(std::int64_t count);
    };

    State(StateLayers layers, const KvOptions& options, const KvPlacement& placement)
        : shape(std::move(layers), options, placement) {}

    KvShape shape;
    CountingResource memory{Purpose::kKv};
    Watcher watcher;
    std::vector<std::unique_ptr<Sequence>> sequences;  // by SeqId; null: closed
    Sequence* current = nullptr;                       // of the step in progress
    std::int64_t step_first = 0, step_tokens = 0;
    std::vector<std::vector<Sequence*>> views;  // of a shared step; else empty
    bool step_counts = true;                    // its tokens are the sequence's when it ends

    [[nodiscard]] Sequence& at(SeqId seq) const;
    [[nodiscard]] std::vector<std::int64_t> layer_tokens(const Sequence& sequence,
                                                         std::int64_t seen) const {
        return shape.chain.layer_tokens(shape.model, seen, shape.token_bytes,
                                        sequence.budget ? &*sequence.budget : nullptr);
    }
    void check_shared() const;                   // throws where sequences cannot see one another
    void check_room(std::int64_t tokens) const;  // throws where they do not fit the context
    [[nodiscard]] SeqId add(std::unique_ptr<Sequence> sequence);

    void attend_piece(const Exec& exec, std::size_t layer, std::int64_t first, View q, View k,
                      View v, View out);
    void attend_shared(const Exec& exec, std::size_t layer, View q, View k, View v, View out);
    void attend_view(const Exec& exec, std::size_t layer, const std::vector<Sequence*>& view,
                     View q, View out) const;
    void attend_all(const Exec& exec, std::size_t layer, std::span<const std::int64_t> positions,
                    View q, View out);
    void attend_band(const Exec& exec, std::size_t layer, std::int64_t first, View q, View raw_q,
                     View out) const;
    // The slots that one row reads in a layer whose policy chooses blocks.
    [[nodiscard]] LayerStore::Segments choose_blocks(const Exec& exec, std::size_t layer,
                                                     std::int64_t seen, View q) const;

    void show_rows(const Exec& exec, std::size_t layer, const ops::Attention& problem) const;
    void edit_layer(const Exec& exec, Sequence& sequence, std::size_t layer, std::int64_t seen,
                    std::int64_t tokens);
    void edit_together(const Exec& exec, Sequence& sequence);
    void apply(const Exec& exec, Sequence& sequence, std::size_t layer, std::int64_t seen,
               const KvEdit& edit);
};

}  // namespace thimble
