// SPDX-License-Identifier: Apache-2.0
// What a result record says about a model file, from its headers and its bytes' hash.
#pragma once

#include "eval/record.h"
#include "model/adapted_store.h"

namespace thimble::eval {

// Reads the whole file once for its SHA-256 (of several files: of their names and hashes).
[[nodiscard]] ModelFacts model_facts(const ModelSource& source);

// The same of adapters.
[[nodiscard]] std::vector<AdapterFacts> adapter_facts(const std::vector<AdapterUse>& adapters);

// The type that holds most bytes of the layers' matrices, with "+" when other types hold the rest.
[[nodiscard]] std::string format_name(const ModelSource& source);

[[nodiscard]] std::string basename_of(const std::string& path);

}  // namespace thimble::eval
