// SPDX-License-Identifier: Apache-2.0
#include "dist/communicator.h"

#include <algorithm>
#include <cstdlib>

#include "core/cpu.h"
#include "dist/scratch.h"
#include "tensor/buffer.h"

namespace thimble::dist {
namespace {

int number_in_environment(const char* name) {
    const char* text = std::getenv(name);
    return text == nullptr ? 0 : std::max(std::atoi(text), 0);
}

}  // namespace

void Communicator::abort(int code) { std::_Exit(code); }

std::size_t Communicator::charged_bytes(int size) noexcept {
    return size > 1 ? Buffer::charged_bytes(scratch_bytes(size)) : 0;
}

Communicator* alone() {
    static Communicator one;
    return &one;
}

int launched_ranks() {
    int ranks = 0;
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"})
        ranks = std::max(ranks, number_in_environment(name));
    // Says which rank this is, not how many there are.
    if (std::getenv("PMIX_RANK") != nullptr)
        ranks = std::max(ranks, number_in_environment("PMIX_RANK") + 1);
    return ranks;
}

int default_threads_of(const Communicator& ranks) {
    // Slurm's says what one rank has.
    const bool counted = std::getenv("SLURM_CPUS_PER_TASK") != nullptr;
    return std::max(default_threads() / (counted ? 1 : ranks.ranks_on_cores()), 1);
}

}  // namespace thimble::dist
