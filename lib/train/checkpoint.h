// SPDX-License-Identifier: Apache-2.0
// All that a training run needs to go on as if it had never stopped, as one safetensors file that
// appears whole: parameters, the optimizer's slots and the notes of whoever drives the run.
#pragma once

#include <string>

#include "train/slot_store.h"

namespace thimble::train {

struct CheckpointHead {
    std::string fingerprint;  // of what the run is; a file with another one is refused
    std::string notes;
    std::int64_t step = 0;
};

void write_checkpoint(const std::string& path, const CheckpointHead& head, ParameterSet& parameters,
                      const Optimizer& optimizer, const std::vector<Chunk>& chunks,
                      SlotStore& slots);
// Fills parameters and slots. Error(kBadData) naming the file when it belongs to another run or is
// damaged: nothing may be trained on then.
[[nodiscard]] CheckpointHead read_checkpoint(const std::string& path,
                                             const std::string& fingerprint,
                                             ParameterSet& parameters, const Optimizer& optimizer,
                                             const std::vector<Chunk>& chunks, SlotStore& slots);

}  // namespace thimble::train
