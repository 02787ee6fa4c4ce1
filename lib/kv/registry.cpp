// SPDX-License-Identifier: Apache-2.0
#include <memory>
#include <utility>

#include "kv/policy.h"

namespace thimble {

#define THIMBLE_KV_POLICY(id) std::unique_ptr<KvPolicyType> make_##id##_policy();
#include "kv/policies.def"
#undef THIMBLE_KV_POLICY

const Registry<KvPolicyType>& kv_policies() {
    static const Registry<KvPolicyType> registry = [] {
        std::vector<std::unique_ptr<KvPolicyType>> items;
#define THIMBLE_KV_POLICY(id) items.push_back(make_##id##_policy());
#include "kv/policies.def"
#undef THIMBLE_KV_POLICY
        return Registry<KvPolicyType>("KV policy", std::move(items));
    }();
    return registry;
}

}  // namespace thimble
