// SPDX-License-Identifier: Apache-2.0
// Keeps every key at its own position: the policy that all others are compared with.
#include <memory>

#include "kv/policy.h"

namespace thimble {
namespace {

class FullPolicy final : public KvPolicy {
  public:
    [[nodiscard]] KvNeeds needs() const override { return {}; }
    [[nodiscard]] std::int64_t budget_tokens(const ModelInfo& model, int layer) const override {
        return model.layers[static_cast<std::size_t>(layer)].window;
    }
    [[nodiscard]] KvBand band(const ModelInfo&, int) const override { return {}; }
};

class FullPolicyType final : public KvPolicyType {
  public:
    [[nodiscard]] std::string_view name() const override { return "full"; }
    [[nodiscard]] std::string_view help() const override { return "keeps every key"; }
    void visit_options(OptionVisitor&) const override {}
    [[nodiscard]] std::unique_ptr<KvPolicy> make(std::string_view text,
                                                 std::string_view where) const override {
        parse_inline_options(
            text, [](OptionVisitor&) {}, where);
        return std::make_unique<FullPolicy>();
    }
};

}  // namespace

std::unique_ptr<KvPolicyType> make_full_policy();
std::unique_ptr<KvPolicyType> make_full_policy() { return std::make_unique<FullPolicyType>(); }

}  // namespace thimble
