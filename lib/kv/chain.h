// SPDX-License-Identifier: Apache-2.0
// A chain of policies: one that scores and has the budget, others that split it over layers or
// heads, merge what is dropped, narrow keys, or choose what is read.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "kv/policy.h"

namespace thimble {

class KvChain {
  public:
    // "snapkv:budget=25%+adakv". Error(kUsage) for links that do not go together.
    [[nodiscard]] static KvChain parse(std::string_view spec, std::string_view where);

    [[nodiscard]] static std::unique_ptr<KvPolicy> parse_link(std::string_view link,
                                                              std::string_view where) {
        return make_leaf<KvPolicy>(kv_policies(), link, where);
    }

    // Throws Error where a link was made for another model.
    void check(const ModelInfo& model, std::string_view where) const;
    [[nodiscard]] const KvNeeds& needs() const noexcept { return needs_; }
    [[nodiscard]] KvBand band(const ModelInfo& model, int layer) const;
    // Null where no link has this duty.
    [[nodiscard]] std::vector<KvPolicy::Measured> measured() const;  // of links that say so
    [[nodiscard]] const KvPolicy* of(KvPolicy::Duty duty) const noexcept;
    // Layers with a window of their own keep it: no policy touches them.
    [[nodiscard]] static bool governs(const AttentionLayer& layer) noexcept {
        return layer.window == 0;
    }
    [[nodiscard]] bool edits() const noexcept { return needs_.edits_prompt || needs_.edits_decode; }

    // Tokens that a head of each layer keeps on average after `seen` tokens; 0: everything.
    // token_bytes: K and V of one token in all governed layers. `other`: in place of the budget
    // that the chain has.
    [[nodiscard]] std::vector<std::int64_t> layer_tokens(const ModelInfo& model, std::int64_t seen,
                                                         std::uint64_t token_bytes,
                                                         const KvBudget* other = nullptr) const;
    [[nodiscard]] KvScores score(const KvLayerView& view) const;
    // What becomes of a layer whose heads keep `tokens` slots on average (0: all of them); no heads
    // where it stays as it is.
    [[nodiscard]] KvEdit edit(const KvLayerView& view, const KvScores& scores,
                              std::int64_t tokens) const;
    // Most keys of a layer that a query reads after `seen` tokens; 0: all.
    [[nodiscard]] std::int64_t read_tokens(const ModelInfo& model, int layer, std::int64_t seen,
                                           std::uint64_t token_bytes) const;

  private:
    std::vector<std::unique_ptr<KvPolicy>> links_;
    KvNeeds needs_;
};

// The slots that are kept: protected ones, then the largest scores; equal ones by position, later
// first, and what is NaN last. Ascending. `seen`: tokens of the sequence.
[[nodiscard]] std::vector<std::int32_t> keep_best(std::span<const std::int32_t> positions,
                                                  std::span<const float> scores,
                                                  KvPolicy::Protected protect, std::int64_t seen,
                                                  std::int64_t tokens);

}  // namespace thimble
