// SPDX-License-Identifier: Apache-2.0
// Keeps every key at its own position: the policy that all others are compared with.
#include "kv/policy.h"

namespace thimble {
namespace {

class FullPolicy final : public KvPolicy {
  public:
    static constexpr std::string_view kName = "full";
    static constexpr std::string_view kHelp = "keeps every key";
    struct Options {
        void visit(OptionVisitor&) {}
    };
    FullPolicy(const Options&, std::string_view) {}

    [[nodiscard]] KvNeeds needs() const override { return {}; }
    [[nodiscard]] unsigned duties() const override { return 0; }
};

}  // namespace

std::unique_ptr<KvPolicyType> make_full_policy();
std::unique_ptr<KvPolicyType> make_full_policy() {
    return std::make_unique<LeafOf<KvPolicy, FullPolicy>>();
}

}  // namespace thimble
