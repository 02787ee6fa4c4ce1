// SPDX-License-Identifier: Apache-2.0
// The nearest points of a codebook type's grid, for sixteen octets of weights at once, one per
// lane: all points are tried. A point's error is that of its low half plus that of its high half,
// and few halves differ: their errors are tabulated, and of the points that share a high half only
// the best low half is added to it.
// Where the signs must be even and the weights' own are odd, the cheapest sign is turned: that of a
// weight of the low half or of the high half, so a half has a second table, with its cheapest turn.
#pragma once

#include "kernels/encode/search.h"
#include "kernels/layout/iq.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

constexpr float kNever = 3e38f;  // above every error

// Eight weights per lane, each x ~ step * (value + shift).
struct Octets {
    float x[8][kLanes];  // magnitudes, where signs are stored beside the point
    float w[8][kLanes];  // importance
    float step[kLanes], shift[kLanes];
    float turn[kLanes];  // 4 where one sign must be turned, else 0
};

// The points of a grid in runs that share their high half. A half is numbered by its digits, to
// base Grid::kLevels. Runs are filled up to whole fours with their first point.
template <class Grid>
struct Runs {
    static constexpr int kPoints = static_cast<int>(sizeof Grid::kPoints / sizeof(std::uint16_t));
    static constexpr int kDigits = Grid::kWeights / 2, kBits = Grid::kBits * kDigits;
    static constexpr int half_of(int bits) {
        int half = 0;
        for (int k = kDigits; k-- > 0;)
            half = half * Grid::kLevels + (bits >> (Grid::kBits * k) & ((1 << Grid::kBits) - 1));
        return half;
    }
    static constexpr int kPairs = Grid::kLevels * Grid::kLevels;
    static constexpr int kHalves = kDigits == 2 ? kPairs : kPairs * kPairs;

    int count = 0;
    std::uint16_t point[kHalves + 1] = {};  // the first of the run
    std::uint16_t start[kHalves + 1] = {};  // its place in low
    std::uint8_t high[kHalves] = {}, low[kPoints + 3 * kHalves] = {};
};
template <class Grid>
constexpr Runs<Grid> make_runs() {
    using R = Runs<Grid>;
    R runs;
    int at = 0;
    for (int i = 0; i < R::kPoints;) {
        const int high = Grid::kPoints[i] >> R::kBits;
        runs.point[runs.count] = static_cast<std::uint16_t>(i);
        runs.start[runs.count] = static_cast<std::uint16_t>(at);
        runs.high[runs.count++] = static_cast<std::uint8_t>(R::half_of(high));
        const int first = at;
        for (; i < R::kPoints && Grid::kPoints[i] >> R::kBits == high; ++i)
            runs.low[at++] = static_cast<std::uint8_t>(R::half_of(Grid::kPoints[i]));
        for (; at % 4 != 0; ++at) runs.low[at] = runs.low[first];
    }
    runs.point[runs.count] = R::kPoints;
    runs.start[runs.count] = static_cast<std::uint16_t>(at);
    return runs;
}
template <class Grid>
static constexpr Runs<Grid> kRuns = make_runs<Grid>();

// The errors of half a point; and with one sign turned.
template <class Grid>
struct HalfErrors {
    float plain[Runs<Grid>::kHalves][kLanes], turned[Runs<Grid>::kHalves][kLanes];
};

template <class Grid, bool turns>
static inline void fill(const Octets& octets, int first, HalfErrors<Grid>& out) {
    const Lanes step = load(octets.step), shift = load(octets.shift);
    int halves = 1;  // that the digits so far make
    for (int k = 0; k < Runs<Grid>::kDigits; ++k, halves *= Grid::kLevels) {
        const Lanes x = load(octets.x[first + k]), w = load(octets.w[first + k]);
        const Lanes turn = load(octets.turn) * w * x * step;
        // Digit 0 comes last: it takes the place of what the others are made from.
        for (int digit = Grid::kLevels - 1; digit >= 0; --digit) {
            const Lanes value = spread(static_cast<float>(Grid::value(digit))) + shift;
            const Lanes left = x - step * value, error = w * left * left, turning = turn * value;
            const int place = digit * halves;
            for (int rest = 0; rest < halves; ++rest) {
                store(out.plain[place + rest], k == 0 ? error : load(out.plain[rest]) + error);
                if (turns)
                    store(out.turned[place + rest],
                          k == 0 ? turning : min(load(out.turned[rest]), turning));
            }
        }
    }
    for (int half = 0; turns && half < halves; ++half)
        store(out.turned[half], load(out.turned[half]) + load(out.plain[half]));
}

