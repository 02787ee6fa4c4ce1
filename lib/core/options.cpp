// SPDX-License-Identifier: Apache-2.0
#include "core/options.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

template <class Number>
std::string number_text(Number value) {
    std::array<char, 40> text{};
    const auto [end, ec] = std::to_chars(text.data(), text.data() + text.size(), value);
    return ec == std::errc{} ? std::string(text.data(), end) : std::string{};
}

class Lister final : public OptionVisitor {
  public:
    std::vector<OptionRecord> records;

    void option(const OptionInfo& info, bool& v) override {
        add(info, OptionType::kBool, {v ? "true" : "false"});
    }
    void option(const OptionInfo& info, std::int64_t& v) override {
        add(info, OptionType::kInt, {number_text(v)});
    }
    void option(const OptionInfo& info, double& v) override {
        add(info, OptionType::kDouble, {number_text(v)});
    }
    void option(const OptionInfo& info, std::string& v) override {
        add(info, OptionType::kString, {v});
    }
    void option(const OptionInfo& info, std::vector<std::string>& v) override {
        add(info, OptionType::kList, v);
    }
    void group(std::string_view heading) override { group_ = heading; }

  private:
    void add(const OptionInfo& info, OptionType type, std::vector<std::string> values) {
        records.push_back({info, type, group_, std::move(values)});
    }
    std::string group_;
};

class Setter final : public OptionVisitor {
  public:
    Setter(std::string_view name, std::span<const std::string> texts, std::string_view where)
        : name_(name), texts_(texts), where_(where) {}
    bool found = false;

    void option(const OptionInfo& info, bool& v) override {
        if (!mine(info)) return;
        const std::string text = to_lower(single());
        if (text == "true" || text == "yes" || text == "on" || text == "1") {
            v = true;
        } else if (text == "false" || text == "no" || text == "off" || text == "0") {
            v = false;
        } else {
            throw bad("is not true or false");
        }
    }
    void option(const OptionInfo& info, std::int64_t& v) override {
        if (mine(info)) number(info, v, "is not a whole number");
    }
    void option(const OptionInfo& info, double& v) override {
        if (mine(info)) number(info, v, "is not a number");
    }
    void option(const OptionInfo& info, std::string& v) override {
        if (!mine(info)) return;
        v = chosen(info, single());
    }
    void option(const OptionInfo& info, std::vector<std::string>& v) override {
        if (!mine(info)) return;
        v.clear();
        for (const std::string& text : texts_) v.push_back(chosen(info, text));
    }
    void group(std::string_view) override {}

  private:
    bool mine(const OptionInfo& info) {
        const bool is = name_ == info.name;
        found |= is;
        return is;
    }
    const std::string& single() const {
        if (texts_.size() != 1) throw Error(Exit::kUsage, where_, "takes one value, not a list");
        return texts_.front();
    }
    Error bad(const std::string& problem, const std::string& hint = {}) const {
        return {Exit::kUsage, where_, "'" + escaped(single()) + "' " + problem, hint};
    }
    template <class Number>
    void number(const OptionInfo& info, Number& v, const char* problem) const {
        const std::string& text = single();
        Number parsed{};
        const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), parsed);
        const auto as_double = static_cast<double>(parsed);
        if (ec != std::errc{} || end != text.data() + text.size() || !std::isfinite(as_double))
            throw bad(problem);
        if (as_double < info.least) throw bad("is less than " + number_text(info.least));
        if (as_double > info.most) throw bad("is more than " + number_text(info.most));
        v = parsed;
    }
    // The choice that was meant: "Q8_0" is q8_0.
    std::string chosen(const OptionInfo& info, const std::string& text) const {
        const auto& choices = info.choices;
        if (choices.empty()) return text;
        for (const std::string& choice : choices) {
            if (choice == text || to_lower(choice) == to_lower(text)) return choice;
        }
        std::string known;
        for (const std::string& choice : choices) known += (known.empty() ? "" : ", ") + choice;
        throw Error(Exit::kUsage, where_, "'" + escaped(text) + "' is not one of " + known,
                    did_you_mean(text, choices));
    }

    std::string_view name_;
    std::span<const std::string> texts_;
    std::string where_;
};

std::string escape_inline(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == ',' || c == '\\') out += '\\';
        out += c;
    }
    return out;
}

}  // namespace

std::vector<OptionRecord> list_options(const Visitable& options) {
    Lister lister;
    if (options) options(lister);
    return std::move(lister.records);
}

void set_option(const Visitable& options, std::string_view name, std::span<const std::string> texts,
                std::string_view where) {
    Setter setter(name, texts, where);
    options(setter);
    if (setter.found) return;
    std::vector<std::string> names;
    for (const OptionRecord& record : list_options(options)) names.emplace_back(record.info.name);
    throw Error(Exit::kUsage, std::string(where), "unknown option '" + escaped(name) + "'",
                did_you_mean(name, names));
}

// Splits at unescaped commas; the escapes are undone in the values only.
std::vector<InlineOption> split_inline_options(std::string_view text) {
    std::vector<InlineOption> options(1);
    bool in_value = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == ',') {
            options.emplace_back();
            in_value = false;
        } else if (!in_value && c == '=') {
            in_value = true;
            options.back().at = i + 1;
        } else if (!in_value) {
            options.back().key += c;
        } else {
            if (c == '\\' && i + 1 < text.size()) ++i;
            options.back().value += text[i];
        }
    }
    return options;
}

std::string join_inline_options(std::span<const InlineOption> options) {
    std::string out;
    for (const InlineOption& option : options)
        out += (out.empty() ? "" : ",") + option.key + "=" + escape_inline(option.value);
    return out;
}

void parse_inline_options(std::string_view text, const Visitable& options, std::string_view where) {
    if (text.empty()) return;
    const std::vector<OptionRecord> records = list_options(options);
    std::map<std::string, std::vector<std::string>> given;
    for (const InlineOption& option : split_inline_options(text)) {
        const std::string& key = option.key;
        std::string value = option.value;
        const auto record = std::find_if(records.begin(), records.end(),
                                         [&](const auto& r) { return key == r.info.name; });
        const std::string place = std::string(where) + ": " + escaped(key);
        if (record == records.end()) set_option(options, key, {}, place);  // throws
        if (record->type == OptionType::kBool && value.empty()) value = "true";
        std::vector<std::string>& values = given[key];
        values.push_back(std::move(value));
        if (values.size() > 1 && record->type != OptionType::kList)
            throw Error(Exit::kUsage, place, "is given twice");
    }
    for (const auto& [key, values] : given) {
        set_option(options, key, values, std::string(where) + ": " + escaped(key));
    }
}

std::string format_inline_options(const Visitable& options, const Visitable& defaults) {
    const std::vector<OptionRecord> now = list_options(options), before = list_options(defaults);
    std::vector<InlineOption> changed;
    for (std::size_t i = 0; i < now.size(); ++i) {
        if (i < before.size() && now[i].values == before[i].values) continue;
        for (const std::string& value : now[i].values) changed.push_back({now[i].info.name, value});
    }
    return join_inline_options(changed);
}

}  // namespace thimble
