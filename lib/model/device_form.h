// SPDX-License-Identifier: Apache-2.0
// How a matrix lies in a CUDA device's memory: as it is stored, but for q8_0 and q4_0, whose blocks
// of 34 and 18 bytes stand where no wide load can begin. Of these the codes and the scales become
// planes of the affine layout (8 or 4 bits, groups of 32, f16), which names the same weights.
#pragma once

#include "model/source.h"
#include "ops/exec.h"

namespace thimble {

[[nodiscard]] PackedForm device_form(const SourceTensor& tensor);
// `stored` in its device form, written to `out` (form.bytes(stored.shape.rows)) where the two
// differ; the view of it.
[[nodiscard]] PackedView to_device_form(const Exec& exec, const PackedView& stored,
                                        const PackedForm& form, std::byte* out);

}  // namespace thimble
