// SPDX-License-Identifier: Apache-2.0
// How matmuls read their input.
#include "kernels/layout/interleaved.h"
#include "ops/dispatch.h"

namespace thimble {

Activations activations_named(std::string_view name) {
    if (name == "f32") return Activations::kF32;
    if (name == "bf16") return Activations::kBf16;
    if (name == "i8") return Activations::kI8;
    if (name == "i8-token") return Activations::kI8Token;
    if (name.size() == 2 && name[0] == 'b' && name[1] >= '1' && name[1] <= '8')
        return static_cast<Activations>(static_cast<int>(Activations::kBits1) + (name[1] - '1'));
    return Activations::kAuto;
}

const std::vector<std::string>& activation_names() {
    static const std::vector<std::string> names = {
        "auto", "f32", "bf16", "i8", "i8-token", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8"};
    return names;
}

std::string describe_activations(const Exec& exec) {
    if (ops::is_ref(exec)) return "f64";
    if (exec.activations == Activations::kF32) return "f32";
    const int bits = plane_bits(exec.activations);
    const bool cuda = ops::is_cuda(exec);
    if (exec.activations == Activations::kBf16 && !cuda) return "bf16";
    if (exec.activations == Activations::kI8Token) return "i8, a scale for a token";
    const bool i8 = exec.activations == Activations::kI8 || multiplies_bytes(exec.isa);
    const std::string plain = cuda ? "i8 and 16 bits" : i8 ? "i8" : "f32";
    return bits == 0 ? plain : std::to_string(bits) + " bit planes, else " + plain;
}

// Where there are dot products of whole numbers, 8-bit input is faster than float input at every
// batch size.
Activations ops::activations_for(LayoutId layout, const Exec& exec) {
    const bool planes = plane_bits(exec.activations) != 0;
    if (planes && layout == LayoutId::k_bipolar) return exec.activations;
    const LayoutInfo& info = layout_info(layout);
    const bool codes = info.block_elements > 1 && info.block_rows > 1;
    if (!codes || exec.activations == Activations::kF32) return Activations::kF32;
    // No product of bytes has the values of such codes.
    const bool floats =
        with_interleaved(layout, [](auto stored) { return kFloatValues<decltype(stored)::value>; });
    if (floats && exec.activations != Activations::kBf16) return Activations::kF32;
    if (exec.activations != Activations::kAuto && !planes) return exec.activations;
    return multiplies_bytes(exec.isa) ? Activations::kI8 : Activations::kF32;
}

}  // namespace thimble
