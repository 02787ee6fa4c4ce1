// SPDX-License-Identifier: Apache-2.0
// A directory of one test's own, removed with everything in it; and whole files as strings.
#pragma once

#include <string>
#include <string_view>

namespace thimble::test {

class TempDir {
  public:
    TempDir();
    ~TempDir();
    TempDir(const TempDir&) = delete;
    TempDir& operator=(const TempDir&) = delete;
    [[nodiscard]] const std::string& path() const noexcept { return path_; }
    [[nodiscard]] std::string operator/(std::string_view name) const {
        return path_ + "/" + std::string(name);
    }
    [[nodiscard]] int entries() const;  // files in it

  private:
    std::string path_;
};

[[nodiscard]] std::string slurp(const std::string& path);
void spew(const std::string& path, std::string_view bytes);

}  // namespace thimble::test
