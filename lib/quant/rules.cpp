// SPDX-License-Identifier: Apache-2.0
#include "quant/rules.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"
#include "kernels/layout/sparse.h"
#include "quant/mixes.h"
#include "quant/name_rules.h"

namespace thimble {
namespace {

double bits(const WeightFormat& format) { return format.info().nominal_bits_per_weight; }
bool is_quantised(LayoutId layout) { return layout_info(layout).block_elements > 1; }
// Those of layout sparse may be floats.
bool has_codes(const PackedForm& form) {
    return is_quantised(form.layout) && (form.layout != LayoutId::k_sparse ||
                                         Layout<LayoutId::k_sparse>::has_codes(form.params));
}
std::string name_of(LayoutId layout) { return layout_info(layout).name; }
std::string name_of(TensorType type) { return std::string(find_tensor_type(type)->name); }

// The format of a type that a mix or a fallback asks for.
SharedFormat writable(TensorType type, const std::string& who) {
    if (const auto layout = layout_of(type)) return shared_format_of(*layout);
    throw Error(Exit::kUsage, who, "needs " + name_of(type) + ", which cannot be written yet",
                "choose another --format, or name one with --tensor-type");
}

// What a format becomes for rows of `cols`.
SharedFormat fitting_format(const SharedFormat& wanted, std::int64_t cols, const std::string& who) {
    if (cols % wanted->info().block_elements == 0) return wanted;
    const auto type = tensor_type_of(wanted->info().layout);
    return type ? writable(fitting_type(*type, cols), who) : shared_format_of(LayoutId::k_f16);
}

MixModel facts_of(const ModelSource& source) {
    const ModelSpec& spec = source.spec();
    MixModel model;
    model.architecture = spec.architecture;
    model.layers = spec.layers;
    model.tied_embedding = spec.tied_embedding;
    if (!spec.attention.empty()) {
        model.heads = spec.attention.front().shape.heads;
        model.kv_heads = spec.attention.front().shape.kv_heads;
    }
    return model;
}

SharedFormat base_format(const Mix* mix, const QuantizeOptions& options) {
    // What is copied counts only for tensors that the container lacks.
    if (options.copies()) return shared_format_of(LayoutId::k_f32);
    if (mix != nullptr) return writable(mix->base, "--format " + options.format);
    std::vector<std::string> names;
    for (const InlineForm& form : target_forms()) names.push_back(form.name);
    const std::string name = to_lower(options.format.substr(0, options.format.find(':')));
    if (std::find(names.begin(), names.end(), name) == names.end()) {
        throw Error(Exit::kUsage, "--format", "unknown format '" + escaped(options.format) + "'",
                    did_you_mean(name, names));
    }
    return make_format(options.format, "--format");
}

class Chooser {
  public:
    Chooser(const ModelSource& source, const QuantizeOptions& options, const AdapterMerge& merge,
            const Folding& folding)
        : source_(source),
          options_(options),
          merge_(merge),
          folding_(folding),
          mix_(options.copies() ? nullptr : find_mix(to_lower(options.format))),
          base_(base_format(mix_, options)),
          rules_(options.tensor_type) {}

    std::vector<TensorChoice> run() {
        const std::vector<TensorType> mixed = mixed_by_matrix();
        std::vector<TensorChoice> choices;
        auto type = mixed.begin();
        for (const SourceTensor& tensor : source_.tensors()) {
            choices.push_back({.tensor = &tensor, .fold = folding_.of(tensor)});
            if (!tensor.is_matrix) {
                if (keeps_vectors_) choices.back().format = shared_format_of(tensor.layout());
                if (base_->info().doubles) choices.back().format = base_;
                continue;
            }
            choose(choices.back(), mixed.empty() ? nullptr : &*type++);
            fit(choices.back());
        }
        rules_.refuse_idle(source_);
        refuse_idle_options();
        for (TensorChoice& choice : choices) {
            if (choice.tensor->is_matrix) check_source(choice);
        }
        return choices;
    }

  private:
    // Empty where no mix applies.
    [[nodiscard]] std::vector<TensorType> mixed_by_matrix() const {
        if (mix_ == nullptr || options_.pure || is_ternary_model()) return {};
        std::vector<MixTensor> matrices;
        for (const SourceTensor& tensor : source_.tensors()) {
            if (tensor.is_matrix) matrices.push_back({tensor.name, tensor.cols()});
        }
        MixModel model = facts_of(source_);
        model.importance = !options_.imatrix.empty();
        return mixed_types(*mix_, model, matrices);
    }

    // Mixes give more bits to what suffers most from few; here all matrices have as few.
    [[nodiscard]] bool is_ternary_model() const {
        const auto rules = source_.architecture().tensors;
        return std::any_of(rules.begin(), rules.end(), [](const TensorRule& rule) {
            return rule.transform == HfTransform::kTernary;
        });
    }

    // `mixed` is what the mix says, null without one.
    void choose(TensorChoice& choice, const TensorType* mixed) {
        const std::string& name = choice.tensor->name;
        const bool head = is_head(name, source_.spec().tied_embedding);
        const NameRule* rule = rules_.match(name);
        choice.format = options_.copies() ? shared_format_of(choice.tensor->layout()) : base_;
        if (name == "output.weight" && options_.leave_output_tensor) {
            leave(choice);
        } else if (name == "token_embd.weight" && !options_.token_embedding_type.empty()) {
            take(choice, "--token-embedding-type", options_.token_embedding_type);
            embedding_set_ = true;
        } else if (head && !options_.output_tensor_type.empty() &&
                   (rule == nullptr || name == "output.weight")) {
            take(choice, "--output-tensor-type", options_.output_tensor_type);
            output_set_ = true;
        } else if (rule != nullptr) {
            choice.format = rule->format;
            choice.reason = "--tensor-type " + rule->text;
        } else if (mixed != nullptr && *mixed != mix_->base) {
            choice.format = writable(*mixed, "'" + name + "' in the mix " + options_.format);
            choice.reason = "mix " + std::string(mix_->name);
        } else if (name == "token_embd.weight" && is_ternary_model() && !options_.copies() &&
                   !options_.pure && is_quantised(base_->info().layout)) {
            choice.format = shared_format_of(LayoutId::k_f16);
            choice.reason = "all but the embedding is ternary";
        } else if (mix_ == nullptr && !options_.copies() && !options_.pure && head &&
                   bits(*base_) < 6 && !is_ternary_model()) {
            choice.format = shared_format_of(LayoutId::k_q6_k);
            choice.reason = "output head";
        }
    }

