// SPDX-License-Identifier: Apache-2.0
// JSON values. The parser is strict and bounded: depth and size limits, duplicate keys refused,
// valid UTF-8 only; numbers keep integers exact. Object keys keep their order, so equal input gives
// equal output.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace thimble {

class Json;
using JsonArray = std::vector<Json>;
using JsonMembers = std::vector<std::pair<std::string, Json>>;

class Json {
  public:
    Json() = default;  // null
    Json(const Json& other);
    Json(Json&& other) noexcept;
    Json& operator=(const Json& other);
    Json& operator=(Json&& other) noexcept;
    ~Json();
    Json(std::nullptr_t) {}
    Json(bool v) : value_(v) {}
    Json(int v) : value_(static_cast<std::int64_t>(v)) {}
    Json(std::int64_t v) : value_(v) {}
    Json(std::uint64_t v);  // above INT64_MAX becomes a double
    Json(double v) : value_(v) {}
    Json(const char* v) : value_(std::string(v)) {}
    Json(std::string v) : value_(std::move(v)) {}
    Json(std::string_view v) : value_(std::string(v)) {}
    Json(JsonArray v) : value_(std::move(v)) {}
    explicit Json(JsonMembers v) : value_(std::move(v)) {}
    [[nodiscard]] static Json object() { return Json(JsonMembers{}); }
    [[nodiscard]] static Json array() { return Json(JsonArray{}); }

    [[nodiscard]] bool is_null() const { return value_.index() == 0; }
    [[nodiscard]] bool is_bool() const { return std::holds_alternative<bool>(value_); }
    [[nodiscard]] bool is_int() const { return std::holds_alternative<std::int64_t>(value_); }
    [[nodiscard]] bool is_number() const {
        return is_int() || std::holds_alternative<double>(value_);
    }
    [[nodiscard]] bool is_string() const { return std::holds_alternative<std::string>(value_); }
    [[nodiscard]] bool is_array() const { return std::holds_alternative<JsonArray>(value_); }
    [[nodiscard]] bool is_object() const { return std::holds_alternative<JsonMembers>(value_); }

    // Typed access; throws Error(kBadData) naming `where` when the type is another.
    [[nodiscard]] bool as_bool(std::string_view where) const;
    [[nodiscard]] std::int64_t as_int(std::string_view where) const;
    [[nodiscard]] double as_double(std::string_view where) const;
    [[nodiscard]] const std::string& as_string(std::string_view where) const;
    [[nodiscard]] const JsonArray& as_array(std::string_view where) const;
    [[nodiscard]] const JsonMembers& as_members(std::string_view where) const;

    [[nodiscard]] const Json* find(
        std::string_view key) const;         // null when absent or not an object
    Json& set(std::string key, Json value);  // adds or replaces; makes null an object
    void push(Json value);                   // makes null an array

    // indent < 0: one line. Non-finite doubles become null. Shortest round-trip numbers.
    [[nodiscard]] std::string dump(int indent = -1) const;

  private:
    std::variant<std::monostate, bool, std::int64_t, double, std::string, JsonArray, JsonMembers>
        value_;
};

struct JsonLimits {
    std::size_t max_bytes = std::size_t{100} << 20;
    int max_depth = 64;
    std::size_t max_values = std::size_t{8}
                             << 20;  // bounds memory: a value is larger than its text
};
// Throws Error(kBadData) with `where`, byte offset and what was expected.
[[nodiscard]] Json parse_json(std::string_view text, std::string_view where,
                              const JsonLimits& limits = {});
[[nodiscard]] Json read_json_file(const std::string& path, const JsonLimits& limits = {});

}  // namespace thimble
