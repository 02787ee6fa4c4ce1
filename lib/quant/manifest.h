// SPDX-License-Identifier: Apache-2.0
// Lists of SHA-256 sums, in two forms that people exchange: sha256sum's ("HEX  file") and that of
// llama-gguf-hash ("sha256  HEX  file:tensor", and "sha256  HEX  file" for the data of all the
// file's tensors, one after the other).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace thimble {

enum class Summed : unsigned char { kFile, kAllTensors, kTensor };

struct ManifestEntry {
    Summed what = Summed::kFile;
    std::string file, tensor;  // as the manifest names them
    std::string sha256;        // 64 hexadecimal digits, lower case
};

class Manifest {
  public:
    // Lines with other kinds of sums (xxh64, sha1, uuid) are passed over. Throws kBadData naming
    // `where` and the line, or when no line has a SHA-256.
    [[nodiscard]] static Manifest parse(std::string_view text, std::string_view where);

    [[nodiscard]] const std::vector<ManifestEntry>& entries() const noexcept { return entries_; }
    // The entry for a file of that path, and a tensor of it. A manifest about one file is about
    // any file, whatever its name is now. Null when there is none.
    [[nodiscard]] const ManifestEntry* find(Summed what, std::string_view path,
                                            std::string_view tensor = {}) const;

  private:
    [[nodiscard]] std::string key(Summed what, std::string_view path,
                                  std::string_view tensor) const;

    std::vector<ManifestEntry> entries_;
    std::unordered_map<std::string, std::size_t> index_;  // by key(); the first of equal ones
    bool one_file_ = false;
};

// One line, with its end.
[[nodiscard]] std::string manifest_line(const ManifestEntry& entry);

// 64 hexadecimal digits in lower case; throws kUsage naming `where` for anything else.
[[nodiscard]] std::string parse_sha256(std::string_view text, std::string_view where);

}  // namespace thimble
