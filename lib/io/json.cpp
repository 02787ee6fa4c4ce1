// SPDX-License-Identifier: Apache-2.0
#include "io/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/strings.h"
#include "io/file.h"

namespace thimble {
namespace {

Error bad_json(std::string_view where, std::string what) {
    return {Exit::kBadData, std::string(where), std::move(what)};
}

Error wrong_type(std::string_view where, const char* expected) {
    return bad_json(where, std::string("expected ") + expected);
}

// Builds values bottom-up on an explicit stack; nlohmann's SAX parser does not recurse either.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
  public:
    Builder(std::string_view where, const JsonLimits& limits) : where_(where), limits_(limits) {}
    [[nodiscard]] Json take() { return std::move(root_); }

    bool null() override { return add(Json()); }
    bool boolean(bool v) override { return add(Json(v)); }
    bool number_integer(number_integer_t v) override {
        return add(Json(static_cast<std::int64_t>(v)));
    }
    bool number_unsigned(number_unsigned_t v) override {
        return add(Json(static_cast<std::uint64_t>(v)));
    }
    bool number_float(number_float_t v, const string_t& /*text*/) override { return add(Json(v)); }
    bool string(string_t& v) override { return add(Json(std::move(v))); }
    bool binary(binary_t& /*v*/) override { return false; }  // never in text
    bool start_object(std::size_t /*size*/) override { return open(true); }
    bool start_array(std::size_t /*size*/) override { return open(false); }
    bool key(string_t& v) override {
        stack_.back().members.emplace_back(std::move(v), Json());
        return true;
    }
    bool end_object() override {
        refuse_duplicates(stack_.back().members);
        return close(Json(std::move(stack_.back().members)));
    }
    bool end_array() override { return close(Json(std::move(stack_.back().elements))); }
    bool parse_error(std::size_t position, const std::string& /*token*/,
                     const nlohmann::detail::exception& e) override {
        std::string_view detail = e.what();
        // "[id] parse error at line 1, column 9: syntax error ..." -> what was found there.
        for (const char* prefix : {"] ", ": "})
            if (const auto at = detail.find(prefix); at != std::string_view::npos)
                detail.remove_prefix(at + 2);
        throw bad_json(where_, "not valid JSON at byte " + std::to_string(position) + ": " +
                                   escaped(detail, 160));
    }

  private:
    struct Frame {
        bool is_object = false;
        JsonMembers members;
        JsonArray elements;
    };

    bool open(bool is_object) {
        if (static_cast<int>(stack_.size()) >= limits_.max_depth) {
            throw bad_json(where_, "JSON nested deeper than " + std::to_string(limits_.max_depth));
        }
        stack_.push_back({is_object, {}, {}});
        return true;
    }
    bool close(Json value) {
        stack_.pop_back();
        return add(std::move(value));
    }
    bool add(Json value) {
        if (++values_ > limits_.max_values) {
            throw bad_json(where_,
                           "JSON with more than " + std::to_string(limits_.max_values) + " values");
        }
        if (stack_.empty()) {
            root_ = std::move(value);
        } else if (stack_.back().is_object) {
            stack_.back().members.back().second = std::move(value);
        } else {
            stack_.back().elements.push_back(std::move(value));
        }
        return true;
    }
    void refuse_duplicates(const JsonMembers& members) const {
        std::vector<std::string_view> keys;
        keys.reserve(members.size());
        for (const auto& member : members) keys.push_back(member.first);
        std::sort(keys.begin(), keys.end());
        const auto twice = std::adjacent_find(keys.begin(), keys.end());
        if (twice != keys.end()) {
            throw bad_json(where_, "JSON key '" + escaped(*twice) + "' occurs twice");
        }
    }

    std::string_view where_;
    JsonLimits limits_;
    std::size_t values_ = 0;
    std::vector<Frame> stack_;
    Json root_;
};

void append_quoted(std::string& out, std::string_view text) {
    static constexpr char kHex[] = "0123456789abcdef";
    out += '"';
    while (!text.empty()) {
        const auto c = static_cast<unsigned char>(text[0]);
        const std::size_t length = utf8_length(text);
        if (c == '"' || c == '\\') {
            out += '\\';
            out += text[0];
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\t') {
            out += "\\t";
        } else if (c < 0x20 || c == 0x7f) {
            out += "\\u00";
            out += kHex[c >> 4];
            out += kHex[c & 15];
        } else if (length == 0) {
            out += "\\ufffd";
        } else {
            out.append(text.substr(0, length));
        }
        text.remove_prefix(std::max<std::size_t>(length, 1));
    }
    out += '"';
}

void append_double(std::string& out, double v) {
    if (!std::isfinite(v)) {
        out += "null";
        return;
    }
    std::array<char, 32> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), v).ptr;
    const std::string_view digits(text.data(), static_cast<std::size_t>(end - text.data()));
    out += digits;
    if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";  // stays a double
}

