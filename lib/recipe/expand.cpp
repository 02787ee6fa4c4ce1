// SPDX-License-Identifier: Apache-2.0
#include "recipe/expand.h"

#include "core/error.h"

namespace thimble::recipe {
namespace {

constexpr std::size_t kMaxBytes = 16384;
constexpr int kMaxDepth = 4;

class Expander {
  public:
    Expander(std::string_view text, const Lookup& lookup, std::string_view where)
        : text_(text), lookup_(lookup), where_(where) {}

    std::string run() { return part(0); }

  private:
    // Up to the end of the text, or inside a reference to its closing brace.
    std::string part(int depth) {
        std::string out;
        while (at_ < text_.size()) {
            if (out.size() > kMaxBytes) throw bad("expands to more than 16 KiB");
            if (text_.substr(at_).starts_with("$${")) {
                out += "$${";
                at_ += 3;
            } else if (text_.substr(at_).starts_with("${")) {
                at_ += 2;
                out += reference(depth + 1);
            } else if (depth > 0 && text_[at_] == '}') {
                return out;
            } else {
                out += text_[at_++];
            }
        }
        if (depth > 0) throw bad("'${' without its '}'");
        if (out.size() > kMaxBytes) throw bad("expands to more than 16 KiB");
        return out;
    }
    std::string reference(int depth) {
        if (depth > kMaxDepth) throw bad("references are nested too deep");
        const std::string name = part(depth);
        ++at_;  // the brace
        const std::optional<std::string> value = lookup_(name);
        return value ? *value : "${" + name + "}";
    }
    [[nodiscard]] Error bad(const std::string& what) const {
        return {Exit::kUsage, std::string(where_), "'" + escaped(text_) + "': " + what};
    }

    std::string_view text_;
    const Lookup& lookup_;
    std::string_view where_;
    std::size_t at_ = 0;
};

}  // namespace

std::string expand(std::string_view text, const Lookup& lookup, std::string_view where) {
    return Expander(text, lookup, where).run();
}

std::string unescape_references(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text.substr(i).starts_with("$${")) ++i;
        out += text[i];
    }
    return out;
}

std::vector<std::string> references(std::string_view text, std::string_view where) {
    std::vector<std::string> names;
    (void)expand(
        text,
        [&](const std::string& name) {
            names.push_back(name);
            return std::optional<std::string>{};
        },
        where);
    return names;
}

bool is_outermost(std::string_view text, std::size_t at) {
    if (at == std::string_view::npos) return false;
    const std::size_t before = text.substr(0, at).rfind("${");
    return before == std::string_view::npos ||
           text.substr(before, at - before).find('}') != std::string_view::npos;
}

}  // namespace thimble::recipe
