// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/groups.h"

namespace thimble::cpu::THIMBLE_ISA {

void matmul_groups_3(const MatmulGroups& p) { run_shard<3>(p); }

}  // namespace thimble::cpu::THIMBLE_ISA
