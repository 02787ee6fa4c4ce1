// SPDX-License-Identifier: Apache-2.0
// What a layer of the KV harness holds and does, in double and from the whole attention matrix:
// what policies' scores and kept sets are compared with. Soft-capped as the layer is.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/support/kv_harness.h"

namespace thimble::test {

using Row = std::vector<double>;

class FullAttention {
  public:
    FullAttention(AttentionSpec spec, std::uint64_t seed, std::size_t layer, std::int64_t tokens);

    [[nodiscard]] std::int64_t tokens() const { return tokens_; }
    [[nodiscard]] int group() const { return spec_.shape.heads / spec_.shape.kv_heads; }
    [[nodiscard]] Row raw_query(int head, std::int64_t position) const;
    [[nodiscard]] const Row& query(int head, std::int64_t position) const {  // rotated
        return queries_[index(position) * index(spec_.shape.heads) + index(head)];
    }
    [[nodiscard]] const Row& key(int kv_head, std::int64_t position) const {  // rotated
        return keys_[index(position) * index(spec_.shape.kv_heads) + index(kv_head)];
    }
    [[nodiscard]] const Row& value(int kv_head, std::int64_t position) const {
        return values_[index(position) * index(spec_.shape.kv_heads) + index(kv_head)];
    }
    // Of a query head: its logit and its probabilities for keys 0 ... row.
    [[nodiscard]] double logit(int head, std::int64_t row, std::int64_t key) const;
    [[nodiscard]] Row probabilities(int head, std::int64_t row) const;

  private:
    template <class T>
    static std::size_t index(T i) {
        return static_cast<std::size_t>(i);
    }
    AttentionSpec spec_;
    std::uint64_t seed_;
    std::size_t layer_;
    std::int64_t tokens_;
    std::vector<Row> queries_, keys_, values_;
};

[[nodiscard]] double dot(const Row& a, const Row& b);
[[nodiscard]] Row softmax(Row logits);

// The positions that a budget keeps: the last `recent`, the first `sinks`, then the largest scores.
// `margin` becomes the least distance of a kept score from one that goes, over the largest score:
// where it is below what single precision can tell, a test says nothing.
[[nodiscard]] std::vector<std::int32_t> best_positions(const Row& scores, std::int64_t sinks,
                                                       std::int64_t recent, std::int64_t tokens,
                                                       double& margin);
// What the engine keeps of a head, ascending.
[[nodiscard]] std::vector<std::int32_t> kept_positions(KvHarness& harness, SeqId seq, int layer,
                                                       int kv_head);

}  // namespace thimble::test
