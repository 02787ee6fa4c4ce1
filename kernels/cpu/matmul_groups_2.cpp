// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/groups.h"

template void thimble::cpu::THIMBLE_ISA::run_shard<2>(const MatmulGroups&);
