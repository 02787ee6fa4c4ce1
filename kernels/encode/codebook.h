// SPDX-License-Identifier: Apache-2.0
// The encoder that the codebook types share: 256 weights, weight ~ d / kUnit * (2 scale + 1) *
// value, one half-precision d, a whole scale per group of weights and values that are points of a
// grid. Every group's step is searched on a ladder; d is the unit in which these are nearest to odd
// numbers; the whole scales around each group's are tried on its weights; then d is solved for and
// they are tried again. Whatever the step, points and signs are the best that there are (points.h).
// differs: ggml tries the neighbours of the rounded weights that a table lists, and rounds the
// steps once they are found. A type supplies
//   using Grid;                          see iq.h
//   static constexpr int kGroup;         weights per scale: 16 or 32
//   static constexpr int kTop, kUnit;    scale is 0..kTop
//   static constexpr Signs kSigns;
#pragma once

#include "kernels/encode/points.h"

namespace thimble::encode::THIMBLE_ENCODE_LEVEL {

enum class Signs : std::uint8_t {
    kFree,        // a bit per weight
    kEven,        // of eight, an even number are negative
    kGroupShift,  // the point has them; all weights of a group are moved up or down
    kOctetShift,  // the same, of eight weights
};

template <class Type>
struct CodebookBlock {
    static constexpr int kGroups = 256 / Type::kGroup;
    using Grid = typename Type::Grid;
    static constexpr bool kShifts =
        Type::kSigns == Signs::kGroupShift || Type::kSigns == Signs::kOctetShift;
    static constexpr bool kTurns = Type::kSigns == Signs::kEven;

    std::uint16_t d;     // a half
    int scale[kGroups];  // 0..kTop
    std::uint16_t points[256 / Grid::kWeights];
    std::uint8_t signs[32];  // bit k of signs[v]: weight 8 v + k
    bool down[32];           // the shift of eight weights
    float values[256];       // of which a weight is a multiple
};

constexpr float kShift = 0.125f;

// Steps that are tried for a group, as parts of that which puts its peak at the grid's highest
// value: not all points have that value, and a peak may be cut off.
constexpr float kFirstRung = 0.4f, kLastRung = 1.7f;

// No type's d holds weights above this.
constexpr float kTooLarge = 1e9f;

// The weights of a block by their place in an octet: magnitudes, where signs are stored apart.
struct ByPlace {
    float x[8][32], w[8][32];
    float turn[32];  // see Octets
};
template <class Type>
static inline void sort_by_place(const float* weights, const float* importance, ByPlace& out) {
    for (int v = 0; v < 32; ++v) {
        int negative = 0;
        for (int k = 0; k < 8; ++k) {
            const float x = weights[8 * v + k];
            const bool below = !CodebookBlock<Type>::kShifts && x < 0;
            out.x[k][v] = below ? -x : x;
            out.w[k][v] = importance[8 * v + k];
            negative += below ? 1 : 0;
        }
        out.turn[v] = CodebookBlock<Type>::kTurns && negative % 2 == 1 ? 4.0f : 0.0f;
    }
}
// `count` octets from v on to the lanes, over and over.
template <int count>
THIMBLE_LANE void take_octets(const ByPlace& block, int v, Octets& out) {
    for (int lane = 0; lane < kLanes; lane += count) {
        for (int k = 0; k < 8; ++k) {
            __builtin_memcpy(out.x[k] + lane, block.x[k] + v, count * sizeof(float));
            __builtin_memcpy(out.w[k] + lane, block.w[k] + v, count * sizeof(float));
        }
        __builtin_memcpy(out.turn + lane, block.turn + v, count * sizeof(float));
    }
}

// The best of `tried` steps of every group. For kGroupShift also the shift.
template <class Type, int tried>
static inline void choose_steps(const ByPlace& block,
                                const float (&steps)[256 / Type::kGroup][tried],
                                int (&chosen)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    using Block = CodebookBlock<Type>;
    constexpr int kShifts = Block::kShifts ? 2 : 1, kColumns = tried * kShifts;
    constexpr int kAtOnce = kLanes / kColumns, kOctets = Type::kGroup / 8;
    OctetSearch<typename Type::Grid, Block::kTurns> search;
    float sums[Block::kGroups][kColumns] = {};
    for (int v = 0; v < 32; v += kAtOnce) {
        Octets octets;
        take_octets<kAtOnce>(block, v, octets);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int column = lane / kAtOnce;
            octets.step[lane] = steps[(v + lane % kAtOnce) / kOctets][column / kShifts];
            octets.shift[lane] = !Block::kShifts ? 0 : column % 2 == 1 ? -kShift : kShift;
        }
        float errors[kLanes];
        search.run(octets, errors);
        for (int lane = 0; lane < kLanes; ++lane) {
            float error = errors[lane];
            if (Type::kSigns == Signs::kOctetShift) {
                const float other = errors[lane ^ kAtOnce];
                error = other < error ? other : error;
            }
            sums[(v + lane % kAtOnce) / kOctets][lane / kAtOnce] += error;
        }
    }
    for (int g = 0; g < Block::kGroups; ++g) {
        int best = 0;
        for (int column = 1; column < kColumns; ++column) {
            if (sums[g][column] < sums[g][best]) best = column;
        }
        chosen[g] = best / kShifts;
        for (int v = g * kOctets; v < (g + 1) * kOctets; ++v) out.down[v] = best % kShifts == 1;
    }
}