// The least error, and in which run it is.
struct Found {
    float error[kLanes], run[kLanes];
};
template <class Grid>
static inline void scan(const float (*low)[kLanes], const float (*high)[kLanes], Found& out) {
    constexpr const Runs<Grid>& runs = kRuns<Grid>;
    Lanes best = spread(kNever), best_run = spread(0);
    for (int run = 0; run < runs.count; ++run) {
        Lanes error = spread(kNever);
        const std::uint8_t* const end = runs.low + runs.start[run + 1];
        for (const std::uint8_t* four = runs.low + runs.start[run]; four != end; four += 4)
            error = min(error, min(min(load(low[four[0]]), load(low[four[1]])),
                                   min(load(low[four[2]]), load(low[four[3]]))));
        error = error + load(high[runs.high[run]]);
        best_run = select(greater(best, error), spread(static_cast<float>(run)), best_run);
        best = min(error, best);
    }
    store(out.error, best);
    store(out.run, best_run);
}
// The point that a lane found, by the same tables.
template <class Grid>
static inline int point_of(const float (*low)[kLanes], const Found& found, int lane) {
    constexpr const Runs<Grid>& runs = kRuns<Grid>;
    const int run = static_cast<int>(found.run[lane]);
    const std::uint8_t* const halves = runs.low + runs.start[run];
    int best = 0;
    for (int i = 1; i < runs.point[run + 1] - runs.point[run]; ++i) {
        if (low[halves[i]][lane] < low[halves[best]][lane]) best = i;
    }
    return runs.point[run] + best;
}

struct Choice {
    int point;   // its number in the grid
    int turned;  // the weight whose sign is turned, or -1
};

// One point per lane for weights `first` .. first + Grid::kWeights - 1 of each octet.
template <class Grid, bool turns>
struct PointSearch {
    HalfErrors<Grid> low, high;
    Found plain, low_turned, high_turned;
    int first;

    THIMBLE_LANE_MEMBER void run(const Octets& octets, int first_weight) {
        first = first_weight;
        fill<Grid, turns>(octets, first, low);
        fill<Grid, turns>(octets, first + Grid::kWeights / 2, high);
        if (!turns || Grid::kWeights == 4) scan<Grid>(low.plain, high.plain, plain);
        if (!turns) return;
        scan<Grid>(low.turned, high.plain, low_turned);
        scan<Grid>(low.plain, high.turned, high_turned);
    }
    [[nodiscard]] THIMBLE_LANE_MEMBER Lanes errors() const { return load(plain.error); }
    [[nodiscard]] THIMBLE_LANE_MEMBER Lanes turned_errors() const {
        return min(load(low_turned.error), load(high_turned.error));
    }

    [[nodiscard]] THIMBLE_LANE_MEMBER Choice choose(int lane) const {
        return {point_of<Grid>(low.plain, plain, lane), -1};
    }
    [[nodiscard]] THIMBLE_LANE_MEMBER Choice choose_turned(const Octets& octets, int lane) const {
        const bool in_low = low_turned.error[lane] <= high_turned.error[lane];
        const int point = in_low ? point_of<Grid>(low.turned, low_turned, lane)
                                 : point_of<Grid>(low.plain, high_turned, lane);
        if (!(octets.turn[lane] > 0)) return {point, -1};
        const int half = Grid::kWeights / 2, from = in_low ? 0 : half;
        int best = from;
        float least = kNever;
        for (int k = from; k < from + half; ++k) {
            const float value = static_cast<float>(iq_value<Grid>(Grid::kPoints[point], k));
            const float cost = octets.w[first + k][lane] * octets.x[first + k][lane] * value;
            if (cost < least) {
                least = cost;
                best = k;
            }
        }
        return {point, first + best};
    }
};

// The points of whole octets: one of 8 weights or two of 4.
template <class Grid, bool turns>
struct OctetSearch {
    static constexpr int kPoints = 8 / Grid::kWeights;
    PointSearch<Grid, turns> points[kPoints];

    THIMBLE_LANE_MEMBER void run(const Octets& octets, float* errors) {
        for (int p = 0; p < kPoints; ++p) points[p].run(octets, p * Grid::kWeights);
        if constexpr (kPoints == 1) {
            store(errors, turns ? points[0].turned_errors() : points[0].errors());
        } else if constexpr (turns) {
            store(errors, min(points[0].turned_errors() + points[1].errors(),
                              points[0].errors() + points[1].turned_errors()));
        } else {
            store(errors, points[0].errors() + points[1].errors());
        }
    }
    // The choices of one lane.
    THIMBLE_LANE_MEMBER void choose(const Octets& octets, int lane, Choice (&out)[kPoints]) const {
        int turned = 0;  // which of the points has a sign turned
        if constexpr (kPoints == 2 && turns) {
            const auto loss = [&](int p) {
                const PointSearch<Grid, turns>& s = points[p];
                const float low = s.low_turned.error[lane], high = s.high_turned.error[lane];
                return (low < high ? low : high) - s.plain.error[lane];
            };
            turned = loss(1) < loss(0) ? 1 : 0;
        }
        for (int p = 0; p < kPoints; ++p)
            out[p] = turns && p == turned ? points[p].choose_turned(octets, lane)
                                          : points[p].choose(lane);
    }
};

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
