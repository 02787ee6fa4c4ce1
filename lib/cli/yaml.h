// SPDX-License-Identifier: Apache-2.0
// A YAML document as a tree that keeps line numbers. The input is untrusted: size, depth and the
// number of nodes (aliases count each time they are expanded) are limited, duplicate keys and
// second documents refused.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace thimble::cli {

struct YamlMember;

struct YamlNode {
    enum class Kind : unsigned char { kNull, kScalar, kList, kMap };
    Kind kind = Kind::kNull;
    bool quoted = false;  // a scalar in quotes or a block scalar
    int line = 0;         // 1-based
    std::string text;     // scalars
    std::vector<YamlNode> items;
    std::vector<YamlMember> members;  // in the file's order

    [[nodiscard]] bool is_scalar() const noexcept { return kind == Kind::kScalar; }
    [[nodiscard]] bool is_list() const noexcept { return kind == Kind::kList; }
    [[nodiscard]] bool is_map() const noexcept { return kind == Kind::kMap; }
    [[nodiscard]] const YamlNode* find(std::string_view key) const noexcept;
};

struct YamlMember {
    std::string key;
    int line = 0;
    YamlNode value;
};

struct YamlLimits {
    std::size_t max_bytes = std::size_t{1} << 20;
    std::size_t max_nodes = 20'000;
    std::size_t max_depth = 32;
};

// Throws Error(kUsage) with "file:line" and what was expected. An empty document is kNull.
[[nodiscard]] YamlNode parse_yaml(std::string_view text, std::string_view file,
                                  const YamlLimits& limits = {});
[[nodiscard]] YamlNode read_yaml_file(const std::string& path, const YamlLimits& limits = {});

// Double-quoted unless it is safely plain; parse_yaml gives back the same text.
[[nodiscard]] std::string yaml_scalar(std::string_view text);

}  // namespace thimble::cli
