// SPDX-License-Identifier: Apache-2.0
#include "train/step_work.h"

#include <algorithm>
#include <cmath>

#include "ops/gradients.h"
#include "train/slot_store.h"

namespace thimble::train {
namespace {

// Bytes that are read and written to make a matrix into an operand, once; 0 where it is one.
double operand_bytes(const Exec& exec, LayoutId layout, std::int64_t elements, double stored) {
    const bool rounds = exec.activations == Activations::kBf16;
    const bool has_bf16 = rounds && ops::has_bf16_products(exec.isa);
    if (layout == LayoutId::k_f32 && !rounds) return 0;
    if (layout == LayoutId::k_bf16 && has_bf16) return 0;
    return stored + static_cast<double>(elements) * 2 * (has_bf16 ? 2 : 4);
}

struct Uses {
    double layers = 0, head = 0;  // of each matrix in one pass
};

double operand_bytes_of_pass(const StepFacts& facts, const Uses& uses) {
    double sum = 0;
    for (std::size_t u = 1; u < facts.units.size(); ++u) {  // rows of the embedding are copied
        const bool head = u + 1 == facts.units.size();
        const UnitId id = head ? UnitId{UnitKind::kHead, 0}
                               : UnitId{UnitKind::kLayer, static_cast<std::int64_t>(u) - 1};
        for (std::size_t i = 0; i < facts.units[u].matrices.size(); ++i) {
            const SourceTensor& tensor = *facts.units[u].matrices[i].weight;
            const auto trained = facts.parameters.find({id, ParameterId::Part::kMatrix, i, 0});
            const Parameter* p = trained ? &facts.parameters.items()[*trained] : nullptr;
            const auto stored =
                static_cast<double>(p ? p->value_bytes() : tensor.form.bytes(tensor.rows()));
            sum += (head ? uses.head : uses.layers) *
                   operand_bytes(facts.exec, p ? p->packed().layout : tensor.layout(),
                                 tensor.rows() * tensor.cols(), stored);
        }
    }
    return sum;
}

// Gradients are cleared, added to by each pass, summed up for their norm and used.
double update_bytes(const StepFacts& facts, double passes) {
    double sum = 0;
    for (const Parameter& p : facts.parameters.items()) {
        const auto n = static_cast<double>(p.info.elements());
        const auto state = static_cast<double>(facts.optimizer.state_bytes(p.info));
        sum +=
            n * 4 * (1 + 2 * passes + 1 + 1) + 2 * static_cast<double>(p.value_bytes()) + 2 * state;
    }
    return sum;
}

// Elements of adapters times the products that each is part of.
double low_rank_uses(const StepFacts& facts, double forwards) {
    double sum = 0;
    for (const Parameter& p : facts.parameters.items()) {
        const bool adapter = p.tensor == nullptr && p.info.shape.rows > 1;
        const bool is_a = p.name.ends_with(".lora_a");
        if (adapter)
            sum += static_cast<double>(p.info.elements()) * (forwards + (is_a ? 3.0 : 2.0));
    }
    return sum;
}

}  // namespace

cost::TrainingWork step_work(const StepFacts& facts) {
    const TrainerOptions& options = facts.options;
    const auto layers = static_cast<double>(facts.source.spec().layers);
    const auto passes = static_cast<double>(options.passes);
    const double whole = facts.trains_model ? 1 : 0;
    const bool cut = options.pass.loss == LossKind::kCut;
    // Those behind the last checkpoint are not computed twice.
    const auto segment = static_cast<double>(options.pass.checkpoint_layers);
    const double again =
        segment > 0 ? std::max(0.0, (std::ceil(layers / segment) - 1) * segment / layers) : 0;
    cost::TrainingWork work;
    work.tokens = options.pass.most_tokens * options.passes;
    work.document = options.pass.most_document;
    work.runs = facts.in_backward && options.most_norm > 0 ? 2 : 1;
    work.layer_forwards = 1 + again;
    work.layer_passes = work.layer_forwards + 1 + whole;
    work.head_passes = 2 + (cut ? 1 : 0) + whole;
    work.low_rank_uses = low_rank_uses(facts, work.layer_forwards);
    work.bf16 = options.bf16;
    const double blocks = static_cast<double>(
        loss_blocks(options.pass.loss, options.pass.most_tokens, facts.source.spec().vocab));
    work.operand_bytes =
        passes * operand_bytes_of_pass(facts, {work.layer_forwards + 1, blocks * (cut ? 3 : 2)});
    work.update_bytes = update_bytes(facts, passes);
    work.in_backward = facts.in_backward;
    // Layers' values are read on the way up and on the way down.
    const auto pages = static_cast<double>(facts.parameters.page_bytes().disk);
    const auto kept = static_cast<double>(facts.bytes.saved.disk + facts.bytes.checkpoints.disk);
    if (options.offload.has_parameters()) work.passes = {2 * work.runs * pages, pages};
    work.passes.read_bytes += work.runs * passes * kept;
    work.passes.written_bytes += work.runs * passes * kept;
    if (options.offload.has_optimizer()) {
        const auto state =
            static_cast<double>(memory_slot_bytes(facts.parameters, facts.optimizer));
        work.state = {state, state};
    }
    return work;
}

}  // namespace thimble::train
