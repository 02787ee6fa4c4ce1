// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/kernels.h"

namespace thimble::cpu::THIMBLE_ISA {

#define THIMBLE_KERNEL(name, parameters) name,
const KernelTable kKernelTable = {
#include "kernels/cpu/kernels.def"
};
#undef THIMBLE_KERNEL

}  // namespace thimble::cpu::THIMBLE_ISA
