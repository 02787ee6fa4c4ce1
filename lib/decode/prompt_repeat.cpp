// SPDX-License-Identifier: Apache-2.0
#include "decode/prompt_repeat.h"

#include <algorithm>

#include "core/error.h"

namespace thimble {
namespace {

bool keeps_all_tokens(const ModelSpec& model) {
    return std::all_of(model.sublayers.begin(), model.sublayers.end(), [](const std::string& kind) {
        return kind == "attention" || kind == "ffn";
    });
}

}  // namespace

void PromptRepeat::visit(OptionVisitor& v) {
    v.option({.name = "prompt-repeat",
              .help = "show the prompt so many times, for models that keep no whole cache",
              .value = "N",
              .least = 1,
              .most = 16},
             times);
    v.option(
        {.name = "force", .help = "repeat prompts though every layer of the model is attention"},
        force);
}

std::string PromptRepeat::apply(std::string_view text) const {
    std::string out(text);
    for (std::int64_t n = 1; n < times; ++n) {
        out += '\n';
        out += text;
    }
    return out;
}

void PromptRepeat::check(const ModelSpec& model) const {
    if (times == 1 && force)
        throw Error(Exit::kUsage, "--force", "there is nothing to force",
                    "it is for --prompt-repeat");
    if (times == 1 || force || !keeps_all_tokens(model)) return;
    throw Error(Exit::kUsage, "--prompt-repeat",
                "every layer of this model is attention, which sees the whole prompt already: " +
                    std::to_string(times) + " copies make its cache " + std::to_string(times) +
                    " times as long",
                "--force does it all the same");
}

}  // namespace thimble
