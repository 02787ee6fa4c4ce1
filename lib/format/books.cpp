// SPDX-License-Identifier: Apache-2.0
#include "format/books.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace thimble {
namespace {

constexpr std::size_t kFeatures = 16;  // quantiles of a unit
using Features = std::array<float, kFeatures>;

struct Point {
    double at = 0, mass = 0;
};

// The bins that hold anything, ascending; but not what would be lost in sums of the others.
std::vector<Point> points_of(const Histogram& h) {
    const double total = std::accumulate(h.mass.begin(), h.mass.end(), 0.0);
    std::vector<Point> points;
    for (std::size_t i = 0; i < Histogram::kBins; ++i) {
        const double mass = static_cast<double>(h.mass[i]);
        if (mass > 1e-12 * total) points.push_back({static_cast<double>(h.moment[i]) / mass, mass});
    }
    return points;
}

// Points cut into runs so that the error is least when each run becomes its mean.
class Partition {
  public:
    Partition(const std::vector<Point>& points, std::size_t runs)
        : mass_(points.size() + 1), moment_(mass_), square_(mass_), ends_(runs) {
        const std::size_t n = points.size();
        for (std::size_t i = 0; i < n; ++i) {
            mass_[i + 1] = mass_[i] + points[i].mass;
            moment_[i + 1] = moment_[i] + points[i].mass * points[i].at;
            square_[i + 1] = square_[i] + points[i].mass * points[i].at * points[i].at;
        }
        // least_[e]: of points [0, e) in as many runs as were added.
        least_.assign(n + 1, std::numeric_limits<double>::infinity());
        least_[0] = 0;
        std::vector<std::vector<std::size_t>> begins(runs, std::vector<std::size_t>(n + 1));
        for (std::size_t run = 0; run < runs; ++run) {
            next_.assign(n + 1, std::numeric_limits<double>::infinity());
            add_run(begins[run], run + 1, n, run, n - 1);
            least_ = next_;
        }
        std::size_t end = n;
        for (std::size_t run = runs; run-- > 0; end = begins[run][end]) ends_[run] = end;
    }
    [[nodiscard]] double mean(std::size_t run) const {
        const std::size_t a = run == 0 ? 0 : ends_[run - 1], b = ends_[run];
        return (moment_[b] - moment_[a]) / (mass_[b] - mass_[a]);
    }

  private:
    // Where the last run begins for each end in [first, last], if it does so in [from, to]: a later
    // end's never begins earlier, so that the middle one halves the work.
    void add_run(std::vector<std::size_t>& begins, std::size_t first, std::size_t last,
                 std::size_t from, std::size_t to) {
        if (first > last) return;
        const std::size_t end = first + (last - first) / 2;
        std::size_t best = from;
        for (std::size_t begin = from; begin <= to && begin < end; ++begin) {
            const double sum = least_[begin] + loss(begin, end);
            if (sum < next_[end]) next_[end] = sum, best = begin;
        }
        begins[end] = best;
        add_run(begins, first, end - 1, from, best);
        add_run(begins, end + 1, last, best, to);
    }
    [[nodiscard]] double loss(std::size_t a, std::size_t b) const {
        const double m = moment_[b] - moment_[a];
        return square_[b] - square_[a] - m * m / (mass_[b] - mass_[a]);
    }

