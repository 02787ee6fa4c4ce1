// SPDX-License-Identifier: Apache-2.0
#include "tests/support/ranks.h"

#include <doctest/doctest.h>
#include <unistd.h>

namespace thimble::test {

std::optional<std::vector<std::string>> mpirun(int ranks) {
    const std::string program = THIMBLE_MPIRUN;
    if (program.empty() || ::access(program.c_str(), X_OK) != 0) {
        MESSAGE("SKIPPED: no MPI: install libopenmpi-dev and openmpi-bin, and configure again");
        return std::nullopt;
    }
    return std::vector<std::string>{program,
                                    "--allow-run-as-root",
                                    "--oversubscribe",
                                    "--bind-to",
                                    "none",
                                    "--mca",
                                    "mpi_yield_when_idle",
                                    "1",
                                    "-n",
                                    std::to_string(ranks)};
}

}  // namespace thimble::test