// Points, signs and values of octet v as one lane found them.
template <class Type, class Search>
THIMBLE_LANE void take_octet(const float* weights, const Search& search, const Octets& octets,
                             int lane, int v, CodebookBlock<Type>& out) {
    using Grid = typename Type::Grid;
    Choice choices[Search::kPoints];
    search.choose(octets, lane, choices);
    int signs = 0;
    for (int k = 0; k < 8; ++k) {
        if (!CodebookBlock<Type>::kShifts && weights[8 * v + k] < 0) signs |= 1 << k;
    }
    for (const Choice& choice : choices) {
        if (choice.turned >= 0) signs ^= 1 << choice.turned;
    }
    out.signs[v] = static_cast<std::uint8_t>(signs);
    for (int p = 0; p < Search::kPoints; ++p) {
        const int point = choices[p].point;
        out.points[v * Search::kPoints + p] = static_cast<std::uint16_t>(point);
        for (int k = 0; k < Grid::kWeights; ++k) {
            const int at = p * Grid::kWeights + k;
            const float value = static_cast<float>(iq_value<Grid>(Grid::kPoints[point], k));
            out.values[8 * v + at] = ((signs >> at & 1) != 0 ? -value : value) + octets.shift[lane];
        }
    }
}

// Points and signs for one step per group; for kOctetShift also the shifts.
template <class Type>
static inline void assign(const float* weights, const ByPlace& block,
                          const float (&steps)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    constexpr int kShifts = Type::kSigns == Signs::kOctetShift ? 2 : 1, kAtOnce = kLanes / kShifts;
    OctetSearch<typename Type::Grid, CodebookBlock<Type>::kTurns> search;
    for (int v = 0; v < 32; v += kAtOnce) {
        Octets octets;
        take_octets<kAtOnce>(block, v, octets);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int octet = v + lane % kAtOnce;
            octets.step[lane] = steps[octet * 8 / Type::kGroup];
            const bool down = kShifts == 2 ? lane >= kAtOnce : out.down[octet];
            octets.shift[lane] = !CodebookBlock<Type>::kShifts ? 0 : down ? -kShift : kShift;
        }
        float errors[kLanes];
        search.run(octets, errors);
        for (int i = 0; i < kAtOnce; ++i) {
            const bool second = kShifts == 2 && errors[i + kAtOnce] < errors[i];
            if (kShifts == 2) out.down[v + i] = second;
            take_octet<Type>(weights, search, octets, second ? i + kAtOnce : i, v + i, out);
        }
    }
}

// Weighted least squares for a group as a multiple of its values.
struct StepSums {
    float xx = 0, vx = 0, vv = 0;
};
template <class Type>
THIMBLE_LANE StepSums step_sums(const float* weights, const float* importance,
                                const CodebookBlock<Type>& block, int g) {
    Lanes xx = spread(0), vx = xx, vv = xx;
    for (int i = g * Type::kGroup; i < (g + 1) * Type::kGroup; i += kLanes) {
        const Lanes x = load(weights + i), w = load(importance + i);
        const Lanes v = load(block.values + i), wv = w * v;
        xx = xx + w * x * x;
        vx = vx + wv * x;
        vv = vv + wv * v;
    }
    return {sum(xx), sum(vx), sum(vv)};
}

// The value of the grid, moved by `shift`, that each lane is nearest to.
template <class Grid>
THIMBLE_LANE Lanes nearest_value(Lanes v, float shift) {
    Lanes nearest = spread(static_cast<float>(Grid::value(0)) + shift);
    for (int digit = 1; digit < Grid::kLevels; ++digit) {
        const float below = static_cast<float>(Grid::value(digit - 1));
        const float above = static_cast<float>(Grid::value(digit));
        const IntLanes passed = greater(v, spread(0.5f * (below + above) + shift));
        nearest = nearest + from_bits(passed & bits(spread(above - below)));
    }
    return nearest;
}

