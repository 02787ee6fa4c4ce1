// SPDX-License-Identifier: Apache-2.0
// A model file as the closed forms of serving see it, from its headers.
#pragma once

#include "cost/serving.h"
#include "kv/engine.h"
#include "model/source.h"

namespace thimble::cost {

// Weights as they are stored; keys and values in the cache's types, as many as the layers' windows
// and the policy's budget after kv.context_tokens tokens leave, which must be known. Throws
// Error(kUsage) for a type that the heads do not take.
[[nodiscard]] ServedModel served_model(const ModelSource& source, const KvOptions& kv);

}  // namespace thimble::cost
