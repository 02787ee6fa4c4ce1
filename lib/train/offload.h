// SPDX-License-Identifier: Apache-2.0
// What of a training run lies on disk.
#pragma once

#include <string>

#include "core/options.h"
#include "storage/tier.h"

namespace thimble::train {

struct Offload {
    std::string optimizer = "memory", activations = "memory",
                parameters = "memory";  // memory | disk
    void visit(OptionVisitor& v);

    // "optimizer=disk,activations=disk"
    [[nodiscard]] static Offload parse(std::string_view text, std::string_view where);
    [[nodiscard]] bool has_optimizer() const { return optimizer == "disk"; }
    [[nodiscard]] bool has_activations() const { return activations == "disk"; }
    [[nodiscard]] bool has_parameters() const { return parameters == "disk"; }
    [[nodiscard]] bool any() const {
        return has_optimizer() || has_activations() || has_parameters();
    }
};

}  // namespace thimble::train