// The best step of a group if all points were there and all signs free. A point mostly is: this is
// where to look.
struct Step {
    float step = 0, score = 0;
};
template <class Type>
THIMBLE_LANE Step search_step(const float* weights, const float* importance, float shift) {
    using Grid = typename Type::Grid;
    const Extremes e = extremes(weights, Type::kGroup);
    const float peak = -e.least > e.most ? -e.least : e.most;
    if (!(peak > kTiny)) return {};
    const float top = static_cast<float>(Grid::value(Grid::kLevels - 1));
    Lanes step = rungs({kFirstRung * peak / top, kLastRung * peak / top}), score;
    constexpr int kPasses = 2;
    for (int pass = 0; pass < kPasses; ++pass) {
        const Lanes inverse = spread(1) / step;
        Lanes vx = spread(0), vv = vx;
        for (int i = 0; i < Type::kGroup; ++i) {
            const Lanes w = spread(importance[i]);
            const Lanes x =
                spread(CodebookBlock<Type>::kShifts || weights[i] > 0 ? weights[i] : -weights[i]);
            const Lanes v = nearest_value<Grid>(x * inverse, shift), wv = w * v;
            vx = vx + wv * x;
            vv = vv + wv * v;
        }
        const IntLanes valid = greater(vx, spread(0));
        step = select(valid, vx / vv, step);
        score = select(valid, step * vx, spread(-1));
    }
    const int best = best_lane(score);
    return {lane_of(step, best), lane_of(score, best)};
}

// Every group's best step, free of d, and how much its error grows with the step's.
template <class Type>
static inline void search_steps(const float* weights, const float* importance, const ByPlace& block,
                                float (&wanted)[256 / Type::kGroup],
                                float (&curvature)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    constexpr int kGroups = CodebookBlock<Type>::kGroups;
    for (int g = 0; g < kGroups; ++g) {
        const float *x = weights + g * Type::kGroup, *w = importance + g * Type::kGroup;
        const bool shifts = CodebookBlock<Type>::kShifts;
        Step best = search_step<Type>(x, w, shifts ? kShift : 0);
        if (shifts) {
            const Step down = search_step<Type>(x, w, -kShift);
            const bool better = down.score > best.score;
            if (better) best = down;
            for (int v = g * Type::kGroup / 8; v < (g + 1) * Type::kGroup / 8; ++v)
                out.down[v] = better;
        }
        wanted[g] = best.step;
    }
    assign<Type>(weights, block, wanted, out);
    for (int g = 0; g < kGroups; ++g) {
        const StepSums sums = step_sums<Type>(weights, importance, out, g);
        curvature[g] = sums.vv;
        wanted[g] = sums.vx > 0 && sums.vv > 0 ? sums.vx / sums.vv : 0.0f;
    }
}

// The unit in which the wanted steps are nearest to odd numbers up to 2 top + 1. Sixteen are tried,
// from one that puts the largest step well past the top.
template <int groups, int top>
THIMBLE_LANE float search_odd_unit(const float* wanted, const float* curvature) {
    float most = 0;
    for (int g = 0; g < groups; ++g) most = wanted[g] > most ? wanted[g] : most;
    if (!(most > 0)) return 0;
    constexpr float kMost = 2 * top + 1;
    Lanes unit = spread(most) / rungs({kMost * 0.7f, kMost * 1.15f}), error = unit;
    constexpr int kPasses = 3;
    for (int pass = 0; pass < kPasses; ++pass) {
        const Lanes inverse = spread(1) / unit;
        Lanes ax = spread(0), aa = ax;
        error = ax;
        for (int g = 0; g < groups; ++g) {
            const Lanes x = spread(wanted[g]), c = spread(curvature[g]);
            const Lanes half = (x * inverse - spread(1)) * spread(0.5f);
            const Lanes scale = min(max(round_even(half), spread(0)), spread(top));
            const Lanes odd = scale + scale + spread(1), left = x - odd * unit;
            error = error + c * left * left;
            ax = ax + c * odd * x;
            aa = aa + c * odd * odd;
        }
        if (pass + 1 < kPasses) unit = select(greater(aa, spread(0)), ax / aa, unit);
    }
    return lane_of(unit, best_lane(spread(0) - error));
}

template <class Type>
THIMBLE_LANE float unit_of(std::uint16_t d) {
    return f16_to_f32(d) / static_cast<float>(Type::kUnit);
}
template <class Type>
THIMBLE_LANE std::uint16_t half_of_unit(float unit) {
    return f32_to_f16(unit * static_cast<float>(Type::kUnit));
}

