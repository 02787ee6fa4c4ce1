// SPDX-License-Identifier: Apache-2.0
#include "eval/gate.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::eval {
namespace {

constexpr int kMostDepth = 64;
using Lookup = std::function<double(const std::string& name)>;

bool is_space(char c) { return c == ' ' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

// Evaluates while it reads; with a lookup that only collects names it is the syntax check.
class Parser {
  public:
    Parser(const std::string& text, const Lookup& lookup) : text_(text), lookup_(lookup) {}

    GateResult gate() {
        GateResult out;
        out.text = text_;
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
        return {Exit::kUsage, "--assert",
                "'" + escaped(text_) + "': " + expected + ", found " + found,
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

    const std::string& text_;
    const Lookup& lookup_;
    std::size_t at_ = 0;
    int depth_ = 0;
};

std::string number_text(double value) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), "%.6g", value);
    return text.data();
}

const Figure* find(const std::vector<Figure>& figures, const std::string& name) {
    const auto at = std::find_if(figures.begin(), figures.end(),
                                 [&](const Figure& f) { return f.name == name; });
    return at == figures.end() ? nullptr : &*at;
}

}  // namespace

Gate::Gate(std::string text) : text_(std::move(text)) {
    (void)Parser(text_, [this](const std::string& name) {
        names_.push_back(name);
        return 0.0;
    }).gate();
}

void Gate::check(const std::vector<Figure>& figures) const {
    for (const std::string& name : names_) {
        if (find(figures, name) != nullptr) continue;
        std::vector<std::string> known;
        std::string list;
        for (const Figure& figure : figures) {
            known.push_back(figure.name);
            list += (list.empty() ? "" : ", ") + figure.name;
        }
        const std::string hint = did_you_mean(name, known);
        throw Error(Exit::kUsage, "--assert",
                    "'" + escaped(text_) + "': there is no figure '" + escaped(name) + "'" +
                        (name.starts_with("baseline.") ? " (or no --baseline)" : ""),
                    (hint.empty() ? "" : hint + " ") + "figures: " + list);
    }
}

GateResult Gate::evaluate(const std::vector<Figure>& figures) const {
    return Parser(text_,
                  [&](const std::string& name) {
                      const Figure* figure = find(figures, name);
                      return figure == nullptr ? std::nan("") : figure->value;
                  })
        .gate();
}

std::string describe(const GateResult& result) {
    return "'" + escaped(result.text) + "' " + (result.holds ? "holds: " : "does not hold: ") +
           number_text(result.left) + " against " + number_text(result.right);
}

}  // namespace thimble::eval
