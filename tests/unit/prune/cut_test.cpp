// SPDX-License-Identifier: Apache-2.0
// Which layers keep how many parts, by hand, and the numbers of what is left.
#include "prune/cut.h"

#include <doctest/doctest.h>

#include <numeric>

using namespace thimble;
using namespace thimble::prune;

using Counts = std::vector<std::int64_t>;

TEST_CASE("cut: of all layers the parts stay that are most of their own layer") {
    // Shares: 0.5 0.3 0.1 0.1, and of a layer a hundred times as strong 0.9 0.05 0.05 0.
    const std::vector<std::vector<double>> values = {{5, 3, 1, 1}, {900, 50, 50, 0}};
    CHECK(share_out(values, 8, {1, 1}) == Counts{4, 4});
    CHECK(share_out(values, 5, {1, 1}) == Counts{4, 1});
    CHECK(share_out(values, 3, {1, 1}) == Counts{2, 1});
    CHECK(share_out(values, 5, {1, 2}) == Counts{3, 2});
    CHECK(share_out(values, 5, {0, 9}) == Counts{1, 4});
    CHECK(share_out(values, 0, {1, 1}) == Counts{1, 1});
    // Nothing adds anything: the first stay.
    CHECK(share_out({{0, 0}, {0, 0}}, 3, {1, 1}) == Counts{2, 1});
}

TEST_CASE("cut: a plan spreads parts evenly, and takes layers to differ") {
    CHECK(spread({4, 4, 4}, 6) == Counts{3, 2, 1});
    CHECK(spread({4, 4}, 7) == Counts{4, 3});
    CHECK(spread({8, 4}, 6) == Counts{4, 2});
    CHECK(spread({4, 4}, 8) == Counts{4, 4});
    for (std::int64_t count = 3; count <= 12; ++count) {
        const Counts kept = spread({4, 4, 4}, count);
        CHECK(std::accumulate(kept.begin(), kept.end(), std::int64_t{0}) == count);
    }
}

TEST_CASE("cut: the config says what each layer keeps, or one number where they are alike") {
    ModelConfig config;
    config.layers = 3, config.ffn = 8, config.heads = 4, config.kv_heads = 2, config.head_dim = 2;
    config.windowed.assign(3, false);
    Cut cut = whole(config);
    CHECK(config_after(cut, config).sizes.empty());
    cut.of[0].channels = Kept{0, 7};
    cut.of[2].heads = Kept{0, 1}, cut.of[2].kv_heads = Kept{0};
    const ModelConfig after = config_after(cut, config);
    CHECK(after.sizes == std::vector<LayerSizes>{{2, 4, 2}, {8, 4, 2}, {8, 2, 1}});
    CHECK(after.ffn == 8);
    CHECK(after.heads == 4);
    // Without the layers that differ.
    cut.layers = {1};
    CHECK(config_after(cut, config).sizes.empty());
    // Cut again: gate and up in one matrix follow the width of their layer.
    Cut again = whole(after);
    again.of[0].channels = Kept{1};
    CHECK(*kept_of(Extent::kTwoFfn, 0, again, after) == Kept{1, 3});
    CHECK(config_after(again, after).sizes.front() == LayerSizes{1, 4, 2});
}
