// SPDX-License-Identifier: Apache-2.0
// How matmuls read their input.
#include "kernels/layout/interleaved.h"
#include "ops/dispatch.h"

namespace thimble {

Activations activations_named(std::string_view name) {
    if (name == "f32") return Activations::kF32;
    if (name == "bf16") return Activations::kBf16;
    if (name == "i8") return Activations::kI8;
    return Activations::kAuto;
}

std::string describe_activations(const Exec& exec) {
    if (ops::is_ref(exec)) return "f64";
    if (exec.activations == Activations::kF32) return "f32";
    if (exec.activations == Activations::kBf16) return "bf16";
    const bool i8 = exec.activations == Activations::kI8 || exec.isa != Isa::kPortable;
    return i8 ? "i8" : "f32";
}

// Where there are dot products of bytes, 8-bit input is faster than float input at every batch
// size; the portable level has none.
Activations ops::activations_for(LayoutId layout, const Exec& exec) {
    const LayoutInfo& info = layout_info(layout);
    const bool codes = info.block_elements > 1 && info.block_rows > 1;
    if (!codes || exec.activations == Activations::kF32) return Activations::kF32;
    // No product of bytes has the values of such codes.
    const bool floats =
        with_interleaved(layout, [](auto stored) { return kFloatValues<decltype(stored)::value>; });
    if (floats && exec.activations != Activations::kBf16) return Activations::kF32;
    if (exec.activations != Activations::kAuto) return exec.activations;
    return exec.isa == Isa::kPortable ? Activations::kF32 : Activations::kI8;
}

}  // namespace thimble