    void leave(TensorChoice& choice) {
        left_ = true;
        choice.format = shared_format_of(choice.tensor->layout());
        choice.reason = "--leave-output-tensor";
    }

    static void take(TensorChoice& choice, const char* flag, const std::string& format) {
        choice.format = make_format(format, flag);
        choice.reason = std::string(flag) + " " + to_lower(format);
    }

    void refuse_idle_options() const {
        const bool tied = source_.spec().tied_embedding;
        const char* idle = nullptr;
        if (!options_.token_embedding_type.empty() && !embedding_set_)
            idle = "--token-embedding-type";
        if (!options_.output_tensor_type.empty() && !output_set_) idle = "--output-tensor-type";
        if (options_.leave_output_tensor && !left_) idle = "--leave-output-tensor";
        if (idle == nullptr) return;
        throw Error(Exit::kUsage, idle, "concerns no matrix of the model",
                    tied ? "its head is token_embd.weight: leave it to one option or rule"
                         : "another option decides about that matrix");
    }

    void fit(TensorChoice& choice) const {
        const SharedFormat wanted = choice.format;
        const std::int64_t cols = choice.tensor->cols();
        choice.format = fitting_format(wanted, cols, "'" + choice.tensor->name + "'");
        if (choice.format == wanted) return;
        const std::string what = "rows of " + std::to_string(cols) + " are not whole blocks of " +
                                 std::string(wanted->name()) + " (" +
                                 std::to_string(wanted->info().block_elements) + ")";
        if (options_.strict) {
            throw Error(Exit::kUsage, "tensor '" + choice.tensor->name + "'", what,
                        "without --strict it becomes " + std::string(choice.format->name()));
        }
        choice.reason += (choice.reason.empty() ? "" : "; ") + what;
    }

    void check_source(TensorChoice& choice) const {
        const SourceTensor& tensor = *choice.tensor;
        const LayoutId stored = tensor.layout();
        choice.merged = merge_.changes(tensor);
        choice.copied = !choice.rewritten() && stored == choice.layout() && tensor.add == 0 &&
                        tensor.is_stored();
        if (!choice.copied && !choice.format->info().encodes) {
            throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                        "there is no encoder for " + std::string(choice.format->name()) +
                            ": matrices in it come from files that have them",
                        "choose another --format");
        }
        const Shape2 shape{tensor.rows(), tensor.cols()};
        if (choice.copied || !has_codes(tensor.form) || !has_codes(form_of(*choice.format, shape)))
            return;
        choice.requantized = true;
        if (options_.allow_requantize) return;
        throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                    "is stored as " + name_of(stored) + "; quantising it again to " +
                        std::string(choice.format->name()) + " adds to its error",
                    choice.merged ? "merge into f16, bf16 or f32 weights, or give "
                                    "--allow-requantize"
                    : choice.fold ? "rewrite f16, bf16 or f32 weights, or give --allow-requantize"
                                  : "start from f16, bf16 or f32 weights, keep them with --format "
                                    "copy, or give --allow-requantize");
    }

    const ModelSource& source_;
    const QuantizeOptions& options_;
    const AdapterMerge& merge_;
    const Folding& folding_;
    const Mix* mix_;
    SharedFormat base_;
    NameRules rules_;
    // Other readers of GGUF want vectors in f32; what was stored otherwise stays so in its own
    // container only.
    bool keeps_vectors_ = options_.copies() &&
                          (options_.wants_hf() || source_.file().container() == Container::kGguf);
    bool output_set_ = false, embedding_set_ = false, left_ = false;
};

}  // namespace

std::vector<InlineForm> target_forms() {
    std::vector<InlineForm> forms = {{QuantizeOptions::kCopy, {}}};
    for (const Mix& mix : mixes()) {
        if (!layout_of(mix.base)) continue;
        forms.push_back({std::string(mix.name), {}});
        if (!mix.alias.empty()) forms.push_back({std::string(mix.alias), {}});
    }
    const auto add = [&](std::string_view name, const WeightFormat& format) {
        forms.push_back(
            {std::string(name), list_options([&](OptionVisitor& v) { format.visit_options(v); })});
    };
    for (const auto& format : weight_formats().items()) {
        if (format->info().encodes && find_mix(format->name()) == nullptr)
            add(format->name(), *format);
    }
    for (const FormatAlias& alias : format_aliases())
        add(alias.name, *make_format(alias.spec, "format"));
    return forms;
}

std::optional<std::uint32_t> file_type_of(const QuantizeOptions& options) {
    const Mix* mix = find_mix(to_lower(options.format));
    return mix == nullptr ? std::nullopt : std::optional(mix->file_type);
}

std::vector<TensorChoice> choose_formats(const ModelSource& source, const QuantizeOptions& options,
                                         const AdapterMerge& merge, const Folding& folding) {
    return Chooser(source, options, merge, folding).run();
}

}  // namespace thimble
