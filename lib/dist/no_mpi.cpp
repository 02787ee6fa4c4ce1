// SPDX-License-Identifier: Apache-2.0
// Of builds without MPI.
#include "core/error.h"
#include "dist/communicator.h"

namespace thimble::dist {

std::unique_ptr<Communicator> join() {
    if (const int ranks = launched_ranks(); ranks > 1) {
        throw Error(Exit::kUsage, "mpirun",
                    "started " + std::to_string(ranks) +
                        " processes, but this build has no MPI: each would do the whole job",
                    "install libopenmpi-dev and build again, or start one process");
    }
    return std::make_unique<Communicator>();
}

}  // namespace thimble::dist
