// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "recipe/tell.h"

namespace thimble::recipe {
namespace {

std::string uses_of(const Step& step) {
    return step.tool + (step.command.empty() ? "" : " " + step.command);
}

class Tree {
  public:
    explicit Tree(const Recipe& recipe) : recipe_(recipe), shown_(recipe.steps.size(), false) {}

    std::string run() {
        std::vector<bool> needed(recipe_.steps.size(), false);
        for (const Step& step : recipe_.steps)
            for (const std::size_t need : step.needs) needed[need] = true;
        for (std::size_t i = 0; i < recipe_.steps.size(); ++i)
            if (!needed[i]) node(i, "", "");
        return std::move(out_);
    }

  private:
    void node(std::size_t i, const std::string& lead, const std::string& below) {
        const Step& step = recipe_.steps[i];
        out_ += lead + step.id + "  " + uses_of(step);
        for (const Gate& gate : step.gates) out_ += "  [" + gate.text() + "]";
        const bool again = shown_[i] && !step.needs.empty();
        out_ += again ? "  (see above)\n" : "\n";
        if (again) return;
        shown_[i] = true;
        for (std::size_t n = 0; n < step.needs.size(); ++n) {
            const bool last = n + 1 == step.needs.size();
            node(step.needs[n], below + (last ? "`-- " : "|-- "), below + (last ? "    " : "|   "));
        }
    }

    const Recipe& recipe_;
    std::vector<bool> shown_;
    std::string out_;
};

// Ids and gates hold no character that either language would need escaped.
std::string dot(const Recipe& recipe) {
    std::string out = "digraph recipe {\n  rankdir=LR;\n  node [shape=box];\n";
    for (std::size_t i = 0; i < recipe.steps.size(); ++i) {
        const Step& step = recipe.steps[i];
        out += "  s" + std::to_string(i) + " [label=\"" + step.id + "\\n" + uses_of(step);
        for (const Gate& gate : step.gates) out += "\\n" + gate.text();
        out += "\"];\n";
    }
    for (std::size_t i = 0; i < recipe.steps.size(); ++i)
        for (const std::size_t need : recipe.steps[i].needs)
            out += "  s" + std::to_string(need) + " -> s" + std::to_string(i) + ";\n";
    return out + "}\n";
}

std::string mermaid(const Recipe& recipe) {
    std::string out = "flowchart LR\n";
    for (std::size_t i = 0; i < recipe.steps.size(); ++i) {
        const Step& step = recipe.steps[i];
        out += "  s" + std::to_string(i) + "[\"" + step.id + "<br/>" + uses_of(step);
        for (const Gate& gate : step.gates) {
            out += "<br/>";
            for (const char c : gate.text())
                out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : std::string(1, c);
        }
        out += "\"]\n";
    }
    for (std::size_t i = 0; i < recipe.steps.size(); ++i)
        for (const std::size_t need : recipe.steps[i].needs)
            out += "  s" + std::to_string(need) + " --> s" + std::to_string(i) + "\n";
    return out;
}

}  // namespace

std::string graph_text(const Recipe& recipe, std::string_view format) {
    if (format == "dot") return dot(recipe);
    if (format == "mermaid") return mermaid(recipe);
    return Tree(recipe).run();
}

}  // namespace thimble::recipe
