// SPDX-License-Identifier: Apache-2.0
// What attention blocks meet: they hand over unrotated q, k, v and get attention's output back, and
// never see a slot or a position. The KvEngine remembers keys and values from step to step;
// PackedSequences, in training, knows only the step at hand.
#pragma once

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

class SequenceState {
  public:
    virtual ~SequenceState() = default;
    // Rotates q and k, and attends: q [T, heads*dim] and k [T, kv_heads*dim] (both overwritten), v
    // [T, kv_heads*dim], out [T, heads*dim].
    virtual void attend(const Exec& exec, int layer, View q, View k, View v, View out) = 0;
};

}  // namespace thimble
