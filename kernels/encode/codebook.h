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

template <class Type>
THIMBLE_LANE void set_octet(const float* weights, const float* importance, int lane, float step,
                            Octets& out) {
    int negative = 0;
    for (int k = 0; k < 8; ++k) {
        const bool below = !CodebookBlock<Type>::kShifts && weights[k] < 0;
        out.x[k][lane] = below ? -weights[k] : weights[k];
        out.w[k][lane] = importance[k];
        negative += below ? 1 : 0;
    }
    out.step[lane] = step;
    out.shift[lane] = 0;
    out.turn[lane] = CodebookBlock<Type>::kTurns && negative % 2 == 1 ? 4.0f : 0.0f;
}

// The best of `tried` steps of every group. For kGroupShift also the shift.
template <class Type, int tried>
static inline void choose_steps(const float* weights, const float* importance,
                                const float (&steps)[256 / Type::kGroup][tried],
                                int (&chosen)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    using Block = CodebookBlock<Type>;
    constexpr int kShifts = Block::kShifts ? 2 : 1, kColumns = tried * kShifts;
    constexpr int kAtOnce = kLanes / kColumns, kOctets = Type::kGroup / 8;
    OctetSearch<typename Type::Grid, Block::kTurns> search;
    float sums[Block::kGroups][kColumns] = {};
    for (int v = 0; v < 32; v += kAtOnce) {
        Octets octets;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int octet = v + lane / kColumns, column = lane % kColumns;
            set_octet<Type>(weights + 8 * octet, importance + 8 * octet, lane,
                            steps[octet / kOctets][column / kShifts], octets);
            if (kShifts == 2) octets.shift[lane] = column % 2 == 1 ? -kShift : kShift;
        }
        float errors[kLanes];
        search.run(octets, errors);
        for (int lane = 0; lane < kLanes; ++lane) {
            const int other = lane ^ 1;
            const bool best = Type::kSigns != Signs::kOctetShift || errors[lane] < errors[other];
            sums[(v + lane / kColumns) / kOctets][lane % kColumns] +=
                best ? errors[lane] : errors[other];
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
static inline void assign(const float* weights, const float* importance,
                          const float (&steps)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    constexpr int kShifts = Type::kSigns == Signs::kOctetShift ? 2 : 1;
    OctetSearch<typename Type::Grid, CodebookBlock<Type>::kTurns> search;
    for (int v = 0; v < 32; v += kLanes / kShifts) {
        Octets octets;
        for (int lane = 0; lane < kLanes; ++lane) {
            const int octet = v + lane / kShifts;
            set_octet<Type>(weights + 8 * octet, importance + 8 * octet, lane,
                            steps[octet * 8 / Type::kGroup], octets);
            if (!CodebookBlock<Type>::kShifts) continue;
            const bool down = kShifts == 2 ? lane % 2 == 1 : out.down[octet];
            octets.shift[lane] = down ? -kShift : kShift;
        }
        float errors[kLanes];
        search.run(octets, errors);
        for (int lane = 0; lane < kLanes; lane += kShifts) {
            const int octet = v + lane / kShifts;
            const bool second = kShifts == 2 && errors[lane + 1] < errors[lane];
            if (kShifts == 2) out.down[octet] = second;
            take_octet<Type>(weights, search, octets, lane + (second ? 1 : 0), octet, out);
        }
    }
}

// Weighted least squares for a group as a multiple of its values.
struct StepSums {
    float vx = 0, vv = 0;
};
template <class Type>
THIMBLE_LANE StepSums step_sums(const float* weights, const float* importance,
                                const CodebookBlock<Type>& block, int g) {
    Lanes vx = spread(0), vv = vx;
    for (int i = g * Type::kGroup; i < (g + 1) * Type::kGroup; i += kLanes) {
        const Lanes v = load(block.values + i), wv = load(importance + i) * v;
        vx = vx + wv * load(weights + i);
        vv = vv + wv * v;
    }
    return {sum(vx), sum(vv)};
}

// Every group's best step, free of d, and how much its error grows with the step's.
template <class Type>
static inline void search_steps(const float* weights, const float* importance,
                                float (&wanted)[256 / Type::kGroup],
                                float (&curvature)[256 / Type::kGroup], CodebookBlock<Type>& out) {
    using Grid = typename Type::Grid;
    constexpr int kGroups = CodebookBlock<Type>::kGroups, kRungs = Type::kRungs;
    float steps[kGroups][kRungs];
    constexpr float kMost = static_cast<float>(Grid::value(Grid::kLevels - 1)) +
                            (CodebookBlock<Type>::kShifts ? kShift : 0.0f);
    for (int g = 0; g < kGroups; ++g) {
        const Extremes e = extremes(weights + g * Type::kGroup, Type::kGroup);
        const float peak = -e.least > e.most ? -e.least : e.most;
        for (int r = 0; r < kRungs; ++r)
            steps[g][r] = peak / kMost *
                          (Type::kFirstRung + (Type::kLastRung - Type::kFirstRung) *
                                                  static_cast<float>(r) / (kRungs - 1));
    }
    int chosen[kGroups];
    choose_steps<Type, kRungs>(weights, importance, steps, chosen, out);
    for (int g = 0; g < kGroups; ++g) wanted[g] = steps[g][chosen[g]];
    assign<Type>(weights, importance, wanted, out);
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

// Scales near the wanted steps, then points and signs, for the d given.
template <class Type>
static inline void choose_scales(const float* weights, const float* importance,
                                 const float (&wanted)[256 / Type::kGroup],
                                 CodebookBlock<Type>& out) {
    constexpr int kGroups = CodebookBlock<Type>::kGroups, kTried = 4;
    const float unit = unit_of<Type>(out.d);
    float steps[kGroups][kTried], final_steps[kGroups];
    int first[kGroups], chosen[kGroups];
    for (int g = 0; g < kGroups; ++g) {
        const float about = unit > 0 ? (wanted[g] / unit - 1) * 0.5f : 0.0f;
        const float low = round_even(about - 1.5f);
        first[g] = low > 0 ? (low < Type::kTop - kTried + 1 ? static_cast<int>(low)
                                                            : Type::kTop - kTried + 1)
                           : 0;
        for (int i = 0; i < kTried; ++i)
            steps[g][i] = unit * static_cast<float>(2 * (first[g] + i) + 1);
    }
    choose_steps<Type, kTried>(weights, importance, steps, chosen, out);
    for (int g = 0; g < kGroups; ++g) {
        out.scale[g] = first[g] + chosen[g];
        final_steps[g] = steps[g][chosen[g]];
    }
    assign<Type>(weights, importance, final_steps, out);
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
    out.d = 0x7c00;
    if (peak > kHuge) return;
    float w[256], wanted[kGroups], curvature[kGroups];
    importance_or_ones(importance, w, 256);
    search_steps<Type>(weights, w, wanted, curvature, out);
    out.d = half_of_unit<Type>(search_odd_unit<kGroups, Type::kTop>(wanted, curvature));
    constexpr int kPasses = 2;
    for (int pass = 0; pass < kPasses; ++pass) {
        choose_scales<Type>(weights, w, wanted, out);
        if (pass + 1 == kPasses) break;
        double ax = 0, aa = 0;
        for (int g = 0; g < kGroups; ++g) {
            const StepSums sums = step_sums<Type>(weights, w, out, g);
            const double odd = 2 * out.scale[g] + 1;
            ax += odd * static_cast<double>(sums.vx);
            aa += odd * odd * static_cast<double>(sums.vv);
            if (sums.vx > 0 && sums.vv > 0) wanted[g] = sums.vx / sums.vv;
        }
        if (aa > 0 && ax > 0) out.d = half_of_unit<Type>(static_cast<float>(ax / aa));
    }
}

}  // namespace thimble::encode::THIMBLE_ENCODE_LEVEL
