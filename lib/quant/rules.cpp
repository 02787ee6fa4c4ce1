// SPDX-License-Identifier: Apache-2.0
#include "quant/rules.h"

#include <algorithm>
#include <regex>

#include "core/error.h"
#include "core/strings.h"

namespace thimble {
namespace {

struct Rule {
    std::string text;
    std::regex pattern;
    LayoutId layout;
    bool hit = false;
};

constexpr std::string_view kRuleFlag = "--tensor-type";

Rule parse_rule(const std::string& text) {
    const std::size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(text) + "' is not REGEX=FORMAT");
    }
    const WeightFormat& format =
        weight_formats().get(to_lower(text.substr(equals + 1)), std::string(kRuleFlag));
    try {
        return {text, std::regex(text.substr(0, equals)), format.info().layout};
    } catch (const std::regex_error&) {
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(text.substr(0, equals)) + "' is not a regular expression");
    }
}

// Whole names, and their parts without layer number and suffix ("attn_q"), to suggest from.
std::string suggestion(const Rule& rule, const ModelSource& source) {
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
    return did_you_mean(rule.text.substr(0, rule.text.rfind('=')), names);
}

void refuse_idle_rules(const std::vector<Rule>& rules, const ModelSource& source) {
    for (const Rule& rule : rules) {
        if (rule.hit) continue;
        throw Error(Exit::kUsage, std::string(kRuleFlag),
                    "'" + escaped(rule.text) + "' matches no matrix of the model",
                    suggestion(rule, source));
    }
}

bool is_head(const SourceTensor& tensor, const ModelSource& source) {
    return tensor.name == "output.weight" ||
           (source.spec().tied_embedding && tensor.name == "token_embd.weight");
}

double bits(LayoutId layout) { return format_of(layout).info().nominal_bits_per_weight; }
bool is_quantised(LayoutId layout) { return layout_info(layout).block_elements > 1; }
std::string name_of(LayoutId layout) { return layout_info(layout).name; }

class Chooser {
  public:
    Chooser(const ModelSource& source, const QuantizeOptions& options)
        : source_(source),
          options_(options),
          target_(weight_formats().get(options.format, "--format").info().layout) {
        for (const std::string& text : options.tensor_type) rules_.push_back(parse_rule(text));
    }

    std::vector<TensorChoice> run() {
        std::vector<TensorChoice> choices;
        for (const SourceTensor& tensor : source_.tensors()) choices.push_back(choose(tensor));
        refuse_idle_rules(rules_, source_);
        for (TensorChoice& choice : choices) {
            if (choice.tensor->is_matrix) check_source(choice);
        }
        return choices;
    }

  private:
    TensorChoice choose(const SourceTensor& tensor) {
        TensorChoice choice{&tensor, LayoutId::k_f32, false, {}};
        if (!tensor.is_matrix) return choice;
        choice.layout = target_;
        const Rule* chosen = nullptr;
        for (Rule& rule : rules_) {
            if (!std::regex_search(tensor.name, rule.pattern)) continue;
            rule.hit = true;
            if (!chosen) chosen = &rule;
        }
        if (chosen) {
            choice.layout = chosen->layout;
            choice.reason = std::string(kRuleFlag) + " " + chosen->text;
        } else if (!options_.pure && bits(target_) < 6 && is_head(tensor, source_)) {
            choice.layout = LayoutId::k_q6_k;
            choice.reason = "output head";
        }
        fit(choice);
        return choice;
    }

    void fit(TensorChoice& choice) const {
        const LayoutId wanted = choice.layout;
        const std::int64_t cols = choice.tensor->cols();
        choice.layout = fitting_layout(wanted, cols);
        if (choice.layout == wanted) return;
        const std::string what = "rows of " + std::to_string(cols) + " are not whole blocks of " +
                                 name_of(wanted) + " (" +
                                 std::to_string(layout_info(wanted).block_elements) + ")";
        if (options_.strict) {
            throw Error(Exit::kUsage, "tensor '" + choice.tensor->name + "'", what,
                        "without --strict it becomes " + name_of(choice.layout));
        }
        choice.reason += (choice.reason.empty() ? "" : "; ") + what;
    }

    void check_source(TensorChoice& choice) const {
        const SourceTensor& tensor = *choice.tensor;
        const auto stored = layout_of(tensor.type());
        if (!stored) {
            throw Error(Exit::kBadData, "tensor '" + escaped(tensor.name) + "'",
                        "its stored type cannot be decoded");
        }
        choice.copied = *stored == choice.layout && tensor.add == 0 && tensor.entry != nullptr;
        if (choice.copied || !is_quantised(*stored) || !is_quantised(choice.layout)) return;
        if (options_.allow_requantize) return;
        throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                    "is stored as " + name_of(*stored) + "; quantising it again to " +
                        name_of(choice.layout) + " adds to its error",
                    "start from f16, bf16 or f32 weights, or give --allow-requantize");
    }

    const ModelSource& source_;
    const QuantizeOptions& options_;
    LayoutId target_;
    std::vector<Rule> rules_;
};

}  // namespace

LayoutId fitting_layout(LayoutId wanted, std::int64_t cols) {
    const auto divides = [&](LayoutId id) { return cols % layout_info(id).block_elements == 0; };
    if (divides(wanted)) return wanted;
    LayoutId narrower = LayoutId::k_f16;
    if (wanted == LayoutId::k_q4_k) narrower = LayoutId::k_q5_0;
    if (wanted == LayoutId::k_q5_k) narrower = LayoutId::k_q5_1;
    if (wanted == LayoutId::k_q6_k) narrower = LayoutId::k_q8_0;
    return divides(narrower) ? narrower : LayoutId::k_f16;
}

std::vector<TensorChoice> choose_formats(const ModelSource& source,
                                         const QuantizeOptions& options) {
    return Chooser(source, options).run();
}

}  // namespace thimble