    std::vector<double> mass_, moment_, square_, least_, next_;  // [points + 1]
    std::vector<std::size_t> ends_;
};

// Halves a set of units until each part has one book.
class Bisection {
  public:
    Bisection(std::span<const Features> features, std::span<std::uint16_t> book_of_unit)
        : features_(features), book_of_unit_(book_of_unit), order_(features.size()) {
        std::iota(order_.begin(), order_.end(), 0u);
    }
    void run(std::size_t first, std::size_t end, std::int64_t book, std::int64_t books) {
        if (books == 1) {
            for (std::size_t i = first; i < end; ++i)
                book_of_unit_[order_[i]] = static_cast<std::uint16_t>(book);
            return;
        }
        std::vector<std::pair<double, std::uint32_t>> along(end - first);
        const std::array<double, kFeatures> axis = widest_axis(first, end);
        for (std::size_t i = first; i < end; ++i) {
            double sum = 0;
            for (std::size_t f = 0; f < kFeatures; ++f)
                sum += axis[f] * static_cast<double>(features_[order_[i]][f]);
            along[i - first] = {sum, order_[i]};
        }
        std::sort(along.begin(), along.end());
        for (std::size_t i = first; i < end; ++i) order_[i] = along[i - first].second;
        const std::int64_t left = books / 2;
        const std::size_t middle = first + (end - first) * static_cast<std::size_t>(left) /
                                               static_cast<std::size_t>(books);
        run(first, middle, book, left);
        run(middle, end, book + left, books - left);
    }

  private:
    // The direction in which features differ most: powers of their covariance.
    [[nodiscard]] std::array<double, kFeatures> widest_axis(std::size_t first,
                                                            std::size_t end) const {
        std::array<double, kFeatures> mean{}, axis{};
        for (std::size_t i = first; i < end; ++i) {
            for (std::size_t f = 0; f < kFeatures; ++f)
                mean[f] += static_cast<double>(features_[order_[i]][f]);
        }
        for (double& m : mean) m /= static_cast<double>(end - first);
        std::array<std::array<double, kFeatures>, kFeatures> covariance{};
        for (std::size_t i = first; i < end; ++i) {
            for (std::size_t f = 0; f < kFeatures; ++f) {
                const double d = static_cast<double>(features_[order_[i]][f]) - mean[f];
                for (std::size_t g = 0; g < kFeatures; ++g)
                    covariance[f][g] +=
                        d * (static_cast<double>(features_[order_[i]][g]) - mean[g]);
            }
        }
        // From the feature that varies most.
        std::size_t most = 0;
        for (std::size_t f = 1; f < kFeatures; ++f)
            most = covariance[f][f] > covariance[most][most] ? f : most;
        axis[most] = 1;
        for (int step = 0; step < 20; ++step) {
            std::array<double, kFeatures> next{};
            double norm = 0;
            for (std::size_t f = 0; f < kFeatures; ++f) {
                for (std::size_t g = 0; g < kFeatures; ++g) next[f] += covariance[f][g] * axis[g];
                norm += next[f] * next[f];
            }
            if (!(norm > 0)) break;
            for (double& x : next) x /= std::sqrt(norm);
            axis = next;
        }
        return axis;
    }

    std::span<const Features> features_;
    std::span<std::uint16_t> book_of_unit_;
    std::vector<std::uint32_t> order_;
};

}  // namespace

std::size_t Histogram::bin_of(float x) noexcept {
    const float within = x / (std::fabs(x) + 2.0f);  // (-1, 1)
    const auto bin = static_cast<int>((within + 1.0f) * 0.5f * kBins);
    return static_cast<std::size_t>(std::clamp(bin, 0, kBins - 1));
}

void Histogram::add(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < kBins; ++i) mass[i] += other.mass[i], moment[i] += other.moment[i];
}

double Histogram::loss(std::span<const double> values) const {
    double sum = 0;
    std::size_t v = 0;
    for (std::size_t i = 0; i < kBins; ++i) {
        const double m = static_cast<double>(mass[i]);
        if (!(m > 0)) continue;
        const double at = static_cast<double>(moment[i]) / m;
        while (v + 1 < values.size() && std::fabs(values[v + 1] - at) <= std::fabs(values[v] - at))
            ++v;
        sum += m * (values[v] - at) * (values[v] - at);
    }
    return sum;
}

