// SPDX-License-Identifier: Apache-2.0
// Changes to a GGUF file's metadata that the user asks for by key.
#pragma once

#include <string>
#include <vector>

#include "core/options.h"
#include "io/model_file.h"

namespace thimble {

struct MetadataEdits {
    std::vector<std::string> override_kv;  // "KEY=TYPE:VALUE", TYPE int, float, bool or str
    std::vector<std::string> drop_kv;      // a key, or a pattern with * and ?
    void visit(OptionVisitor& v);
    [[nodiscard]] bool empty() const noexcept { return override_kv.empty() && drop_kv.empty(); }
};

// Drops, then sets; one line per change for the plan. An existing number keeps its width; a new int
// is a u32 where it fits, else an i64. Throws Error(kUsage): for a drop that hits nothing (with the
// nearest key) or a key without which the file is no model; for an override of another kind than
// the key has, of an array, or of a size that the tensors fix.
std::vector<std::string> apply_edits(Metadata& metadata, const MetadataEdits& edits);

}  // namespace thimble
