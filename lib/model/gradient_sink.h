// SPDX-License-Identifier: Apache-2.0
// Where a backward pass leaves the gradients of parameters.
#pragma once

#include <cstddef>
#include <optional>

#include "model/store.h"

namespace thimble {

// A parameter by its place in a model.
struct ParameterId {
    enum class Part : std::uint8_t {
        kMatrix,    // [out, in]
        kBias,      // [1, out]
        kVector,    // [1, n]
        kLowRankA,  // [rank, in]
        kLowRankB,  // [out, rank]
        kRowScale,  // [1, out]
    };
    UnitId unit;
    Part part = Part::kMatrix;
    std::size_t index = 0;  // of the matrix or vector within its unit
    std::size_t term = 0;   // of the low-rank terms
};

class GradientSink {
  public:
    virtual ~GradientSink() = default;
    // What the parameter's gradient is to be added to, in exec.dtype(); nullopt: nobody wants it.
    [[nodiscard]] virtual std::optional<View> gradient(const ParameterId& id) = 0;
    // This pass will add nothing more to it, and needs the parameter's values no more.
    virtual void done(const ParameterId& id) = 0;
};

}  // namespace thimble
