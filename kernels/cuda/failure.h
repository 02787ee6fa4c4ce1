// SPDX-License-Identifier: Apache-2.0
// What device code throws: kernels know nothing of the library's errors.
#pragma once

#include <cstdint>
#include <exception>

namespace thimble::cuda {

class Failure : public std::exception {
  public:
    enum class Kind : std::uint8_t {
        kNotBuilt,      // this build has no CUDA
        kNoDevice,      // the machine has none
        kDriverTooOld,  // for the toolkit that this was built with
        kOutOfMemory,   // of the device, or of pinned host memory
        kBroken,        // a kernel or the runtime failed
    };
    Failure(Kind kind, const char* what) noexcept;
    [[nodiscard]] Kind kind() const noexcept { return kind_; }
    [[nodiscard]] const char* what() const noexcept override { return what_; }

  private:
    Kind kind_;
    char what_[320];
};

}  // namespace thimble::cuda
