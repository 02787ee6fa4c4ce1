// SPDX-License-Identifier: Apache-2.0
// A sequence's keys and values in a file, to go on from later or elsewhere: one safetensors file
// that appears whole, with what it belongs to.
#pragma once

#include <string>
#include <vector>

#include "kv/engine.h"

namespace thimble {

struct KvFileHead {
    std::string model;   // fingerprint of the weights that made the keys
    std::string policy;  // as the options have them
    std::string type_k, type_v;
    std::vector<std::int32_t> tokens;  // all that the sequence has seen

    [[nodiscard]] static KvFileHead of(const std::string& model, const KvOptions& options,
                                       std::vector<std::int32_t> tokens);
};

// Error(kUsage) naming the flag for a file that is not called *.safetensors.
void check_kv_path(const std::string& path, const char* flag);
// The sequence must be past its prompt. Error(kCannotCreate) or (kIo).
void save_sequence(const KvEngine& engine, SeqId seq, const KvFileHead& head,
                   const std::string& path);
// The head alone. Error(kNoInput), or (kBadData) for what is no such file.
[[nodiscard]] KvFileHead read_kv_head(const std::string& path);
// Opens a sequence that goes on where the saved one was. `expected.tokens` is not compared.
// Error(kBadData) naming the file and what differs: model, policy, types, or damage.
[[nodiscard]] SeqId load_sequence(KvEngine& engine, const KvFileHead& expected,
                                  const std::string& path);

}  // namespace thimble
