// SPDX-License-Identifier: Apache-2.0
// JRT-Prompt, "Just read twice: closing the recall gap for recurrent language models" (2024): a
// model whose layers keep a state of fixed size must choose what to keep before it has read the
// question; shown the whole prompt again, it knows. The text is repeated, then encoded once, in a
// chat within the user's turn. Layers of attention gain little and keep a cache twice as long, so
// for models of such layers only it is refused unless forced.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/options.h"
#include "model/spec.h"

namespace thimble {

struct PromptRepeat {
    std::int64_t times = 1;
    bool force = false;
    void visit(OptionVisitor& v);

    // The text so many times, a line end between.
    [[nodiscard]] std::string apply(std::string_view text) const;
    // Error(kUsage) for a model of attention only, unless forced; or forced without need.
    void check(const ModelSpec& model) const;
};

}  // namespace thimble
