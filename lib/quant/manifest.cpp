// SPDX-License-Identifier: Apache-2.0
#include "quant/manifest.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::size_t kDigits = 64;
constexpr std::array<std::string_view, 4> kOtherSums = {"xxh64", "sha1", "uuid", "manifest"};

bool is_digit(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

std::optional<std::string> sum_of(std::string_view text) {
    if (text.size() != kDigits || !std::all_of(text.begin(), text.end(), is_digit))
        return std::nullopt;
    return to_lower(text);
}

// The next word, taken off `text`.
std::string_view next_word(std::string_view& text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return text = {};
    const std::size_t end = std::min(text.find_first_of(" \t", begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    text.remove_prefix(end);
    return word;
}

std::string_view trimmed(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::string_view base_name(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? path : path.substr(slash + 1);
}

// Nothing for a line about other sums.
std::optional<ManifestEntry> parse_line(std::string_view line, const std::string& where) {
    std::string_view rest = line;
    const std::string_view first = next_word(rest);
    ManifestEntry entry;
    if (const auto sum = sum_of(first)) {  // sha256sum's; '*' marks its binary mode
        std::string_view name = trimmed(rest);
        if (name.starts_with('*')) name.remove_prefix(1);
        entry.sha256 = *sum;
        entry.file = name;
    } else if (first == "sha256") {
        const auto second = sum_of(next_word(rest));
        if (!second) throw Error(Exit::kBadData, where, "64 hexadecimal digits are expected");
        const std::string_view name = trimmed(rest);
        const std::size_t colon = name.find(':');
        entry.sha256 = *second;
        entry.file = name.substr(0, colon);
        entry.what = colon == std::string_view::npos ? Summed::kAllTensors : Summed::kTensor;
        if (entry.what == Summed::kTensor) entry.tensor = name.substr(colon + 1);
    } else if (std::find(kOtherSums.begin(), kOtherSums.end(), first) != kOtherSums.end()) {
        return std::nullopt;
    } else {
        throw Error(Exit::kBadData, where, "neither 'sha256 HEX NAME' nor 'HEX NAME'");
    }
    const bool named =
        !entry.file.empty() && (entry.what != Summed::kTensor || !entry.tensor.empty());
    if (!named) throw Error(Exit::kBadData, where, "a name is expected after the sum");
    return entry;
}

}  // namespace

Manifest Manifest::parse(std::string_view text, std::string_view where) {
    Manifest manifest;
    std::size_t number = 0;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        const std::string_view line = trimmed(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
        ++number;
        if (line.empty() || line.starts_with('#')) continue;
        auto entry = parse_line(line, std::string(where) + ":" + std::to_string(number));
        if (entry) manifest.entries_.push_back(std::move(*entry));
    }
    const auto& entries = manifest.entries_;
    if (entries.empty()) {
        throw Error(Exit::kBadData, std::string(where), "holds no SHA-256",
                    "make it with `quantize verify --write-manifest` or llama-gguf-hash --sha256");
    }
    manifest.one_file_ = std::all_of(entries.begin(), entries.end(), [&](const auto& entry) {
        return base_name(entry.file) == base_name(entries.front().file);
    });
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const ManifestEntry& entry = entries[i];
        manifest.index_.emplace(manifest.key(entry.what, entry.file, entry.tensor), i);
    }
    return manifest;
}

std::string Manifest::key(Summed what, std::string_view path, std::string_view tensor) const {
    std::string key(1, static_cast<char>(what));
    if (!one_file_) key += base_name(path);
    key += '\n';  // no name holds one
    return key += tensor;
}

const ManifestEntry* Manifest::find(Summed what, std::string_view path,
                                    std::string_view tensor) const {
    const auto at = index_.find(key(what, path, tensor));
    return at == index_.end() ? nullptr : &entries_[at->second];
}

std::string manifest_line(const ManifestEntry& entry) {
    if (entry.what == Summed::kFile) return entry.sha256 + "  " + entry.file + "\n";
    const std::string tensor = entry.what == Summed::kTensor ? ":" + entry.tensor : "";
    return "sha256    " + entry.sha256 + "  " + entry.file + tensor + "\n";
}

std::string parse_sha256(std::string_view text, std::string_view where) {
    if (const auto sum = sum_of(text)) return *sum;
    throw Error(Exit::kUsage, std::string(where),
                "'" + escaped(text) + "' is not 64 hexadecimal digits");
}

}  // namespace thimble
