// SPDX-License-Identifier: Apache-2.0
// Reads a whole model once, in file order, through one buffer: SHA-256 of files and tensors, and
// whether every scale and every float is finite.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/team.h"
#include "io/model_file.h"

namespace thimble {

struct TensorVerdict {
    const TensorEntry* tensor = nullptr;
    std::string sha256;
    bool checked = false;  // its values: integers need no check, and some types are unknown here
    std::string problem;   // "row 3, column 5: NaN ..."; "" if there is none
};

struct FileVerdict {
    std::string path;
    std::string sha256;
    std::string tensors_sha256;  // of the data of its tensors in their listed order
};

class ModelVerifier {
  public:
    explicit ModelVerifier(const ModelFile& file);
    [[nodiscard]] std::uint64_t buffer_bytes() const;
    // progress(bytes done, of all) stops the work by returning false; then this does, too. Throws
    // kIo for what cannot be read.
    [[nodiscard]] bool run(Team& team,
                           const std::function<bool(std::uint64_t, std::uint64_t)>& progress);

    [[nodiscard]] const std::vector<TensorVerdict>& tensors() const noexcept { return tensors_; }
    [[nodiscard]] const std::vector<FileVerdict>& files() const noexcept { return files_; }

  private:
    class Walk;
    const ModelFile& file_;
    std::vector<TensorVerdict> tensors_;  // in the container's order
    std::vector<FileVerdict> files_;
};

}  // namespace thimble
