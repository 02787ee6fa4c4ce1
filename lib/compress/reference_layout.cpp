// SPDX-License-Identifier: Apache-2.0
#include "compress/reference_layout.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "compress/lossless.h"
#include "core/error.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, 7> kFromHidden = {
    "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "embed_tokens", "lm_head"};
constexpr std::array<std::string_view, 2> kToHidden = {"o_proj", "down_proj"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::optional<std::vector<std::uint64_t>> reference_dims(std::string_view path,
                                                         std::uint64_t numbers,
                                                         std::uint64_t hidden) {
    const std::string_view leaf = path.substr(path.rfind('.') + 1);
    const auto among = [&](const auto& names) {
        return std::find(names.begin(), names.end(), leaf) != names.end();
    };
    if (hidden == 0 || numbers == 0 || numbers % hidden != 0) return std::nullopt;
    if (among(kFromHidden)) return std::vector<std::uint64_t>{numbers / hidden, hidden};
    if (among(kToHidden)) return std::vector<std::uint64_t>{hidden, numbers / hidden};
    return std::nullopt;
}

std::uint64_t reference_width(const Json& config, const std::string& where) {
    const Json* text = config.find("text_config");
    const Json* width = (text != nullptr ? *text : config).find("hidden_size");
    if (width == nullptr || width->as_int(where) < 1)
        throw Error(Exit::kBadData, where, "has no 'hidden_size', by which matrices have shapes");
    return static_cast<std::uint64_t>(width->as_int(where));
}

bool matches_pattern(std::string_view pattern, std::string_view module, const std::string& where) {
    std::size_t at = 0;
    bool same = true;
    for (std::size_t i = 0; i < pattern.size(); ++i) {
        const char c = pattern[i];
        if (pattern.substr(i).starts_with("\\d+")) {
            const std::size_t first = at;
            while (at < module.size() && is_digit(module[at])) ++at;
            same = same && at > first;
            i += 2;
            continue;
        }
        const bool escaped_sign = c == '\\' && i + 1 < pattern.size() &&
                                  !std::isalnum(static_cast<unsigned char>(pattern[i + 1]));
        if (!escaped_sign && std::string_view("\\+*?()[]{}|^$").find(c) != std::string_view::npos)
            throw Error(Exit::kBadData, where,
                        "has pattern '" + escaped(pattern, 255) + "', which is not known here");
        const char wanted = escaped_sign ? pattern[++i] : c;
        const bool any = c == '.';
        same = same && at < module.size() && (any || module[at] == wanted);
        ++at;
    }
    return same && at == module.size();
}

std::string literal_pattern(std::string_view module) {
    std::string out;
    for (const char c : module) {
        if (!std::isalnum(static_cast<unsigned char>(c)) && c != '_') out += '\\';
        out += c;
    }
    return out;
}

Json with_reference_config(const Json& config, const Json* reference) {
    Json out = Json::object();
    for (const auto& [key, value] : config.as_members("config.json"))
        if (key != kReferenceConfig) out.set(key, value);
    if (reference != nullptr) out.set(kReferenceConfig, *reference);
    return out;
}

bool is_reference(const std::string& directory) {
    const std::string config = (std::filesystem::path(directory) / "config.json").string();
    return std::filesystem::exists(config) &&
           read_json_file(config).find(kReferenceConfig) != nullptr;
}

}  // namespace thimble