void Histogram::quantiles(std::span<float> out) const {
    const std::vector<Point> points = points_of(*this);
    const double total = std::accumulate(points.begin(), points.end(), 0.0,
                                         [](double sum, const Point& p) { return sum + p.mass; });
    std::size_t next = 0;
    double below = 0;
    for (std::size_t q = 0; q < out.size(); ++q) {
        const double wanted =
            total * (static_cast<double>(q) + 0.5) / static_cast<double>(out.size());
        while (next + 1 < points.size() && below + points[next].mass < wanted)
            below += points[next++].mass;
        out[q] = points.empty() ? 0.0f : static_cast<float>(points[next].at);
    }
}

std::vector<double> best_values(const Histogram& histogram, int values) {
    const std::vector<Point> points = points_of(histogram);
    std::vector<double> out(static_cast<std::size_t>(values), 0.0);
    if (points.empty()) return out;
    const std::size_t parts = std::min(out.size(), points.size());
    const Partition found(points, parts);
    for (std::size_t part = 0; part < parts; ++part) out[part] = found.mean(part);
    std::fill(out.begin() + static_cast<std::ptrdiff_t>(parts), out.end(), out[parts - 1]);
    return out;
}

Books learn_books(std::span<const Histogram> units, std::int64_t books, int values, int rounds) {
    Books out;
    out.book_of_unit.resize(units.size());
    out.values.resize(static_cast<std::size_t>(books * values));
    {
        std::vector<Features> features(units.size());
        for (std::size_t u = 0; u < units.size(); ++u) units[u].quantiles(features[u]);
        Bisection(features, out.book_of_unit).run(0, units.size(), 0, books);
    }
    const auto book = [&](std::int64_t b) {
        return std::span(out.values)
            .subspan(static_cast<std::size_t>(b * values), static_cast<std::size_t>(values));
    };
    const auto fit = [&] {
        std::vector<Histogram> pooled(static_cast<std::size_t>(books));
        for (std::size_t u = 0; u < units.size(); ++u) pooled[out.book_of_unit[u]].add(units[u]);
        for (std::int64_t b = 0; b < books; ++b) {
            const std::vector<double> best =
                best_values(pooled[static_cast<std::size_t>(b)], values);
            std::copy(best.begin(), best.end(), book(b).begin());
        }
        out.loss = 0;
        for (std::size_t u = 0; u < units.size(); ++u)
            out.loss += units[u].loss(book(out.book_of_unit[u]));
        out.losses.push_back(out.loss);
    };
    fit();
    for (int round = 0; round < rounds && books > 1; ++round) {
        const Books before = out;
        bool moved = false;
        for (std::size_t u = 0; u < units.size(); ++u) {
            const std::int64_t own = out.book_of_unit[u];
            std::int64_t best = own;
            double least = units[u].loss(book(own));
            for (const std::int64_t b : {own - 1, own + 1}) {
                if (b < 0 || b >= books) continue;
                const double other = units[u].loss(book(b));
                if (other < least) least = other, best = b;
            }
            moved = moved || best != own;
            out.book_of_unit[u] = static_cast<std::uint16_t>(best);
        }
        if (!moved) break;
        fit();
        // Books are fitted to bins of all their units together: near the end that may miss a step.
        if (out.loss >= before.loss) return before;
    }
    return out;
}

double round_book(std::span<const double> values, std::span<std::int8_t> out) {
    double largest = 0;
    for (const double v : values) largest = std::max(largest, std::fabs(v));
    const double unit = largest / 127;
    std::vector<int> whole(values.size());
    for (std::size_t i = 0; i < values.size(); ++i)
        whole[i] = unit > 0 ? static_cast<int>(std::lround(values[i] / unit)) : 0;
    for (std::size_t i = 1; i < whole.size(); ++i) whole[i] = std::max(whole[i], whole[i - 1] + 1);
    int limit = 127;
    for (std::size_t i = whole.size(); i-- > 0; limit = whole[i] - 1)
        whole[i] = std::min(whole[i], limit);
    std::transform(whole.begin(), whole.end(), out.begin(),
                   [](int v) { return static_cast<std::int8_t>(v); });
    return unit;
}

}  // namespace thimble
