// SPDX-License-Identifier: Apache-2.0
// A model that is nowhere but in its config.json: a container whose tensors are drawn when they are
// read, for training from the beginning. Matrices are normal with the config's initializer_range
// (0.02 where it has none), norms one, biases zero, as transformers begins.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "io/model_file.h"

namespace thimble {

// `config`: a config.json, or the directory that holds it; a tokenizer.json beside it is the
// model's. Errors of reading and checking a config. Values depend on the seed and their place
// alone.
[[nodiscard]] std::unique_ptr<ModelFile> random_model(const std::string& config,
                                                      std::uint64_t seed);

}  // namespace thimble
