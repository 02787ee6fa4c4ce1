// SPDX-License-Identifier: Apache-2.0
// A recipe in words and pictures: its graph, and why one step would run.
#pragma once

#include <string>
#include <string_view>

#include "recipe/runner.h"

namespace thimble::recipe {

// "text": a tree from the last steps down to what they need, each step's needs once;
// "dot": Graphviz; "mermaid".
[[nodiscard]] std::string graph_text(const Recipe& recipe, std::string_view format);

// Whether a step would run and why, its command, inputs, outputs and gates, and where its result is
// kept. {id, runs, reason, changes: [{group, name, before, now}], command, inputs: [{option, path,
// bytes, sha256}], outputs: [{path, sha256, made}], gates, key, record}
[[nodiscard]] Json explain(Runner& runner, std::size_t step, const Verdict& verdict);
[[nodiscard]] std::string explanation_text(const Json& explanation);

}  // namespace thimble::recipe
