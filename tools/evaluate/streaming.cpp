// SPDX-License-Identifier: Apache-2.0
// What evaluate does where the budget is smaller than its models: as many layers of each in memory
// as fit, the others from disk; texts in groups of windows, so that few passes read them.
#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "eval/facts.h"
#include "ops/ops.h"
#include "pipeline.h"

namespace thimble::evaluate {
namespace {

// A layer's work on so many tokens takes longer than reading it; more would only add to what a
// killed run has to do again.
constexpr std::int64_t kMostGroupTokens = 8192;

}  // namespace

// The first of these that fits: what changes no figure, then what does, then what gives some up.
std::string Pipeline::remedy(std::uint64_t limit_bytes) {
    const EvaluateOptions wanted = options;
    std::string change, found;
    std::uint64_t bytes = 0;
    const auto fits = [&](const std::string& next) {
        change += (change.empty() ? "" : " ") + next;
        bytes = memory().total_bytes(Tier::kRam) + baseline_bytes_;
        if (found.empty() && bytes <= limit_bytes) found = change + " needs " + format_bytes(bytes);
    };
    options.batch = std::min<std::int64_t>(options.batch, 64);
    fits("--batch-size 64");
    if (KvEngine::can_store(model_->spec().attention, LayoutId::k_q8_0)) {
        options.kv.type_k = options.kv.type_v = "q8_0";
        fits("--cache-type-k q8_0 --cache-type-v q8_0");
    }
    if (reference_) {
        std::unique_ptr<ModelSource> kept = std::move(reference_);
        setting_.reference = nullptr;
        fits("without --reference");
        reference_ = std::move(kept);
        setting_.reference = &reference_->file();
    }
    options = wanted;
    return !found.empty() ? found
                          : "no change of options fits: even " + change + " needs " +
                                format_bytes(bytes) + "; use a model of fewer bits";
}

// One model's part in a budget.
struct Pipeline::Share {
    const ModelSource* source = nullptr;
    RunnerOptions runner;
    std::uint64_t* bytes = nullptr;    // of its weights
    std::uint64_t least = 0, gap = 0;  // streamed as far as can be, and from there to all; 0: stays
};

std::vector<Pipeline::Share> Pipeline::shares() {
    std::vector<Share> shares = {{model_.get(), model_options(), &weight_bytes_}};
    if (reference_)
        shares.push_back({reference_.get(), reference_options(), &reference_weight_bytes_});
    for (Share& share : shares) {
        const StorePlan whole = Runner::store_plan(*share.source, share.runner);
        share.runner.weight_bytes = 0;
        share.least = Runner::store_plan(*share.source, share.runner).held_bytes();
        if (whole.held_bytes() <= share.least) continue;  // few layers: nothing is saved
        share.gap = whole.held_bytes() + whole.staging_bytes - share.least;
    }
    return shares;
}

// The room that the budget leaves goes to the models by what they lack. False if there is none.
bool Pipeline::share_out(std::vector<Share>& shares, std::uint64_t limit_bytes) {
    double gaps = 0;
    for (const Share& share : shares) {
        if (share.gap > 0) *share.bytes = 0;
        gaps += static_cast<double>(share.gap);
    }
    const std::uint64_t needed = memory().total_bytes(Tier::kRam) + baseline_bytes_;
    if (needed > limit_bytes || gaps == 0) return false;
    const auto room = static_cast<double>(limit_bytes - needed);
    for (Share& share : shares) {
        if (share.gap == 0) continue;
        *share.bytes = share.least +
                       static_cast<std::uint64_t>(room * (static_cast<double>(share.gap) / gaps));
        share.runner.weight_bytes = *share.bytes;
    }
    return true;
}

// Of streamed layers, over all texts.
std::uint64_t Pipeline::read_bytes(const std::vector<Share>& shares) const {
    std::uint64_t streamed = 0;
    for (const Share& share : shares)
        if (share.gap > 0)
            streamed += Runner::store_plan(*share.source, share.runner).streamed_bytes;
    return streamed * static_cast<std::uint64_t>(suite_.passes());
}

// The group of windows with which the least is read. False if none fits: the least is planned then.
bool Pipeline::choose_group(std::vector<Share>& shares, std::uint64_t limit_bytes) {
    const std::int64_t most =
        suite_.has_text() ? std::max<std::int64_t>(kMostGroupTokens / options.kv.context_tokens, 1)
                          : 0;
    std::int64_t best = -1, smallest = 0, passes = -1;
    std::uint64_t least_read = UINT64_MAX, least_held = UINT64_MAX;
    for (std::int64_t group = 0; group <= most; group = std::max<std::int64_t>(2 * group, 1)) {
        setting_.group_windows = group;
        if (group > 1 && suite_.passes() == passes) break;  // it holds all windows already
        passes = suite_.passes();
        if (!share_out(shares, limit_bytes)) {
            const std::uint64_t held = memory().total_bytes(Tier::kRam);
            if (held < least_held) least_held = held, smallest = group;
            if (group > 0) break;
            continue;
        }
        const std::uint64_t read = read_bytes(shares);
        if (best >= 0 && read >= least_read) continue;
        least_read = read;
        best = group;
    }
    setting_.group_windows = best < 0 ? smallest : best;
    return share_out(shares, limit_bytes);
}

void Pipeline::stream_layers(Plan& plan, std::uint64_t limit_bytes,
                             const cli::CommonOptions& common) {
    std::vector<Share> parts = shares();
    const bool fits = choose_group(parts, limit_bytes);
    plan = memory();
    predicted_bytes_ = plan.total_bytes(Tier::kRam) + baseline_bytes_;
    if (!fits) {
        plan.cheapest_change = remedy(limit_bytes);
        return;
    }
    predict_time(plan, common);
    const std::int64_t group = setting_.group_windows;
    const std::string when = group == 0 ? "for every step"
                             : group == 1
                                 ? "once for every window of text"
                                 : "once for every " + std::to_string(group) + " windows of text";
    for (const Share& part : parts) {
        const StorePlan store = Runner::store_plan(*part.source, part.runner);
        if (part.gap > 0 && store.blocks < store.all_blocks) {
            plan.notes.push_back(std::to_string(store.blocks) + " of " +
                                 std::to_string(store.all_blocks) + " blocks of " +
                                 eval::basename_of(part.source->file().path()) + " are loaded");
            log_info(plan.notes.back());
        }
        if (part.gap == 0 || store.streamed_layers == 0) continue;
        plan.notes.push_back(std::to_string(store.streamed_layers) + " of " +
                             std::to_string(part.source->spec().layers) + " layers of " +
                             eval::basename_of(part.source->file().path()) + ", " +
                             format_bytes(store.streamed_bytes) + ", are read from disk " + when);
        log_warning("the weights do not fit: " + plan.notes.back());
    }
}

}  // namespace thimble::evaluate
