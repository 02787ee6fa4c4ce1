// SPDX-License-Identifier: Apache-2.0
// A directory of files that appears under its name whole or not at all: they are written into
// `<path>.partial`, which commit() renames and which is removed otherwise.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "io/atomic_file.h"

namespace thimble {

class AtomicDirectory {
  public:
    // An empty directory may be there already; a filled one is refused, or with kReplace must hold
    // nothing but files of a model (weights, *.json, *.txt, ...), so that a slip of the hand
    // cannot remove anything else. The rest of a killed run is removed, but for files that `keeps`
    // names; with it, what is written stays when this ends without commit(). Throws kCannotCreate.
    using Keeps = std::function<bool(std::string_view name)>;
    AtomicDirectory(const std::string& path, IfExists if_exists, const Keeps& keeps = {});
    ~AtomicDirectory();
    AtomicDirectory(const AtomicDirectory&) = delete;
    AtomicDirectory& operator=(const AtomicDirectory&) = delete;

    // Where the files go until commit().
    [[nodiscard]] const std::string& partial() const noexcept { return partial_; }
    void commit();
    void drop() noexcept { kept_ = false; }  // nothing stays

  private:
    std::string path_, partial_;
    IfExists if_exists_ = IfExists::kRefuse;
    bool kept_ = false;
    int lock_ = -1;
};

}  // namespace thimble
