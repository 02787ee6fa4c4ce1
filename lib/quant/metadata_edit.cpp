// SPDX-License-Identifier: Apache-2.0
#include "quant/metadata_edit.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

constexpr std::string_view kDrop = "--drop-kv", kOverride = "--override-kv";

// What every reader needs; "*." stands for the architecture.
constexpr std::array<std::string_view, 14> kNeeded = {"general.architecture",
                                                      "general.alignment",
                                                      "*.block_count",
                                                      "*.context_length",
                                                      "*.embedding_length",
                                                      "*.feed_forward_length",
                                                      "*.attention.head_count",
                                                      "*.attention.layer_norm_rms_epsilon",
                                                      "tokenizer.ggml.model",
                                                      "tokenizer.ggml.pre",
                                                      "tokenizer.ggml.tokens",
                                                      "tokenizer.ggml.scores",
                                                      "tokenizer.ggml.token_type",
                                                      "tokenizer.ggml.merges"};
// What the shapes of the tensors say already.
constexpr std::array<std::string_view, 10> kFixed = {"general.architecture",
                                                     "general.alignment",
                                                     "*.block_count",
                                                     "*.embedding_length",
                                                     "*.feed_forward_length",
                                                     "*.attention.head_count",
                                                     "*.attention.head_count_kv",
                                                     "*.attention.key_length",
                                                     "*.attention.value_length",
                                                     "*.vocab_size"};

bool is_among(std::span<const std::string_view> list, std::string_view key,
              std::string_view architecture) {
    return std::any_of(list.begin(), list.end(), [&](std::string_view entry) {
        if (!entry.starts_with("*.")) return key == entry;
        return key.starts_with(architecture) && key.substr(architecture.size()) == entry.substr(1);
    });
}

// * any run of characters, ? any one.
bool matches(std::string_view pattern, std::string_view key) {
    std::size_t p = 0, k = 0, star = std::string_view::npos, retry = 0;
    while (k < key.size()) {
        if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            retry = k;
        } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == key[k])) {
            ++p;
            ++k;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            k = ++retry;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
}

Error usage(std::string_view flag, std::string_view text, const std::string& what,
            std::string hint = {}) {
    return {Exit::kUsage, std::string(flag), "'" + escaped(text, 200) + "' " + what,
            std::move(hint)};
}

std::vector<std::string> keys_of(const Metadata& metadata) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : metadata.entries()) keys.push_back(key);
    return keys;
}

std::string_view kind_of(const MetaValue& value) {
    return std::visit(
        [](const auto& v) -> std::string_view {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, bool>) return "bool";
            if constexpr (std::is_integral_v<T>) return "int";
            if constexpr (std::is_floating_point_v<T>) return "float";
            if constexpr (std::is_same_v<T, std::string>) return "str";
            return "array";
        },
        value);
}

std::string show(const MetaValue& value) {
    return std::visit(
        [](const auto& v) -> std::string {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, bool>) {
                return v ? "true" : "false";
            } else if constexpr (std::is_arithmetic_v<T>) {
                return std::is_integral_v<T> ? std::to_string(v)
                                             : Json(static_cast<double>(v)).dump();
            } else if constexpr (std::is_same_v<T, std::string>) {
                return "'" + escaped(v, 60) + "'";
            } else {
                return "an array";
            }
        },
        value);
}

// The value in the width of `old`, or of a new key.
MetaValue int_value(std::string_view text, std::int64_t value, const MetaValue* old) {
    MetaValue out = std::in_range<std::uint32_t>(value)
                        ? MetaValue(static_cast<std::uint32_t>(value))
                        : MetaValue(value);
    if (old == nullptr) return out;
    std::visit(
        [&](const auto& v) {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
                if (!std::in_range<T>(value)) {
                    throw usage(kOverride, text, "does not fit the key's type",
                                "expected " + std::to_string(std::numeric_limits<T>::min()) +
                                    " to " + std::to_string(std::numeric_limits<T>::max()));
                }
                out = static_cast<T>(value);
            }
        },
        *old);
    return out;
}

struct Override {
    std::string text, key, type, value;
};

