// SPDX-License-Identifier: Apache-2.0
// Moves the size of input channels from activations into weights: a norm's weight is divided by s,
// the columns of the matrices that it feeds are multiplied by s. "SmoothQuant: Accurate and
// Efficient Post-Training Quantization for Large Language Models" (2023), equation 4.
// differs: an activation's size is the root of its mean square, which importance matrices hold, not
// its greatest magnitude.
#pragma once

#include <span>

#include "kernels/layout/layout.h"

namespace thimble {

// max(activation^alpha / weight^(1 - alpha), 1e-5); weights from 1e-5 on.
[[nodiscard]] double smoothing_scale(double activation, double weight, double alpha);

// A norm as it is written: in a layout of one element per block, and where `difference`, less one.
struct NormForm {
    LayoutId layout = LayoutId::k_f32;
    bool difference = false;
};
// Divides `norm` by `scale`, both [n], and puts it into its written form. Where that rounds, the
// scale becomes what the norm was in fact divided by, so that the rounding costs nothing: the
// columns take it back. A channel whose quotient the form cannot hold at all keeps its size.
void divide_norm(NormForm form, std::span<double> norm, std::span<double> scale);

}  // namespace thimble
