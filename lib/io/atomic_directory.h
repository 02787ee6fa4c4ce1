// SPDX-License-Identifier: Apache-2.0
// A directory of files that appears under its name whole or not at all: they are written into
// `<path>.partial`, which commit() renames and which is removed otherwise.
#pragma once

#include <string>

#include "io/atomic_file.h"

namespace thimble {

class AtomicDirectory {
  public:
    // An empty directory may be there already; a filled one is refused, or with kReplace must hold
    // nothing but files of a model (weights, *.json, *.txt, ...), so that a slip of the hand
    // cannot remove anything else. The rest of a killed run is removed. Throws kCannotCreate.
    AtomicDirectory(const std::string& path, IfExists if_exists);
    ~AtomicDirectory();
    AtomicDirectory(const AtomicDirectory&) = delete;
    AtomicDirectory& operator=(const AtomicDirectory&) = delete;

    // Where the files go until commit().
    [[nodiscard]] const std::string& partial() const noexcept { return partial_; }
    void commit();

  private:
    std::string path_, partial_;
    IfExists if_exists_ = IfExists::kRefuse;
    int lock_ = -1;
};

}  // namespace thimble
