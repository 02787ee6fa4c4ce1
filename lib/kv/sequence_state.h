// SPDX-License-Identifier: Apache-2.0
// What blocks meet that look back: attention blocks hand over unrotated q, k, v and get attention's
// output back, recurrent ones hand over what keeps and what adds to a state and get the states;
// none ever sees a slot or a position. The KvEngine remembers keys, values and states from step to
// step; PackedSequences, in training, knows only the step at hand.
#pragma once

#include <utility>
#include <vector>

#include "kv/policy.h"
#include "ops/ops.h"

namespace thimble {

// How one attention layer rotates, masks and scales; part of the architecture's data.
struct AttentionSpec {
    AttentionLayer shape;
    ops::Rope rope;
    double scale = 0;  // applied to q.k
    double softcap = 0;
};

// A layer that remembers a state of fixed size instead of keys and values.
struct RecurrentLayer {
    std::int64_t channels = 0;
};

// What a model's layers remember: of each kind one per layer, or none.
struct StateLayers {
    std::vector<AttentionSpec> attention;
    std::vector<RecurrentLayer> recurrent;

    StateLayers(std::vector<AttentionSpec> a = {},  // NOLINT: most models have nothing else
                std::vector<RecurrentLayer> r = {})
        : attention(std::move(a)), recurrent(std::move(r)) {}
};

class SequenceState {
  public:
    virtual ~SequenceState() = default;
    // Rotates q and k, and attends: q [T, heads*dim] and k [T, kv_heads*dim] (both overwritten), v
    // [T, kv_heads*dim], out [T, heads*dim].
    virtual void attend(const Exec& exec, int layer, View q, View k, View v, View out) = 0;
    // ops::recurrence from where the sequence stands. keep, take, out: [T, channels].
    virtual void recur(const Exec& exec, int layer, View keep, View take, View out);
};

}  // namespace thimble
