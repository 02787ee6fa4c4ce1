// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "core/error.h"
#include "io/model_file.h"

namespace thimble {
namespace {

Error bad_key(const std::string& file, std::string_view key, const std::string& what) {
    return {Exit::kBadData, escaped(file, 1024), "key '" + escaped(key) + "' " + what};
}

std::uint64_t heap_bytes(const std::string& text) noexcept {
    static const std::size_t kInline = std::string().capacity();
    return text.capacity() > kInline ? text.capacity() + 1 : 0;
}

std::uint64_t heap_bytes(const MetaArray& array) noexcept {
    return std::visit(
        [](const auto& elements) {
            using V = typename std::decay_t<decltype(elements)>::value_type;
            std::uint64_t sum = elements.capacity() * sizeof(V);
            if constexpr (std::is_same_v<V, std::string>)
                for (const std::string& text : elements) sum += heap_bytes(text);
            return sum;
        },
        array.elements);
}

}  // namespace

const MetaValue* Metadata::find(std::string_view key) const noexcept {
    const auto at = index_.find(key);
    return at == index_.end() ? nullptr : &entries_[at->second].second;
}

std::optional<std::int64_t> Metadata::find_int(std::string_view key) const {
    const MetaValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    return std::visit(
        [&](const auto& v) -> std::int64_t {
            using V = std::decay_t<decltype(v)>;
            if constexpr (std::is_integral_v<V> && !std::is_same_v<V, bool>) {
                if (std::in_range<std::int64_t>(v)) return static_cast<std::int64_t>(v);
            }
            throw bad_key(file_, key, "must be an integer");
        },
        *value);
}

std::optional<double> Metadata::find_number(std::string_view key) const {
    const MetaValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    return std::visit(
        [&](const auto& v) -> double {
            using V = std::decay_t<decltype(v)>;
            if constexpr (std::is_arithmetic_v<V> && !std::is_same_v<V, bool>) {
                return static_cast<double>(v);
            } else {
                throw bad_key(file_, key, "must be a number");
            }
        },
        *value);
}

std::optional<bool> Metadata::find_bool(std::string_view key) const {
    const MetaValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* v = std::get_if<bool>(value)) return *v;
    throw bad_key(file_, key, "must be a boolean");
}

std::optional<std::string_view> Metadata::find_string(std::string_view key) const {
    const MetaValue* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* v = std::get_if<std::string>(value)) return *v;
    throw bad_key(file_, key, "must be a string");
}

const MetaArray* Metadata::find_array(std::string_view key) const {
    const MetaValue* value = find(key);
    if (value == nullptr) return nullptr;
    if (const auto* v = std::get_if<std::shared_ptr<const MetaArray>>(value)) return v->get();
    throw bad_key(file_, key, "must be an array");
}

std::int64_t Metadata::get_int(std::string_view key, std::int64_t least, std::int64_t most) const {
    const auto value = find_int(key);
    if (!value) throw bad_key(file_, key, "is missing");
    if (*value < least || *value > most) {
        throw bad_key(file_, key,
                      "is " + std::to_string(*value) + ", expected " + std::to_string(least) +
                          " to " + std::to_string(most));
    }
    return *value;
}

double Metadata::get_number(std::string_view key) const {
    const auto value = find_number(key);
    if (!value) throw bad_key(file_, key, "is missing");
    return *value;
}

std::string_view Metadata::get_string(std::string_view key) const {
    const auto value = find_string(key);
    if (!value) throw bad_key(file_, key, "is missing");
    return *value;
}

void Metadata::set(std::string key, MetaValue value) {
    const auto [at, added] = index_.try_emplace(key, entries_.size());
    if (added) {
        entries_.emplace_back(std::move(key), std::move(value));
    } else {
        entries_[at->second].second = std::move(value);
    }
}

std::uint64_t Metadata::memory_bytes() const noexcept {
    std::uint64_t sum = entries_.capacity() * sizeof(entries_[0]);
    for (const auto& [key, value] : entries_) {
        sum += heap_bytes(key);
        if (const auto* text = std::get_if<std::string>(&value)) sum += heap_bytes(*text);
        if (const auto* array = std::get_if<std::shared_ptr<const MetaArray>>(&value))
            sum += sizeof(MetaArray) + heap_bytes(**array);
    }
    return sum;
}

void Metadata::erase(std::string_view key) {
    const auto at = index_.find(key);
    if (at == index_.end()) return;
    const std::size_t gone = at->second;
    index_.erase(at);
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(gone));
    for (std::size_t i = gone; i < entries_.size(); ++i) index_.find(entries_[i].first)->second = i;
}

}  // namespace thimble
