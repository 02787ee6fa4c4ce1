// SPDX-License-Identifier: Apache-2.0
// The adapters of tests/golden/adapters, which PEFT made (scripts/make_golden_adapter.py).
#pragma once

#include "tests/support/golden_model.h"

namespace thimble::test {

struct GoldenAdapter {
    std::string name;
    std::string directory;               // as PEFT saved it
    const GoldenModel* model = nullptr;  // that it is for
    // Of the model's second prompt, [tokens, vocab], with the adapter and without.
    std::vector<float> logits, plain;
};

[[nodiscard]] const std::vector<GoldenAdapter>& golden_adapters();
[[nodiscard]] const GoldenAdapter& golden_adapter(const std::string& name);

}  // namespace thimble::test