void append_break(std::string& out, int indent, int depth) {
    if (indent < 0) return;
    out += '\n';
    out.append(static_cast<std::size_t>(indent) * static_cast<std::size_t>(depth), ' ');
}

void append_value(std::string& out, const Json& v, int indent, int depth) {
    if (v.is_bool()) {
        out += v.as_bool("") ? "true" : "false";
    } else if (v.is_int()) {
        out += std::to_string(v.as_int(""));
    } else if (v.is_number()) {
        append_double(out, v.as_double(""));
    } else if (v.is_string()) {
        append_quoted(out, v.as_string(""));
    } else if (v.is_array()) {
        const JsonArray& elements = v.as_array("");
        out += '[';
        for (std::size_t i = 0; i < elements.size(); ++i) {
            if (i > 0) out += ',';
            append_break(out, indent, depth + 1);
            append_value(out, elements[i], indent, depth + 1);
        }
        if (!elements.empty()) append_break(out, indent, depth);
        out += ']';
    } else if (v.is_object()) {
        const JsonMembers& members = v.as_members("");
        out += '{';
        for (std::size_t i = 0; i < members.size(); ++i) {
            if (i > 0) out += ',';
            append_break(out, indent, depth + 1);
            append_quoted(out, members[i].first);
            out += indent < 0 ? ":" : ": ";
            append_value(out, members[i].second, indent, depth + 1);
        }
        if (!members.empty()) append_break(out, indent, depth);
        out += '}';
    } else {
        out += "null";
    }
}

}  // namespace

Json::Json(const Json& other) = default;
Json::Json(Json&& other) noexcept = default;
Json& Json::operator=(const Json& other) = default;
Json& Json::operator=(Json&& other) noexcept = default;
Json::~Json() = default;

Json::Json(std::uint64_t v) {
    if (v <= static_cast<std::uint64_t>(INT64_MAX)) {
        value_ = static_cast<std::int64_t>(v);
    } else {
        value_ = static_cast<double>(v);
    }
}

bool Json::as_bool(std::string_view where) const {
    if (const auto* v = std::get_if<bool>(&value_)) return *v;
    throw wrong_type(where, "true or false");
}

std::int64_t Json::as_int(std::string_view where) const {
    if (const auto* v = std::get_if<std::int64_t>(&value_)) return *v;
    throw wrong_type(where, "an integer");
}

double Json::as_double(std::string_view where) const {
    if (const auto* v = std::get_if<double>(&value_)) return *v;
    if (const auto* v = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*v);
    throw wrong_type(where, "a number");
}

const std::string& Json::as_string(std::string_view where) const {
    if (const auto* v = std::get_if<std::string>(&value_)) return *v;
    throw wrong_type(where, "a string");
}

const JsonArray& Json::as_array(std::string_view where) const {
    if (const auto* v = std::get_if<JsonArray>(&value_)) return *v;
    throw wrong_type(where, "an array");
}

const JsonMembers& Json::as_members(std::string_view where) const {
    if (const auto* v = std::get_if<JsonMembers>(&value_)) return *v;
    throw wrong_type(where, "an object");
}

const Json* Json::find(std::string_view key) const {
    const auto* members = std::get_if<JsonMembers>(&value_);
    if (members == nullptr) return nullptr;
    for (const auto& member : *members)
        if (member.first == key) return &member.second;
    return nullptr;
}

Json& Json::set(std::string key, Json value) {
    if (is_null()) value_ = JsonMembers{};
    auto& members = std::get<JsonMembers>(value_);
    for (auto& member : members)
        if (member.first == key) return member.second = std::move(value);
    return members.emplace_back(std::move(key), std::move(value)).second;
}

void Json::push(Json value) {
    if (is_null()) value_ = JsonArray{};
    std::get<JsonArray>(value_).push_back(std::move(value));
}

std::string Json::dump(int indent) const {
    std::string out;
    append_value(out, *this, indent, 0);
    return out;
}

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
    if (text.size() > limits.max_bytes) {
        throw bad_json(where, "JSON of " + std::to_string(text.size()) + " bytes; at most " +
                                  std::to_string(limits.max_bytes) + " are accepted");
    }
    Builder builder(where, limits);
    nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
    return builder.take();
}

Json read_json_file(const std::string& path, const JsonLimits& limits) {
    const File file(path);
    if (file.bytes() > limits.max_bytes) {
        throw bad_json(escaped(path, 1024), "JSON of " + std::to_string(file.bytes()) +
                                                " bytes; at most " +
                                                std::to_string(limits.max_bytes) + " are accepted");
    }
    std::string text(file.bytes(), '\0');
    file.read(0, std::as_writable_bytes(std::span(text)));
    return parse_json(text, escaped(path, 1024), limits);
}

}  // namespace thimble
