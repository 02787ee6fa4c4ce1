// SPDX-License-Identifier: Apache-2.0
// A model with adapters: another store's weights, whatever they are and wherever they come from,
// with low-rank terms, and with DoRA a scale of each row, m / |W + scale * B A|, that is worked out
// once when the adapters are loaded. The weights themselves stay as they are, so a term with B = 0
// changes no bit.
#pragma once

#include <memory>
#include <vector>

#include "core/options.h"
#include "model/adapter.h"
#include "model/store.h"

namespace thimble {

struct AdapterOptions {
    std::vector<std::string> lora, lora_scale;
    void visit(OptionVisitor& v);
};

// An adapter and what its terms are multiplied by besides its own scale. The lengths of a DoRA
// adapter are what they are whatever the scale, as PEFT has it.
struct AdapterUse {
    std::shared_ptr<const AdapterFile> file;
    double scale = 1;
    [[nodiscard]] double scale_of(const AdapterMatrix& matrix) const {
        return scale * adapter_scale(file->adapter().settings, matrix);
    }
};
// Headers only. Throws what AdapterFile does, and kUsage for scales that do not go with the files
// and for a DoRA adapter beside another one on the same matrix: what both would be is not defined.
[[nodiscard]] std::vector<AdapterUse> open_adapters(const AdapterOptions& options,
                                                    const ModelSource& source);

// What adapters hold in memory (Purpose::kWeights), and what they add to a forward step's
// workspace.
[[nodiscard]] std::uint64_t adapter_bytes(const std::vector<AdapterUse>& adapters,
                                          const Exec& exec);
[[nodiscard]] std::size_t adapter_workspace_bytes(const std::vector<AdapterUse>& adapters,
                                                  const Exec& exec, std::int64_t tokens);

// Reads the adapters; with DoRA `base` delivers every layer once.
[[nodiscard]] std::unique_ptr<WeightStore> make_adapted_store(
    std::unique_ptr<WeightStore> base, const ModelSource& source, const Exec& exec,
    const std::vector<AdapterUse>& adapters);

}  // namespace thimble
