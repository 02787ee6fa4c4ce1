// SPDX-License-Identifier: Apache-2.0
// What a file holds besides its tensors' bytes: so that it can be written again, byte for byte.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"
#include "io/model_file.h"
#include "model/coded_tensor.h"
#include "tensor/buffer.h"

namespace thimble {

inline constexpr std::string_view kSourceHeader = "thimble.shared.source_header";

class SourceBytes {
  public:
    // Error(kBadData) when bytes between or behind the tensors are not zero: they would be lost.
    SourceBytes(const std::string& path, const std::vector<TensorEntry>& tensors);
    // Before the first tensor.
    [[nodiscard]] std::uint64_t header_bytes() const noexcept { return header_bytes_; }
    [[nodiscard]] Buffer header() const;
    // The value of kLosslessKey.
    [[nodiscard]] std::string describe(Container container, std::string_view sha256) const;

  private:
    File file_;
    std::uint64_t header_bytes_ = 0;
};

// What describe() said.
struct SourceFacts {
    Container container = Container::kGguf;
    std::uint64_t bytes = 0;
    std::string sha256;
};
// Of a file that compress wrote; Error(kUsage) of another, Error(kBadData) of a damaged one.
[[nodiscard]] SourceFacts source_facts(const ModelFile& file);

}  // namespace thimble
