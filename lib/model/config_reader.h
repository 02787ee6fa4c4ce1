// SPDX-License-Identifier: Apache-2.0
// Typed access to one config by a pair of names, the GGUF key's and the Hugging Face key's.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_file.h"

namespace thimble {

struct ConfigKey {
    std::string_view gguf;  // without the "<arch>." in front; empty: this container has no such key
    std::string_view hf;
};

class ConfigReader {
  public:
    ConfigReader(const ModelFile& file, std::string_view architecture)
        : file_(file), prefix_(std::string(architecture) + "."), hf_(is_hf(file)) {}

    [[nodiscard]] static bool is_hf(const ModelFile& file) {
        return file.container() == Container::kHuggingFace;
    }
    [[nodiscard]] bool hf() const noexcept { return hf_; }
    // The config's own name for the key, for errors.
    [[nodiscard]] std::string where(const ConfigKey& key) const;
    [[noreturn]] void fail(const ConfigKey& key, const std::string& what) const;

    // Absent (or null) gives nullopt; a value of another type or outside [least, most] throws
    // kBadData.
    [[nodiscard]] std::optional<std::int64_t> find_int(const ConfigKey& key, std::int64_t least,
                                                       std::int64_t most) const;
    // Of an array in GGUF, its elements; nullopt: there is none.
    [[nodiscard]] std::optional<std::vector<std::int64_t>> find_ints(const ConfigKey& key,
                                                                     std::int64_t least,
                                                                     std::int64_t most) const;
    [[nodiscard]] std::optional<double> find_number(const ConfigKey& key, double least,
                                                    double most) const;
    [[nodiscard]] std::optional<bool> find_bool(const ConfigKey& key) const;
    [[nodiscard]] std::optional<std::string> find_string(const ConfigKey& key) const;
    [[nodiscard]] bool has(const ConfigKey& key) const;
    [[nodiscard]] const Json* json(std::string_view key) const;  // HF; null when absent or null
    [[nodiscard]] const MetaValue* meta(std::string_view key) const;  // GGUF

  private:
    void check_range(const ConfigKey& key, std::int64_t value, std::int64_t least,
                     std::int64_t most) const;
    [[nodiscard]] std::string gguf_key(const ConfigKey& key) const {
        return prefix_ + std::string(key.gguf);
    }
    const ModelFile& file_;
    std::string prefix_;
    bool hf_;
};

}  // namespace thimble
