// SPDX-License-Identifier: Apache-2.0
#include "train/remedy.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::train {
namespace {

struct Change {
    std::string text;           // as it is to be given, or
    std::string_view offloads;  // what --offload is to be given
    void (*apply)(TrainerOptions& options);
    bool splits_batch = false;
};

// The bytes of a run with these options, by tier; none where they do not go together.
using Bytes = std::array<std::uint64_t, kTiers>;
std::optional<Bytes> bytes_of(const ModelSource& source, const TrainerOptions& options) {
    Plan plan;
    try {
        Trainer::add_to_plan(plan, source, options);
    } catch (const Error&) {
        return std::nullopt;
    }
    Bytes bytes{};
    for (std::size_t t = 0; t < kTiers; ++t) bytes[t] = plan.total_bytes(static_cast<Tier>(t));
    return bytes;
}

std::vector<Change> changes_for(const TrainerOptions& options) {
    const std::int64_t rows =
        options.pass.most_tokens / std::max<std::int64_t>(options.pass.most_document, 1);
    const std::int64_t passes = rows * options.passes * options.ranks->size();
    return {
        {"--loss cut", "", [](TrainerOptions& o) { o.pass.loss = LossKind::kCut; }},
        {"--checkpoint-layers 1", "", [](TrainerOptions& o) { o.pass.checkpoint_layers = 1; }},
        {"", "optimizer=disk", [](TrainerOptions& o) { o.offload.optimizer = "disk"; }},
        {"-b 1 --grad-accumulation " + std::to_string(passes), "",
         [](TrainerOptions& o) {
             const std::int64_t split = o.pass.most_tokens / o.pass.most_document;
             o.passes *= split;
             o.pass.most_tokens = o.pass.most_document;
         },
         true},
        {"", "activations=disk", [](TrainerOptions& o) { o.offload.activations = "disk"; }},
        {"--update-in-backward", "", [](TrainerOptions& o) { o.update_in_backward = true; }},
        {"", "parameters=disk", [](TrainerOptions& o) { o.offload.parameters = "disk"; }},
        {"--method full:weights=bf16", "",
         [](TrainerOptions& o) {
             if (o.method == "full") o.method = "full:weights=bf16";
         }},
        {"--optimizer adamw8bit", "",
         [](TrainerOptions& o) {
             if (o.optimizer == "adamw") o.optimizer = "adamw8bit";
         }},
        {"--method lora", "",
         [](TrainerOptions& o) {
             if (!o.method.starts_with("full")) return;
             o.method = "lora";
             o.update_in_backward = false;
             o.offload.parameters = "memory";
         }},
    };
}

class Search {
  public:
    Search(const ModelSource& source, const TrainerOptions& options, const Plan& plan,
           const Budget& budget)
        : source_(source),
          options_(options),
          budget_(budget),
          changes_(changes_for(options)),
          now_(bytes_of(source, options).value_or(Bytes{})) {
        for (std::size_t t = kTiers; t-- > 0;) {
            beside_[t] = plan.total_bytes(static_cast<Tier>(t)) - now_[t];
            if (!fits(now_, t)) tier_ = t;
        }
    }

    [[nodiscard]] std::string run() {
        const bool fits_now = fits(now_);
        for (std::size_t i = 0; i < changes_.size(); ++i) {
            const auto bytes = with({i});
            if (bytes && saves(*bytes, now_) && (fits_now || fits(*bytes))) return say({i}, *bytes);
        }
        if (fits_now) return "";
        // Passes of a step and an update in backward exclude each other: without the first, too.
        const auto [set, bytes] = together(false);
        if (fits(bytes)) return say(set, bytes);
        const auto [other, fewest] = together(true);
        if (fits(fewest)) return say(other, fewest);
        const bool first = bytes[tier_] < fewest[tier_];
        return (first ? set : other).empty()
                   ? ""
                   : "even " + text_of(first ? set : other) + " would need " +
                         format_bytes(std::min(bytes[tier_], fewest[tier_]) + beside_[tier_]);
    }

  private:
    using Set = std::vector<std::size_t>;

    [[nodiscard]] std::optional<Bytes> with(const Set& set) const {
        TrainerOptions options = options_;
        for (const std::size_t i : set) changes_[i].apply(options);
        return bytes_of(source_, options);
    }
    [[nodiscard]] bool fits(const Bytes& bytes) const {
        for (std::size_t t = 0; t < kTiers; ++t)
            if (!fits(bytes, t)) return false;
        return true;
    }
    [[nodiscard]] bool fits(const Bytes& bytes, std::size_t tier) const {
        const auto& limit = budget_.limit_bytes[tier];
        return !limit || bytes[tier] + beside_[tier] <= *limit;
    }
    [[nodiscard]] bool saves(const Bytes& bytes, const Bytes& than) const {
        return bytes[tier_] < than[tier_];
    }

    // One after the other as long as each saves something, then without those that are not needed.
    [[nodiscard]] std::pair<Set, Bytes> together(bool keeps_batch) const {
        Set set;
        Bytes least = now_;
        for (std::size_t i = 0; i < changes_.size() && !fits(least); ++i) {
            if (keeps_batch && changes_[i].splits_batch) continue;
            Set more = set;
            more.push_back(i);
            const auto bytes = with(more);
            if (!bytes || !saves(*bytes, least)) continue;
            set = more, least = *bytes;
        }
        for (std::size_t at = 0; at < set.size();) {
            Set fewer = set;
            fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(at));
            const auto bytes = with(fewer);
            if (bytes && (fits(*bytes) || (*bytes)[tier_] <= least[tier_])) {
                set = fewer, least = *bytes;
            } else {
                ++at;
            }
        }
        return {set, least};
    }

    // Flags in their order, what is offloaded under one.
    [[nodiscard]] std::string text_of(const Set& set) const {
        std::string offload, text;
        if (options_.offload.has_optimizer()) offload = "optimizer=disk";
        if (options_.offload.has_activations())
            offload += std::string(offload.empty() ? "" : ",") + "activations=disk";
        if (options_.offload.has_parameters())
            offload += std::string(offload.empty() ? "" : ",") + "parameters=disk";
        bool offloads = false;
        for (const std::size_t i : set) {
            const Change& change = changes_[i];
            std::string& to = change.offloads.empty() ? text : offload;
            if (!to.empty()) to += change.offloads.empty() ? " " : ",";
            to += change.offloads.empty() ? change.text : std::string(change.offloads);
            offloads |= !change.offloads.empty();
        }
        if (!offloads) return text;
        return "--offload " + offload + (text.empty() ? "" : " " + text);
    }
    [[nodiscard]] std::string say(const Set& set, const Bytes& bytes) const {
        return text_of(set) + (set.size() > 1 ? " save " : " saves ") +
               format_bytes(now_[tier_] - bytes[tier_]);
    }

    const ModelSource& source_;
    const TrainerOptions& options_;
    const Budget& budget_;
    std::vector<Change> changes_;
    Bytes now_, beside_{};
    std::size_t tier_ = static_cast<std::size_t>(Tier::kRam);  // or the first that does not fit
};

}  // namespace

std::string cheapest_change(const ModelSource& source, const TrainerOptions& options,
                            const Plan& plan, const Budget& budget) {
    return Search(source, options, plan, budget).run();
}

}  // namespace thimble::train
