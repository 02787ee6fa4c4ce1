// SPDX-License-Identifier: Apache-2.0
// Drops whole layers: those named, or those that change least what passes through them.
// "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2024), eq. 1.
// differs: the first two layers and the last stay unless asked for, and layers can be dropped as
// one run (the least change from its first to its last), or one by one with what is left measured
// again.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "prune/pruner.h"

namespace thimble::prune {
namespace {

// "7" or "20-23".
std::pair<std::int64_t, std::int64_t> range_of(const std::string& text, std::string_view where) {
    std::int64_t first = 0, last = 0;
    const char *at = text.data(), *const end = at + text.size();
    auto parsed = std::from_chars(at, end, first);
    last = first;
    if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == '-')
        parsed = std::from_chars(parsed.ptr + 1, end, last);
    if (parsed.ec != std::errc() || parsed.ptr != end || first < 0 || last < first) {
        throw Error(Exit::kUsage, std::string(where),
                    "'" + escaped(text) + "' is no layer and no range of layers",
                    "write drop=7 or drop=20-23");
    }
    return {first, last};
}

class Layers final : public Pruner {
  public:
    static constexpr const char* kName = "layers";
    static constexpr const char* kHelp = "drop layers: named ones, or those that change least";
    struct Options {
        std::int64_t count = 0, first = 2, last = 1;
        double ratio = 0;
        std::vector<std::string> drop;
        bool contiguous = false, greedy = false;
        void visit(OptionVisitor& v) {
            v.option({.name = "count", .help = "layers to drop", .least = 0, .most = 4096}, count);
            v.option({.name = "ratio", .help = "or their share", .least = 0, .most = 1}, ratio);
            v.option({.name = "drop",
                      .help = "or these: a layer or a range of layers, from 0; may be repeated",
                      .value = "N|N-M"},
                     drop);
            v.option({.name = "contiguous", .help = "layers that follow one another"}, contiguous);
            v.option({.name = "greedy", .help = "measure again after each layer that is dropped"},
                     greedy);
            v.option({.name = "first", .help = "first layers that stay", .least = 0, .most = 4096},
                     first);
            v.option({.name = "last", .help = "last layers that stay", .least = 0, .most = 4096},
                     last);
        }
    };
    Layers(const Options& options, std::string_view where) : options_(options), where_(where) {
        const int ways = (options.count > 0 ? 1 : 0) + (options.ratio > 0 ? 1 : 0) +
                         (options.drop.empty() ? 0 : 1);
        if (ways > 1)
            throw Error(Exit::kUsage, where_, "count, ratio and drop exclude one another");
        if (options.contiguous && options.greedy)
            throw Error(Exit::kUsage, where_, "contiguous and greedy exclude one another");
        if (!options.drop.empty() && (options.contiguous || options.greedy))
            throw Error(Exit::kUsage, where_, "drop names the layers: nothing is measured");
    }

    [[nodiscard]] Needs needs() const override {
        Needs needs;
        // A ratio of a number of layers that is not known yet: no run is longer than this.
        if (options_.count > 0 || options_.ratio > 0)
            needs.span = options_.contiguous ? std::max<std::int64_t>(options_.count, 1) : 1;
        return needs;
    }

    [[nodiscard]] Cut most(const ModelConfig& config) const override {
        Cut cut = whole(config);
        cut.layers.resize(static_cast<std::size_t>(config.layers - dropped(config)));
        return cut;
    }

    [[nodiscard]] Cut cut(Calibration& calibration) const override {
        const ModelConfig& config = calibration.source().config();
        Cut cut = whole(config);
        const std::int64_t count = dropped(config);
        if (!options_.drop.empty()) {
            const std::vector<bool> gone = named(config);
            std::erase_if(cut.layers, [&](std::int64_t layer) {
                return gone[static_cast<std::size_t>(layer)];
            });
        } else if (options_.contiguous && count > 0) {
            std::vector<double> scores = calibration.influence(cut.layers, count);
            drop(cut.layers, scores, count);
        } else {
            std::vector<double> scores;
            for (std::int64_t done = 0; done < count; ++done) {
                if (done == 0 || options_.greedy) scores = calibration.influence(cut.layers, 1);
                drop(cut.layers, scores, 1);
            }
        }
        return cut;
    }

  private:
    [[nodiscard]] std::vector<bool> named(const ModelConfig& config) const {
        std::vector<bool> gone(static_cast<std::size_t>(config.layers));
        for (const std::string& text : options_.drop) {
            const auto [first, last] = range_of(text, where_);
            if (last >= config.layers) {
                throw Error(Exit::kUsage, where_,
                            "drop=" + text + ": the model's layers are 0 to " +
                                std::to_string(config.layers - 1));
            }
            std::fill(gone.begin() + first, gone.begin() + last + 1, true);
        }
        return gone;
    }

    [[nodiscard]] std::int64_t dropped(const ModelConfig& config) const {
        std::int64_t count = options_.count;
        if (options_.ratio > 0)
            count = std::llround(options_.ratio * static_cast<double>(config.layers));
        if (!options_.drop.empty()) {
            const std::vector<bool> gone = named(config);
            count = std::count(gone.begin(), gone.end(), true);
            if (count == config.layers) throw Error(Exit::kUsage, where_, "drop leaves no layer");
            return count;
        }
        if (count == 0) return 0;
        const std::int64_t open = config.layers - options_.first - options_.last;
        if (count > open) {
            throw Error(Exit::kUsage, where_,
                        std::to_string(count) + " layers are to go, and of " +
                            std::to_string(config.layers) + " the first " +
                            std::to_string(options_.first) + " and the last " +
                            std::to_string(options_.last) + " stay",
                        "drop fewer, or set first and last");
        }
        return count;
    }

    // The run of `count` layers with the least score goes, and its score; of equal ones the first.
    void drop(Kept& layers, std::vector<double>& scores, std::int64_t count) const {
        const std::int64_t end = std::ssize(layers) - options_.last - count;
        std::int64_t least = options_.first;
        for (std::int64_t i = least; i <= end; ++i) {
            if (scores[static_cast<std::size_t>(i)] < scores[static_cast<std::size_t>(least)])
                least = i;
        }
        layers.erase(layers.begin() + least, layers.begin() + least + count);
        scores.erase(scores.begin() + least);
    }
    Options options_;
    std::string where_;
};

}  // namespace

std::unique_ptr<PrunerType> make_layers_pruner() { return make_pruner_type<Layers>(); }

}  // namespace thimble::prune
