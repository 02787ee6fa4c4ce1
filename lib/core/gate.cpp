// SPDX-License-Identifier: Apache-2.0
#include "core/gate.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/error.h"

namespace thimble {
namespace {

constexpr int kMostDepth = 64;

bool is_space(char c) { return c == ' ' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Evaluates while it reads; with a lookup that only collects names it is the syntax check.
class Parser {
  public:
    Parser(const std::string& text, const std::string& where, const Gate::Lookup& lookup)
        : text_(text), where_(where), lookup_(lookup) {}

    GateResult gate() {
        GateResult out;
        out.left = sum();
        const std::string op = comparison();
        out.right = sum();
        if (at_ != text_.size()) throw bad("expected the end");
        out.holds = holds(out.left, op, out.right);
        return out;
    }

  private:
    static bool holds(double a, const std::string& op, double b) {
        if (std::isnan(a) || std::isnan(b)) return false;
        if (op == "<") return a < b;
        if (op == "<=") return a <= b;
        if (op == ">") return a > b;
        if (op == ">=") return a >= b;
        return (a == b) == (op == "==");
    }

    Error bad(const std::string& expected) const {
        const std::string found =
            at_ < text_.size() ? "'" + escaped(text_.substr(at_)) + "'" : "nothing more";
        return {Exit::kUsage, where_,
                "gate '" + escaped(text_) + "': " + expected + ", found " + found,
                "for example 'kld_mean<0.03' or 'ppl<=baseline.ppl*1.01'"};
    }
    char peek() {
        while (at_ < text_.size() && is_space(text_[at_])) ++at_;
        return at_ < text_.size() ? text_[at_] : '\0';
    }
    bool accept(char c) {
        if (peek() != c || c == '\0') return false;
        ++at_;
        return true;
    }

    std::string comparison() {
        peek();
        for (const char* op : {"<=", ">=", "==", "!=", "<", ">"}) {
            if (std::string_view(text_).substr(at_).starts_with(op)) {
                at_ += std::string_view(op).size();
                return op;
            }
        }
        throw bad("expected a comparison");
    }

    double sum() {
        double value = product();
        for (;;) {
            if (accept('+')) {
                value += product();
            } else if (accept('-')) {
                value -= product();
            } else {
                return value;
            }
        }
    }
    double product() {
        double value = factor();
        for (;;) {
            if (accept('*')) {
                value *= factor();
            } else if (accept('/')) {
                value /= factor();
            } else {
                return value;
            }
        }
    }
    double factor() {
        if (++depth_ > kMostDepth) throw bad("expected fewer parentheses and signs");
        double value = 0;
        if (accept('-')) {
            value = -factor();
        } else if (accept('(')) {
            value = sum();
            if (!accept(')')) throw bad("expected ')'");
        } else {
            value = starts_name(peek()) ? lookup_(name()) : number();
        }
        --depth_;
        return value;
    }
    std::string name() {
        const std::size_t begin = at_;
        while (at_ < text_.size() &&
               (starts_name(text_[at_]) || is_digit(text_[at_]) || text_[at_] == '.'))
            ++at_;
        return text_.substr(begin, at_ - begin);
    }
    double number() {
        peek();
        double value = 0;
        const char* begin = text_.data() + at_;
        const auto [end, code] = std::from_chars(begin, text_.data() + text_.size(), value);
        if (code != std::errc{} || !std::isfinite(value))
            throw bad("expected a number or a figure");
        at_ += static_cast<std::size_t>(end - begin);
        return value;
    }

    const std::string &text_, &where_;
    const Gate::Lookup& lookup_;
    std::size_t at_ = 0;
    int depth_ = 0;
};

std::string number_text(double value) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), "%.6g", value);
    return text.data();
}

}  // namespace

Gate::Gate(std::string text, std::string where) : text_(std::move(text)), where_(std::move(where)) {
    (void)Parser(text_, where_, [this](const std::string& name) {
        if (std::find(names_.begin(), names_.end(), name) == names_.end()) names_.push_back(name);
        return 0.0;
    }).gate();
}

GateResult Gate::evaluate(const Lookup& figure) const {
    std::vector<double> values;
    for (const std::string& name : names_) values.push_back(figure(name));
    GateResult result = Parser(text_, where_, [&](const std::string& name) {
                            const auto at = std::find(names_.begin(), names_.end(), name);
                            return values[static_cast<std::size_t>(at - names_.begin())];
                        }).gate();
    result.values = std::move(values);
    return result;
}

std::string describe(const Gate& gate, const GateResult& result) {
    std::string out = escaped(gate.text(), 1024) + (result.holds ? " holds" : " failed");
    for (std::size_t i = 0; i < result.values.size(); ++i) {
        const double value = result.values[i];
        out += (i == 0 ? ": " : ", ") + escaped(gate.names()[i], 1024) + " is " +
               (std::isnan(value) ? "not a number" : number_text(value));
    }
    return out;
}

}  // namespace thimble
