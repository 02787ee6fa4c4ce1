// SPDX-License-Identifier: Apache-2.0
// Which format each tensor is stored in, and why.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "format/weight_format.h"
#include "model/source.h"
#include "quant/options.h"

namespace thimble {

struct TensorChoice {
    const SourceTensor* tensor = nullptr;
    LayoutId layout = LayoutId::k_f32;
    bool copied = false;  // the stored bytes are taken over as they are
    std::string reason;   // "" for the plain rule, else what led to another format than --format
};

// One choice per tensor, in the source's order. Throws Error(kUsage) for a rule that matches no
// matrix (with the nearest name), for rows that are not whole blocks under --strict, and for
// quantised input without --allow-requantize.
[[nodiscard]] std::vector<TensorChoice> choose_formats(const ModelSource& source,
                                                       const QuantizeOptions& options);

// What a format becomes for rows of `cols`: itself, or a format of 32-weight blocks with at least
// its bits, or f16.
[[nodiscard]] LayoutId fitting_layout(LayoutId wanted, std::int64_t cols);

}  // namespace thimble