Override parse_override(const std::string& text) {
    const std::size_t equals = text.find('=');
    const std::size_t colon = equals == std::string::npos ? equals : text.find(':', equals);
    if (colon == std::string::npos || equals == 0)
        throw usage(kOverride, text, "is not KEY=TYPE:VALUE");
    return {text, text.substr(0, equals), text.substr(equals + 1, colon - equals - 1),
            text.substr(colon + 1)};
}

template <class T>
T parse_number(const Override& edit) {
    T value{};
    const char* end = edit.value.data() + edit.value.size();
    const auto [at, error] = std::from_chars(edit.value.data(), end, value);
    if (error != std::errc() || at != end)
        throw usage(kOverride, edit.text, "has no number of type " + edit.type);
    return value;
}

MetaValue new_value(const Override& edit, const MetaValue* old) {
    if (edit.type == "int") return int_value(edit.text, parse_number<std::int64_t>(edit), old);
    if (edit.type == "float") {
        const auto value = parse_number<double>(edit);
        if (!std::isfinite(value)) throw usage(kOverride, edit.text, "is not a finite number");
        const bool wide = old != nullptr && std::holds_alternative<double>(*old);
        return wide ? MetaValue(value) : MetaValue(static_cast<float>(value));
    }
    if (edit.type == "bool") {
        if (edit.value == "true") return true;
        if (edit.value == "false") return false;
        throw usage(kOverride, edit.text, "is neither true nor false");
    }
    if (edit.type == "str") {
        if (!is_utf8(edit.value)) throw usage(kOverride, edit.text, "is not UTF-8");
        return edit.value;
    }
    throw usage(kOverride, edit.text, "has the type '" + escaped(edit.type, 40) + "'",
                "expected int, float, bool or str");
}

void drop(Metadata& metadata, const std::string& pattern, std::string_view architecture,
          std::vector<std::string>& lines) {
    bool hit = false;
    for (const std::string& key : keys_of(metadata)) {
        if (!matches(pattern, key)) continue;
        if (is_among(kNeeded, key, architecture)) {
            throw usage(kDrop, pattern, "would drop '" + escaped(key) + "', which readers need");
        }
        metadata.erase(key);
        lines.push_back("key '" + escaped(key) + "': dropped");
        hit = true;
    }
    if (hit) return;
    throw usage(kDrop, pattern, "matches no key of the model",
                did_you_mean(pattern, keys_of(metadata)));
}

void set(Metadata& metadata, const std::string& text, std::string_view architecture,
         std::vector<std::string>& lines) {
    const Override edit = parse_override(text);
    if (edit.key.size() > 65'535 || !is_utf8(edit.key) || edit.key.starts_with("split."))
        throw usage(kOverride, text, "names a key that cannot be set");
    const MetaValue* old = metadata.find(edit.key);
    MetaValue value = new_value(edit, old);
    if (old != nullptr && kind_of(*old) != kind_of(value)) {
        throw usage(kOverride, text, "is for a key of type " + std::string(kind_of(*old)),
                    kind_of(*old) == "array" ? "arrays cannot be overridden" : "");
    }
    if (is_among(kFixed, edit.key, architecture) && (old == nullptr || *old != value)) {
        throw usage(kOverride, text, "is for a key that the tensors fix");
    }
    lines.push_back("key '" + escaped(edit.key) + "': " +
                    (old == nullptr ? std::string("new") : show(*old)) + " -> " + show(value));
    metadata.set(edit.key, std::move(value));
}

}  // namespace

void MetadataEdits::visit(OptionVisitor& v) {
    v.option({.name = "override-kv",
              .help = "set a key of the metadata; TYPE: int, float, bool, str",
              .value = "KEY=TYPE:VALUE"},
             override_kv);
    v.option({.name = "drop-kv",
              .help = "leave a key of the metadata out; * stands for any characters, ? for one",
              .value = "KEY"},
             drop_kv);
}

std::vector<std::string> apply_edits(Metadata& metadata, const MetadataEdits& edits) {
    std::vector<std::string> lines;
    const std::string architecture(metadata.find_string("general.architecture").value_or(""));
    for (const std::string& pattern : edits.drop_kv) drop(metadata, pattern, architecture, lines);
    for (const std::string& text : edits.override_kv) set(metadata, text, architecture, lines);
    return lines;
}

}  // namespace thimble
