// SPDX-License-Identifier: Apache-2.0
// One layer of one sequence: its keys and values, and what policies know of its slots.
#pragma once

#include "kv/chain.h"
#include "kv/layer_store.h"
#include "kv/sequence_state.h"

namespace thimble {

struct LayerState {
    LayerState(const LayerPlan& plan, std::pmr::memory_resource& memory);

    LayerStore store;
    std::vector<std::pmr::vector<float>> sums;  // of each head's slots
    LaneMemory blocks;                          // descriptions of each head's blocks
    std::int64_t block_tokens = 0, block_floats = 0;
    // Last queries of the prompt, rotated: a ring of rows of [heads * head_dim].
    std::pmr::vector<float> window;
    std::int64_t window_rows = 0, window_next = 0;  // rows that it holds; the row written next
    // Of queries before rotation: sum [heads, dim] and sum of products [heads, dim, dim].
    std::pmr::vector<double> query_sum, query_products;
    std::int64_t query_count = 0;
    std::int64_t prompt_tokens = 0;  // when the last prompt ended
    std::int64_t floor = 0;          // tokens seen when slots went last: no way back behind that

    [[nodiscard]] std::span<const float> blocks_of(int head) const noexcept;
    // Besides keys and values.
    [[nodiscard]] std::uint64_t list_bytes() const noexcept;
    void end_prompt();  // gives back what only the edit needed
    void cut(std::int64_t tokens);
    // Makes the memory of `blocks` what the slots need; what is known of blocks stays.
    void fit_blocks(const KvNeeds& needs);
    [[nodiscard]] std::unique_ptr<LayerState> fork();

  private:
    void fit_blocks();
};

// How attend() tells a LayerState what it sees.
class LayerStatistics {
  public:
    LayerStatistics(const KvChain& chain, const AttentionSpec& spec, int layer)
        : chain_(chain), spec_(spec), layer_(layer) {}
    // Before rotation and after; rows at consecutive positions from `first` on.
    void note_raw(const Exec& exec, LayerState& state, std::int64_t first, View q) const;
    void note_rotated(LayerState& state, View q) const;
    // When keys are written and attention is done: `problem` is what it read.
    struct Phase {
        bool prompt = false;
        std::int64_t repeat_first = 0, repeat_end = 0, repeat_prompt = 0;
    };
    void note_rows(const Exec& exec, LayerState& state, const ops::Attention& problem,
                   const Phase& phase) const;
    void describe_blocks(const Exec& exec, LayerState& state, std::int64_t first_slot) const;

    // Workspace that note_rows() takes over so many slots.
    [[nodiscard]] static std::size_t workspace_bytes(const KvNeeds& needs,
                                                     const AttentionLayer& shape,
                                                     std::int64_t slots);
    // What a state holds besides keys and values, with so many slots a head.
    [[nodiscard]] static std::uint64_t list_bytes(const KvNeeds& needs, const AttentionLayer& shape,
                                                  std::int64_t slots, bool in_prompt);

  private:
    const KvChain& chain_;
    const AttentionSpec& spec_;
    int layer_;
};

// What an edit sees.
class LayerView final : public KvLayerView {
  public:
    LayerView(const Exec& exec, const ModelInfo& model, const AttentionSpec& spec, int layer,
              LayerState& state, std::int64_t seen, bool prompt, std::pmr::memory_resource& memory);
    [[nodiscard]] const Exec& exec() const override { return exec_; }
    [[nodiscard]] const ModelInfo& model() const override { return model_; }
    [[nodiscard]] const AttentionLayer& shape() const override { return spec_.shape; }
    [[nodiscard]] const ops::Rope& rope() const override { return spec_.rope; }
    [[nodiscard]] double scale() const override { return spec_.scale; }
    [[nodiscard]] int layer() const override { return layer_; }
    [[nodiscard]] std::int64_t seen() const override { return seen_; }
    [[nodiscard]] bool prompt() const override { return prompt_; }
    [[nodiscard]] std::span<const std::int32_t> positions(int kv_head) const override {
        return positions_[static_cast<std::size_t>(kv_head)];
    }
    [[nodiscard]] std::span<float> sums(int kv_head) const override;
    [[nodiscard]] View window_logits(int kv_head, std::int64_t rows,
                                     std::pmr::vector<float>& memory) const override;
    [[nodiscard]] View window_queries(std::int64_t rows,
                                      std::pmr::vector<float>& memory) const override;
    [[nodiscard]] View keys(int kv_head, std::pmr::vector<float>& memory) const override;
    [[nodiscard]] View values(int kv_head, std::pmr::vector<float>& memory) const override;
    [[nodiscard]] KvMoments moments(int head) const override;
    [[nodiscard]] std::pmr::memory_resource& memory() const override { return memory_; }

  private:
    [[nodiscard]] View rows_of(bool keys, int kv_head, std::pmr::vector<float>& memory) const;

    const Exec& exec_;
    const ModelInfo& model_;
    const AttentionSpec& spec_;
    int layer_;
    LayerState& state_;
    std::int64_t seen_;
    bool prompt_;
    std::pmr::memory_resource& memory_;
    std::vector<std::pmr::vector<std::int32_t>> positions_;
    mutable std::vector<double> mean_, covariance_;  // of the head asked for last
};

}  // namespace thimble
