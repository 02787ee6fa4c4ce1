// SPDX-License-Identifier: Apache-2.0
// Where an output lies until it is known to be good: under another name, and removed unless it is
// accepted.
#pragma once

#include <filesystem>
#include <string>

#include "core/error.h"

namespace thimble {

class UncheckedFile {
  public:
    explicit UncheckedFile(std::string path) : path_(std::move(path)) {}
    ~UncheckedFile() {
        std::error_code ignored;
        if (!path_.empty()) std::filesystem::remove(path_, ignored);
    }
    UncheckedFile(const UncheckedFile&) = delete;
    UncheckedFile& operator=(const UncheckedFile&) = delete;
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    void accept(const std::string& as) {
        std::error_code error;
        std::filesystem::rename(path_, as, error);
        if (error)
            throw Error(Exit::kIo, escaped(as, 1024), "cannot be renamed: " + error.message());
        path_.clear();
    }

  private:
    std::string path_;
};

}  // namespace thimble
