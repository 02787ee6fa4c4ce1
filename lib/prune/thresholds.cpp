// SPDX-License-Identifier: Apache-2.0
#include "prune/thresholds.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "kernels/layout/half.h"
#include "model/block.h"
#include "ops/kept.h"

namespace thimble::prune {
namespace {

const SourceTensor& up_of(const ModelSource& source, std::int64_t layer) {
    const SourceTensor* up = source.find(tensor_name("blk.#.ffn_up.weight", layer));
    if (up != nullptr) return *up;
    throw Error(Exit::kUsage, escaped(source.file().path(), 1024),
                "has no gate and up matrices of their own in layer " + std::to_string(layer) +
                    ": there are no activations to put a threshold on");
}

std::int64_t widest(const ModelSource& source) {
    std::int64_t most = 0;
    for (std::int64_t l = 0; l < source.spec().layers; ++l)
        most = std::max(most, up_of(source, l).rows());
    return most;
}

std::size_t activation_bytes(const ModelSource& source, std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * widest(source)) * sizeof(float);
}

// Sees the activations of one layer, text by text.
class GateTap final : public Tap {
  public:
    enum class Mode : std::uint8_t { kSquares, kSizes, kDropped };
    GateTap(const ModelSource& source, Mode first, std::int64_t longest)
        : source_(source),
          mode_(first),
          activations_(activation_bytes(source, longest), Purpose::kActivations) {}

    void begin_layer(Mode mode) {
        mode_ = mode;
        sizes_.clear();
        if (mode == Mode::kSquares) squares_.clear();
        seen_ = dropped_ = tokens_ = 0;
    }
    void begin_text() { first_ = true; }
    void input(UnitId, std::span<const std::size_t>, View) override {}
    void gated(const Exec& exec, UnitId unit, View gate, View up) override {
        const std::int64_t skip = first_ ? 1 : 0;
        first_ = false;
        if (gate.rows == skip) return;
        const View g = gate.slice_rows(skip, gate.rows - skip);
        tokens_ += g.rows;
        if (mode_ == Mode::kSquares) return add_squares(exec, up.slice_rows(skip, g.rows));
        const View a = {activations_.data(), DType::kF32, g.rows, g.cols, g.cols};
        ops::activation(exec, source_.spec().gate, g, a);
        mode_ == Mode::kSizes ? add_sizes(a) : count_dropped(unit, a);
    }

    // Mean squares of u by channel.
    [[nodiscard]] std::vector<double> mean_squares() const {
        std::vector<double> out = squares_;
        for (double& s : out) s /= static_cast<double>(std::max<std::int64_t>(tokens_, 1));
        return out;
    }
    // Sizes are then a^2 times these; empty: |a|.
    void weigh_by(std::vector<double> squares) { weights_ = std::move(squares); }
    [[nodiscard]] const SizeCounts& sizes() const noexcept { return sizes_; }
    [[nodiscard]] double share_dropped() const noexcept {
        return static_cast<double>(dropped_) /
               static_cast<double>(std::max<std::int64_t>(seen_, 1));
    }

  private:
    void add_squares(const Exec& exec, View up) {
        squares_.resize(static_cast<std::size_t>(up.cols));
        exec.team->run(up.cols, 64, [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t r = 0; r < up.rows; ++r) {
                for (std::int64_t c = begin; c < end; ++c) {
                    const auto u = static_cast<double>(up.row<float>(r)[c]);
                    squares_[static_cast<std::size_t>(c)] += u * u;
                }
            }
        });
    }
    void add_sizes(View a) {
        for (std::int64_t r = 0; r < a.rows; ++r) {
            const float* row = a.row<float>(r);
            for (std::int64_t c = 0; c < a.cols; ++c) {
                const auto value = static_cast<double>(row[c]);
                sizes_.add(weights_.empty()
                               ? std::abs(row[c])
                               : static_cast<float>(value * value *
                                                    weights_[static_cast<std::size_t>(c)]));
            }
        }
    }
    void count_dropped(UnitId unit, View a) {
        const auto& least = source_.thresholds()[static_cast<std::size_t>(unit.layer)].values;
        for (std::int64_t r = 0; r < a.rows; ++r) {
            for (std::int64_t c = 0; c < a.cols; ++c)
                dropped_ += std::abs(a.row<float>(r)[c]) <= least[static_cast<std::size_t>(c)];
        }
        seen_ += a.rows * a.cols;
    }

    const ModelSource& source_;
    Mode mode_;
    Buffer activations_;
    SizeCounts sizes_;
    std::vector<double> squares_, weights_;
    std::int64_t tokens_ = 0, seen_ = 0, dropped_ = 0;
    bool first_ = true;
};

// One layer over all texts, whose states lie one after the other.
void sweep(Runner& runner, std::int64_t layer, const Texts& texts, View states, GateTap& tap) {
    std::int64_t row = 0;
    for (const auto& text : texts) {
        const std::span<const std::int32_t> tokens = text;
        tap.begin_text();
        runner.sweep_layer(layer, {&tokens, 1}, states.slice_rows(row, std::ssize(text)), &tap);
        row += std::ssize(text);
    }
}

std::int64_t longest_of(const Texts& texts) {
    std::int64_t most = 1;
    for (const auto& text : texts) most = std::max<std::int64_t>(most, std::ssize(text));
    return most;
}

}  // namespace

void SizeCounts::add(float size) noexcept {
    ++counts_[float_to_bits(size) >> kDroppedBits];
    ++total_;
}

void SizeCounts::clear() noexcept {
    std::fill(counts_.begin(), counts_.end(), 0);
    total_ = 0;
}