// Of `tried` scales near each group's wanted step the best, then points and signs, for the d given.
template <class Type, int tried>
static inline void choose_scales(const float* weights, const ByPlace& block,
                                 const float (&wanted)[256 / Type::kGroup],
                                 CodebookBlock<Type>& out) {
    constexpr int kGroups = CodebookBlock<Type>::kGroups, kLastFirst = Type::kTop - tried + 1;
    const float unit = unit_of<Type>(out.d);
    float steps[kGroups][tried], best[kGroups];
    int first[kGroups], chosen[kGroups];
    for (int g = 0; g < kGroups; ++g) {
        const float about = unit > 0 ? (wanted[g] / unit - 1) * 0.5f : 0.0f;
        const float low =
            about < kLastFirst + 2 ? round_even(about - 0.5f * (tried - 1)) : kLastFirst;
        first[g] = low > 0 ? static_cast<int>(low < kLastFirst ? low : kLastFirst) : 0;
        for (int i = 0; i < tried; ++i)
            steps[g][i] = unit * static_cast<float>(2 * (first[g] + i) + 1);
    }
    choose_steps<Type, tried>(block, steps, chosen, out);
    for (int g = 0; g < kGroups; ++g) {
        out.scale[g] = first[g] + chosen[g];
        best[g] = steps[g][chosen[g]];
    }
    assign<Type>(weights, block, best, out);
}

// What the block must be multiplied with to have, weighted, the weights' own scale. Least squares
// makes everything smaller by the share of the error, some per cent: too small is wrong everywhere
// in the same way, so it adds up in a model's outputs, where the rest of the error averages out.
template <class Type>
static inline float shrinkage(const float* weights, const float* importance,
                              const CodebookBlock<Type>& block) {
    const float unit = unit_of<Type>(block.d);
    double xx = 0, xy = 0;
    for (int g = 0; g < CodebookBlock<Type>::kGroups; ++g) {
        const StepSums sums = step_sums<Type>(weights, importance, block, g);
        const float step = unit * static_cast<float>(2 * block.scale[g] + 1);
        xx += static_cast<double>(sums.xx);
        xy += static_cast<double>(step) * static_cast<double>(sums.vx);
    }
    constexpr double kMost = 1.5;  // beyond, the weights are noise to the block
    return static_cast<float>(xx < kMost * xy ? xx / xy : xy > 0 ? kMost : 1);
}

// Importance in a block: of its column, and more of larger weights (as ggml has it).
static inline void weigh(const float* weights, const float* importance, float* out) {
    importance_or_ones(importance, out, 256);
    Lanes squares = spread(0);
    for (int i = 0; i < 256; i += kLanes) squares = squares + load(weights + i) * load(weights + i);
    const float twice_mean = sum(squares) / 128;
    if (importance == nullptr || !(twice_mean > kTiny)) return;
    for (int i = 0; i < 256; i += kLanes) {
        const Lanes x = load(weights + i);
        store(out + i, load(out + i) * square_root(spread(1) + x * x / spread(twice_mean)));
    }
}

// importance: null or one value per weight.
template <class Type>
static inline void encode_codebook(const float* weights, const float* importance,
                                   CodebookBlock<Type>& out) {
    constexpr int kGroups = CodebookBlock<Type>::kGroups;
    out = {};
    const Extremes e = extremes(weights, 256);
    const float peak = -e.least > e.most ? -e.least : e.most;
    if (!(peak > kTiny)) return;
    out.d = 0x7c00;  // what weights too large for any step get
    if (peak > kTooLarge) return;
    float w[256], wanted[kGroups], curvature[kGroups];
    weigh(weights, importance, w);
    ByPlace block;
    sort_by_place<Type>(weights, w, block);
    search_steps<Type>(weights, w, block, wanted, curvature, out);
    out.d = half_of_unit<Type>(search_odd_unit<kGroups, Type::kTop>(wanted, curvature));
    choose_scales<Type, Type::kTried>(weights, block, wanted, out);
    double ax = 0, aa = 0;
    for (int g = 0; g < kGroups; ++g) {
        const StepSums sums = step_sums<Type>(weights, w, out, g);
        const double odd = 2 * out.scale[g] + 1;
        ax += odd * static_cast<double>(sums.vx);
        aa += odd * odd * static_cast<double>(sums.vv);
        if (sums.vx > 0 && sums.vv > 0) wanted[g] = sums.vx / sums.vv;
    }
    if (!(aa > 0 && ax > 0)) return;
    out.d = half_of_unit<Type>(static_cast<float>(ax / aa));
    choose_scales<Type, 2>(weights, block, wanted, out);
    out.d = half_of_unit<Type>(unit_of<Type>(out.d) * shrinkage<Type>(weights, w, out));
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
