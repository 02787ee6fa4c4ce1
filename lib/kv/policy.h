// SPDX-License-Identifier: Apache-2.0
// KV-cache policies say which keys a query may read and which positions it sees them at; the engine
// owns memory, positions and RoPE. One leaf file in policies/ plus one line in policies.def makes a
// new one. Policies that score keys add statistics and edit plans to this interface; what they
// share with the ones here (needs, budgets, per-row rules) is already in its final place.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/options.h"
#include "core/registry.h"

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

struct KvNeeds {
    PositionMode positions = PositionMode::kOriginal;
    bool can_rollback = true;
};

// Which keys a query reads once sinks + window tokens precede or equal it: the first `sinks` and
// the last `window`, its own included. Before that, and always with window 0, it reads everything.
// A rule for each query row by itself, so the prefill chunk cannot change a result; the engine
// reuses the slots that no later query can read.
struct KvBand {
    std::int64_t sinks = 0, window = 0;
    [[nodiscard]] bool bounded() const noexcept { return window > 0; }
};

class KvPolicy {
  public:
    virtual ~KvPolicy() = default;
    [[nodiscard]] virtual KvNeeds needs() const = 0;
    // Most keys of this layer that a query reads; 0: unlimited.
    [[nodiscard]] virtual std::int64_t budget_tokens(const ModelInfo& model, int layer) const = 0;
    [[nodiscard]] virtual KvBand band(const ModelInfo& model, int layer) const = 0;
};

// A registered policy: makes instances from its options.
class KvPolicyType {
  public:
    virtual ~KvPolicyType() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::string_view help() const = 0;
    // Visits an instance with the defaults: for --help and schemas.
    virtual void visit_options(OptionVisitor& v) const = 0;
    // `text` is "key=value,..." (may be empty).
    [[nodiscard]] virtual std::unique_ptr<KvPolicy> make(std::string_view text,
                                                         std::string_view where) const = 0;
};
[[nodiscard]] const Registry<KvPolicyType>& kv_policies();
// "streaming:sink=4,budget=1024"
[[nodiscard]] std::unique_ptr<KvPolicy> make_kv_policy(std::string_view spec,
                                                       std::string_view where);

}  // namespace thimble
