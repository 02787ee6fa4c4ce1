// SPDX-License-Identifier: Apache-2.0
// KV-cache policies declare what they need, choose what is read, and return edit plans; the engine
// owns memory, positions and RoPE. One leaf file in policies/ plus one line in policies.def makes a
// new one.
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
    kCompact,   // positions are slot indices; keys are stored unrotated and rotated when read
};

struct KvNeeds {
    PositionMode positions = PositionMode::kOriginal;
    bool can_rollback = true;
};

// Slots to drop from one layer's list, ascending; applied by the engine after the step.
struct KvEdit {
    int layer = 0;
    std::vector<std::int64_t> drop;
};
using KvEditPlan = std::vector<KvEdit>;

// State of one sequence in one layer, as a policy sees it.
struct LayerKv {
    int layer = 0;
    std::int64_t slots = 0;                   // slots in use
    const std::int64_t* positions = nullptr;  // [slots], original positions, ascending
};

class KvPolicy {  // one instance per sequence
  public:
    virtual ~KvPolicy() = default;
    [[nodiscard]] virtual KvNeeds needs(const ModelInfo& model) const = 0;
    // Most slots any layer may hold after a step; 0: unlimited. The engine sizes memory from it:
    // capacity = budget + tokens of one step.
    [[nodiscard]] virtual std::int64_t budget_tokens(const ModelInfo& model, int layer) const = 0;
    // End of a prefill chunk or decode step.
    [[nodiscard]] virtual KvEditPlan after_step(const std::vector<LayerKv>& layers) = 0;
    [[nodiscard]] virtual std::unique_ptr<KvPolicy> fork() const = 0;
};

// A registered policy: makes instances from its options.
class KvPolicyType {
  public:
    virtual ~KvPolicyType() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;
    [[nodiscard]] virtual std::string_view help() const = 0;
    virtual void visit_options(
        OptionVisitor& v) = 0;  // on a default instance, for --help and schemas
    // `text` is "key=value,..." (may be empty).
    [[nodiscard]] virtual std::unique_ptr<KvPolicy> make(std::string_view text,
                                                         std::string_view where) const = 0;
};
[[nodiscard]] const Registry<KvPolicyType>& kv_policies();
// "streaming:sink=4,budget=1024"
[[nodiscard]] std::unique_ptr<KvPolicy> make_kv_policy(std::string_view spec,
                                                       std::string_view where);

}  // namespace thimble
