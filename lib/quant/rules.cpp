// SPDX-License-Identifier: Apache-2.0
#include "quant/rules.h"

#include <algorithm>

#include "core/error.h"
#include "core/strings.h"
#include "quant/mixes.h"
#include "quant/name_rules.h"

namespace thimble {
namespace {

double bits(LayoutId layout) { return format_of(layout).info().nominal_bits_per_weight; }
bool is_quantised(LayoutId layout) { return layout_info(layout).block_elements > 1; }
std::string name_of(LayoutId layout) { return layout_info(layout).name; }
std::string name_of(TensorType type) { return std::string(find_tensor_type(type)->name); }

LayoutId layout_named(const std::string& name, const char* flag) {
    return weight_formats().get(to_lower(name), flag).info().layout;
}

// The layout of a type that a mix or a fallback asks for.
LayoutId writable(TensorType type, const std::string& who) {
    if (const auto layout = layout_of(type)) return *layout;
    throw Error(Exit::kUsage, who, "needs " + name_of(type) + ", which cannot be written yet",
                "choose another --format, or name one with --tensor-type");
}

// What a format becomes for rows of `cols`.
LayoutId fitting_layout(LayoutId wanted, std::int64_t cols, const std::string& who) {
    if (cols % layout_info(wanted).block_elements == 0) return wanted;
    const auto type = tensor_type_of(wanted);
    return type ? writable(fitting_type(*type, cols), who) : LayoutId::k_f16;
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

LayoutId base_layout(const Mix* mix, const QuantizeOptions& options) {
    if (options.copies()) return LayoutId::k_f32;  // of tensors that the container lacks
    return mix ? writable(mix->base, "--format " + options.format)
               : layout_named(options.format, "--format");
}

class Chooser {
  public:
    Chooser(const ModelSource& source, const QuantizeOptions& options, const AdapterMerge& merge)
        : source_(source),
          options_(options),
          merge_(merge),
          mix_(options.copies() ? nullptr : find_mix(to_lower(options.format))),
          base_(base_layout(mix_, options)),
          rules_(options.tensor_type) {}

    std::vector<TensorChoice> run() {
        const std::vector<TensorType> mixed = mixed_by_matrix();
        std::vector<TensorChoice> choices;
        auto type = mixed.begin();
        for (const SourceTensor& tensor : source_.tensors()) {
            choices.push_back({.tensor = &tensor});
            if (!tensor.is_matrix) {
                if (keeps_vectors_) choices.back().layout = tensor.layout();
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
        if (mix_ == nullptr || options_.pure) return {};
        std::vector<MixTensor> matrices;
        for (const SourceTensor& tensor : source_.tensors()) {
            if (tensor.is_matrix) matrices.push_back({tensor.name, tensor.cols()});
        }
        MixModel model = facts_of(source_);
        model.importance = !options_.imatrix.empty();
        return mixed_types(*mix_, model, matrices);
    }

    // `mixed` is what the mix says, null without one.
    void choose(TensorChoice& choice, const TensorType* mixed) {
        const std::string& name = choice.tensor->name;
        const bool head = is_head(name, source_.spec().tied_embedding);
        const NameRule* rule = rules_.match(name);
        choice.layout = options_.copies() ? choice.tensor->layout() : base_;
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
            choice.layout = rule->layout;
            choice.reason = "--tensor-type " + rule->text;
        } else if (mixed != nullptr && *mixed != mix_->base) {
            choice.layout = writable(*mixed, "'" + name + "' in the mix " + options_.format);
            choice.reason = "mix " + std::string(mix_->name);
        } else if (mix_ == nullptr && !options_.copies() && !options_.pure && head &&
                   bits(base_) < 6) {
            choice.layout = LayoutId::k_q6_k;
            choice.reason = "output head";
        }
    }

    void leave(TensorChoice& choice) {
        left_ = true;
        choice.layout = choice.tensor->layout();
        choice.reason = "--leave-output-tensor";
    }

    static void take(TensorChoice& choice, const char* flag, const std::string& format) {
        choice.layout = layout_named(format, flag);
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
        const LayoutId wanted = choice.layout;
        const std::int64_t cols = choice.tensor->cols();
        choice.layout = fitting_layout(wanted, cols, "'" + choice.tensor->name + "'");
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
        const LayoutId stored = tensor.layout();
        choice.merged = merge_.changes(tensor);
        choice.copied =
            !choice.merged && stored == choice.layout && tensor.add == 0 && tensor.is_stored();
        if (!choice.copied && !format_of(choice.layout).info().encodes) {
            throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                        "there is no encoder for " + name_of(choice.layout) +
                            ": matrices in it come from files that have them",
                        "choose another --format");
        }
        if (choice.copied || !is_quantised(stored) || !is_quantised(choice.layout)) return;
        choice.requantized = true;
        if (options_.allow_requantize) return;
        throw Error(Exit::kUsage, "tensor '" + tensor.name + "'",
                    "is stored as " + name_of(stored) + "; quantising it again to " +
                        name_of(choice.layout) + " adds to its error",
                    choice.merged ? "merge into f16, bf16 or f32 weights, or give "
                                    "--allow-requantize"
                                  : "start from f16, bf16 or f32 weights, keep them with --format "
                                    "copy, or give --allow-requantize");
    }

    const ModelSource& source_;
    const QuantizeOptions& options_;
    const AdapterMerge& merge_;
    const Mix* mix_;
    LayoutId base_;
    NameRules rules_;
    // Other readers of GGUF want vectors in f32; what was stored otherwise stays so in its own
    // container only.
    bool keeps_vectors_ = options_.copies() &&
                          (options_.wants_hf() || source_.file().container() == Container::kGguf);
    bool output_set_ = false, embedding_set_ = false, left_ = false;
};

}  // namespace

std::vector<std::string> target_names() {
    std::vector<std::string> names = {QuantizeOptions::kCopy};
    for (const Mix& mix : mixes()) {
        if (!layout_of(mix.base)) continue;
        names.emplace_back(mix.name);
        if (!mix.alias.empty()) names.emplace_back(mix.alias);
    }
    for (const auto& format : weight_formats().items()) {
        if (format->info().encodes && find_mix(format->name()) == nullptr)
            names.emplace_back(format->name());
    }
    return names;
}

std::optional<std::uint32_t> file_type_of(const QuantizeOptions& options) {
    const Mix* mix = find_mix(to_lower(options.format));
    return mix == nullptr ? std::nullopt : std::optional(mix->file_type);
}

std::vector<TensorChoice> choose_formats(const ModelSource& source, const QuantizeOptions& options,
                                         const AdapterMerge& merge) {
    return Chooser(source, options, merge).run();
}

}  // namespace thimble
