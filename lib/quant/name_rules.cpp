// SPDX-License-Identifier: Apache-2.0
#include "quant/name_rules.h"

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/strings.h"
#include "io/file.h"

namespace thimble {
namespace {

constexpr std::string_view kRuleFlag = "--tensor-type";
constexpr std::uint64_t kMaxRuleFileBytes = std::uint64_t{1} << 20;

// Where "=FORMAT" begins: before the colon of the format's options, which hold '=', too.
std::size_t format_at(const std::string& text) {
    const std::size_t equals = text.rfind('=');
    const std::size_t colon = text.rfind(':', equals);
    if (equals == std::string::npos || colon == std::string::npos) return equals;
    const std::size_t before = text.rfind('=', colon);
    if (before == std::string::npos) return equals;
    // A colon in the expression itself ("(?:a|b)=q8_0") is before the last '='.
    const std::string name = to_lower(text.substr(before + 1, colon - before - 1));
    const bool alias = std::any_of(format_aliases().begin(), format_aliases().end(),
                                   [&](const FormatAlias& a) { return a.name == name; });
    return alias || weight_formats().find(name) != nullptr ? before : equals;
}

NameRule parse_rule(const std::string& text) {
    const std::size_t equals = format_at(text);
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(text) + "' is not REGEX=FORMAT");
    }
    const std::string pattern = text.substr(0, equals);
    SharedFormat format = make_format(text.substr(equals + 1), kRuleFlag);
    try {
        return {text, pattern, std::regex(pattern), std::move(format)};
    } catch (const std::regex_error&) {
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(pattern) + "' is not a regular expression");
    }
}

// Whole names, and their parts without layer number and suffix ("attn_q"), to suggest from.
std::string suggestion(const NameRule& rule, const ModelSource& source) {
    std::vector<std::string> names;
    for (const SourceTensor& tensor : source.tensors()) {
        if (!tensor.is_matrix) continue;
        names.push_back(tensor.name);
        for (std::string& part : split(tensor.name, '.')) {
            if (part.size() > 3 && part != "weight") names.push_back(std::move(part));
        }
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    return did_you_mean(rule.expression, names);
}

}  // namespace

NameRules::NameRules(const std::vector<std::string>& texts) {
    for (const std::string& text : texts) rules_.push_back(parse_rule(text));
}

const NameRule* NameRules::match(const std::string& name) {
    const NameRule* first = nullptr;
    for (NameRule& rule : rules_) {
        if (!std::regex_search(name, rule.pattern)) continue;
        ++rule.hits;
        if (first == nullptr) first = &rule;
    }
    return first;
}

void NameRules::refuse_idle(const ModelSource& source) const {
    for (const NameRule& rule : rules_) {
        if (rule.hits > 0) continue;
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(rule.text) + "' matches no matrix of the model",
                    suggestion(rule, source));
    }
}

std::vector<std::string> read_name_rules(const std::string& path) {
    const std::string where = escaped(path, 1024);
    const std::string text = read_text_file(path, kMaxRuleFileBytes);
    std::vector<std::string> rules;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line.substr(0, line.find('#')));
        for (std::string word; words >> word;) rules.push_back(std::move(word));
    }
    if (rules.empty()) throw Error(Exit::kUsage, where, "holds no rule REGEX=FORMAT");
    return rules;
}

}  // namespace thimble
