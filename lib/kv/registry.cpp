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

std::unique_ptr<KvPolicy> make_kv_policy(std::string_view spec, std::string_view where) {
    const std::size_t colon = spec.find(':');
    const std::string_view options =
        colon == std::string_view::npos ? std::string_view{} : spec.substr(colon + 1);
    return kv_policies().get(spec.substr(0, colon), where).make(options, where);
}

}  // namespace thimble
