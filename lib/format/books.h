// SPDX-License-Identifier: Apache-2.0
// Codebooks of the rows of a matrix, learned from histograms: see formats/jlcm.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace thimble {

// Weighted numbers as up to kBins points, each the mean of a bin. Bins are a 32nd wide at zero and
// wider outwards, the last ones without end.
struct Histogram {
    static constexpr int kBins = 128;
    std::array<float, kBins> mass{}, moment{};

    static std::size_t bin_of(float x) noexcept;
    void add(float x, float weight) noexcept {
        const std::size_t bin = bin_of(x);
        mass[bin] += weight, moment[bin] += weight * x;
    }
    void add(const Histogram& other) noexcept;
    // Squared error of the points, weighted, when each becomes the nearest value (ascending).
    [[nodiscard]] double loss(std::span<const double> values) const;
    // Upper limits of `count` parts of equal mass, the last one open.
    void quantiles(std::span<float> out) const;
};

// The `values` numbers, ascending, of least loss: no search, but the minimum, by dynamic
// programming over the points ("Optimal quantization by matrix searching", Wu 1991, has the
// recurrence; that begins only move upwards makes it quick). Where there are fewer points the last
// one is repeated; none: zeros.
[[nodiscard]] std::vector<double> best_values(const Histogram& histogram, int values);

// Which of `books` codebooks of `values` numbers each unit (a row, or some) takes.
struct Books {
    std::vector<std::uint16_t> book_of_unit;
    std::vector<double> values;  // [books, values]
    double loss = 0;             // of all units, after
    std::vector<double> losses;  // each step, from the first books on
};
// Units of like distribution are gathered: the set is halved, by the direction in which quantiles
// differ most, until each part has a book of its own. Then units move to a neighbour's book where
// that lowers their loss and books are fitted to their units, in turn, `rounds` times at most: the
// loss never rises.
[[nodiscard]] Books learn_books(std::span<const Histogram> units, std::int64_t books, int values,
                                int rounds);

// As bytes, the largest magnitude as 127, all different and ascending; the unit that values are
// divided by, 0 where all are zero.
[[nodiscard]] double round_book(std::span<const double> values, std::span<std::int8_t> out);

}  // namespace thimble