float SizeCounts::quantile(double share) const noexcept {
    const double wanted = share * static_cast<double>(total_);
    double below = 0;
    for (std::size_t bin = 0; bin < counts_.size(); ++bin) {
        const auto here = static_cast<double>(counts_[bin]);
        if (here > 0 && below + here >= wanted) {
            // As if they lay evenly in their bin.
            const double part = (wanted - below) / here * (1 << kDroppedBits);
            const std::uint32_t within =
                std::min<std::uint32_t>(static_cast<std::uint32_t>(part), (1u << kDroppedBits) - 1);
            return bits_to_float(static_cast<std::uint32_t>(bin << kDroppedBits) | within);
        }
        below += here;
    }
    return 0;
}

std::vector<float> channel_thresholds(float quantile, std::span<const double> squares) {
    constexpr auto kMost = static_cast<double>(std::numeric_limits<float>::max());
    std::vector<float> out;
    for (const double s : squares) {
        const double t = s > 0 ? std::sqrt(static_cast<double>(quantile) / s) : kMost;
        out.push_back(static_cast<float>(std::min(t, kMost)));
    }
    return out;
}

Thresholds measure_thresholds(Runner& runner, const Texts& texts, const ThresholdRule& rule,
                              const Progress& progress) {
    const ModelSource& source = runner.source();
    if (rule.sparsity == 0) return blank_thresholds(source);
    const std::int64_t hidden = source.spec().hidden, tokens = tokens_of(texts);
    const auto bytes = static_cast<std::size_t>(tokens * hidden) * sizeof(float);
    Buffer states(bytes, Purpose::kActivations), passed(bytes, Purpose::kActivations);
    const View x = {states.data(), DType::kF32, tokens, hidden, hidden};
    const View y = {passed.data(), DType::kF32, tokens, hidden, hidden};
    GateTap tap(source, GateTap::Mode::kSizes, longest_of(texts));
    std::vector<std::span<const std::int32_t>> all(texts.begin(), texts.end());
    runner.embed(all, x);
    Thresholds out;
    for (std::int64_t l = 0; l < source.spec().layers; ++l) {
        const auto channels = static_cast<std::size_t>(up_of(source, l).rows());
        std::vector<double> squares;
        if (rule.by_channel) {
            std::memcpy(passed.data(), states.data(), bytes);
            tap.begin_layer(GateTap::Mode::kSquares);
            sweep(runner, l, texts, y, tap);
            squares = tap.mean_squares();
            tap.weigh_by(squares);
        }
        tap.begin_layer(GateTap::Mode::kSizes);
        sweep(runner, l, texts, x, tap);
        const float quantile = tap.sizes().quantile(rule.sparsity);
        out.push_back(rule.by_channel ? channel_thresholds(quantile, squares)
                                      : std::vector<float>(channels, quantile));
        if (!progress("thresholds", l + 1, source.spec().layers)) throw Stopped();
    }
    return out;
}

std::vector<double> measure_dropped(Runner& runner, const Texts& texts, const Progress& progress) {
    const ModelSource& source = runner.source();
    const std::int64_t hidden = source.spec().hidden, longest = longest_of(texts);
    Buffer states(static_cast<std::size_t>(longest * hidden) * sizeof(float),
                  Purpose::kActivations);
    GateTap tap(source, GateTap::Mode::kDropped, longest);
    std::vector<double> out(static_cast<std::size_t>(source.spec().layers));
    double seen = 0;
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const Texts one(texts.begin() + static_cast<std::ptrdiff_t>(i),
                        texts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        const std::int64_t tokens = std::ssize(texts[i]);
        const View x = {states.data(), DType::kF32, tokens, hidden, hidden};
        runner.embed(std::span(one), x);
        for (std::int64_t l = 0; l < source.spec().layers; ++l) {
            tap.begin_layer(GateTap::Mode::kDropped);
            sweep(runner, l, one, x, tap);
            out[static_cast<std::size_t>(l)] +=
                tap.share_dropped() * static_cast<double>(tokens - 1);
        }
        seen += static_cast<double>(tokens - 1);
        if (!progress("dropped", static_cast<std::int64_t>(i) + 1, std::ssize(texts)))
            throw Stopped();
    }
    for (double& share : out) share /= std::max(seen, 1.0);
    return out;
}

void add_thresholds_to_plan(Plan& plan, const ModelSource& source, std::int64_t tokens,
                            std::int64_t longest) {
    std::uint64_t& held = plan.at(Tier::kRam, Purpose::kActivations);
    held += 2 * Buffer::charged_bytes(static_cast<std::size_t>(tokens * source.spec().hidden) *
                                      sizeof(float));
    held += Buffer::charged_bytes(activation_bytes(source, longest)) + SizeCounts::bytes();
    // What is measured, and what is written.
    const auto channels = static_cast<std::uint64_t>(widest(source) * source.spec().layers);
    held += 2 * channels * sizeof(float);
}

Thresholds thresholds_after(const Cut& cut, const ModelSource& source) {
    Thresholds out;
    for (const std::int64_t layer : cut.layers) {
        const auto l = static_cast<std::size_t>(layer);
        const std::vector<float>& all = source.thresholds()[l].values;
        const std::optional<Kept>& channels = cut.of[l].channels;
        if (!channels) {
            out.push_back(all);
            continue;
        }
        std::vector<float>& kept = out.emplace_back();
        for (const std::int64_t c : *channels) kept.push_back(all[static_cast<std::size_t>(c)]);
    }
    return out;
}

Thresholds blank_thresholds(const ModelSource& source) {
    Thresholds out;
    for (std::int64_t l = 0; l < source.spec().layers; ++l)
        out.emplace_back(static_cast<std::size_t>(up_of(source, l).rows()), 0.0F);
    return out;
}

}  // namespace thimble::prune
