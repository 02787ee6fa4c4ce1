// SPDX-License-Identifier: Apache-2.0
#include "eval/filters.h"

#include <algorithm>
#include <regex>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::eval {
namespace {

// std::regex recurses along its text.
constexpr std::size_t kMostRegexBytes = std::size_t{16} << 10;
constexpr const char* kSpaces = " \t\n\r\f\v";

std::string first_line(const std::string& text) {
    for (const std::string& line : split(text, '\n'))
        if (line.find_first_not_of(kSpaces) != std::string::npos) return line;
    return {};
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string last_number(const std::string& text) {
    std::string plain;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool grouped = text[i] == ',' && i > 0 && i + 1 < text.size() &&
                             is_digit(text[i - 1]) && is_digit(text[i + 1]);
        if (!grouped) plain += text[i];
    }
    const auto digit = std::find_if(plain.rbegin(), plain.rend(), is_digit);
    if (digit == plain.rend()) return {};
    const std::size_t end = static_cast<std::size_t>(plain.rend() - digit);
    std::size_t begin = end - 1;
    bool point = false;
    while (begin > 0) {
        const char c = plain[begin - 1];
        if (c == '.' && !point && begin > 1 && is_digit(plain[begin - 2])) {
            point = true;
        } else if (!is_digit(c)) {
            break;
        }
        --begin;
    }
    if (begin > 0 && plain[begin - 1] == '-') --begin;
    return plain.substr(begin, end - begin);
}

std::function<std::string(const std::string&)> regex_step(const std::string& pattern,
                                                          std::string_view where) {
    try {
        return [regex = std::regex(pattern)](const std::string& text) -> std::string {
            const std::string head = text.substr(0, kMostRegexBytes);
            std::smatch match;
            if (!std::regex_search(head, match, regex)) return {};
            return match.size() > 1 ? match[1].str() : match[0].str();
        };
    } catch (const std::regex_error&) {
        throw Error(Exit::kUsage, std::string(where),
                    "'" + escaped(pattern) + "' is not a valid regular expression");
    }
}

}  // namespace

std::string strip(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(kSpaces);
    if (begin == std::string_view::npos) return {};
    return std::string(text.substr(begin, text.find_last_not_of(kSpaces) + 1 - begin));
}

Filters::Filters(const std::vector<std::string>& steps, std::string_view where) {
    const std::vector<std::string> known = {"strip", "line", "lower", "number", "regex"};
    for (const std::string& step : steps) {
        const std::string kind = step.substr(0, step.find('='));
        if (step == "strip") {
            steps_.emplace_back([](const std::string& text) { return strip(text); });
        } else if (step == "line") {
            steps_.emplace_back(first_line);
        } else if (step == "lower") {
            steps_.emplace_back([](const std::string& text) { return to_lower(text); });
        } else if (step == "number") {
            steps_.emplace_back(last_number);
        } else if (kind == "regex" && step.size() > kind.size() + 1) {
            steps_.push_back(regex_step(step.substr(kind.size() + 1), where));
        } else {
            throw Error(Exit::kUsage, std::string(where), "unknown filter '" + escaped(step) + "'",
                        did_you_mean(kind, known));
        }
        name_ += (name_.empty() ? "" : "+") + kind;
    }
    if (name_.empty()) name_ = "none";
}

std::string Filters::apply(std::string text) const {
    for (const auto& step : steps_) text = step(text);
    return text;
}

}  // namespace thimble::eval
