// SPDX-License-Identifier: Apache-2.0
// What passes through a model's layers: how much each changes it, and the few values that are
// thousands of times larger than the rest, which decide how well a model takes coarser activations,
// and which tokens no policy should touch. Without writing anything.
//
// Massive activations: "Massive Activations in Large Language Models" (2024): above 100 in size and
// a thousand times the median of their layer.
#pragma once

#include <optional>
#include <vector>

#include "io/json.h"
#include "prune/calibration.h"

namespace thimble::prune {

// One value of the residual stream.
struct Extreme {
    double value = 0;
    std::int64_t text = 0, token = 0;  // which text, and its place there
    std::int32_t id = 0;               // of the token
    std::int64_t dim = 0;
};

// What comes out of a layer; means over texts.
struct LayerActivity {
    double influence = 0;                 // 1 - mean cosine of what it reads and what it leaves
    double top = 0, median = 0;           // largest size, and the median of sizes
    std::vector<Extreme> extremes;        // the three largest, of different dimensions
    std::int64_t texts = 0, massive = 0;  // texts, and those with a massive value
    bool same_dim = true;                 // the largest value is of one dimension in all texts
    [[nodiscard]] double ratio() const noexcept { return median > 0 ? top / median : 0; }
};

struct Activity {
    std::vector<LayerActivity> layers;
    // The first layer whose output has a massive value in most texts, and the last.
    [[nodiscard]] std::optional<std::int64_t> first_massive() const, last_massive() const;
    [[nodiscard]] Json json() const;
};

inline constexpr double kMassive = 100, kMassiveRatio = 1000;
[[nodiscard]] Activity watch_activity(Runner& runner, const Texts& texts, const Progress& progress);
// The median of the sizes of `count` values, exact: of an even number the lower one.
[[nodiscard]] float median_size(const float* values, std::size_t count,
                                std::vector<float>& scratch);
// Besides the runner.
void add_activity_to_plan(Plan& plan, const ModelSource& source, std::int64_t longest);

}  // namespace thimble::prune
