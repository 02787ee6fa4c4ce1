// SPDX-License-Identifier: Apache-2.0
#include "prune/activation_sparsity.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "eval/metrics.h"
#include "model/block.h"
#include "ops/dense.h"

namespace thimble::prune {
namespace {

constexpr std::int64_t kSampled = 256;  // tokens that CETT is worked out on
constexpr int kQuantiles = 48;          // and thresholds
constexpr double kHighest = 0.995;      // quantile
constexpr int kBisections = 14;

constexpr std::string_view kDown = "ffn_down";

// The neurons of one layer.
struct Neurons {
    const SourceTensor* down = nullptr;
    std::vector<double> norms;   // |W_down[:, i]|
    std::vector<float> sampled;  // [tokens, neurons]
    std::vector<double> thresholds, cetts;
    double threshold = -1;  // negative: all are kept
    std::int64_t kept = 0, seen = 0;

    // Between the two that are nearest.
    [[nodiscard]] double threshold_for(double cett) const {
        const auto above = std::upper_bound(cetts.begin(), cetts.end(), cett);
        if (above == cetts.begin()) return -1;
        const auto k = static_cast<std::size_t>(above - cetts.begin());
        if (k == cetts.size()) return thresholds.back();
        const double share = (cett - cetts[k - 1]) / (cetts[k] - cetts[k - 1]);
        return thresholds[k - 1] + share * (thresholds[k] - thresholds[k - 1]);
    }
};

// Samples what the last matrix of each block reads, or leaves out of it what is small.
class NeuronTap final : public Tap {
  public:
    enum class Mode : std::uint8_t { kSample, kMask };
    NeuronTap(const ModelSource& source, std::vector<Neurons>& layers)
        : specs_(units_of(source)), layers_(layers) {}
    void set(Mode mode) { mode_ = mode; }
    void input(UnitId unit, std::span<const std::size_t> matrices, View x) override {
        if (matrices.size() != 1) return;
        const UnitSpec& spec = specs_[index_of(unit, specs_)];
        if (spec.matrices[matrices.front()].role != kDown) return;
        Neurons& layer = layers_[static_cast<std::size_t>(unit.layer)];
        mode_ == Mode::kSample ? sample(layer, x) : mask(layer, x);
    }

  private:
    static void sample(Neurons& layer, View x) {
        for (std::int64_t r = 0; r < x.rows; ++r) {
            if (std::ssize(layer.sampled) >= kSampled * x.cols) return;
            layer.sampled.insert(layer.sampled.end(), x.row<float>(r), x.row<float>(r) + x.cols);
        }
    }
    static void mask(Neurons& layer, View x) {
        for (std::int64_t r = 0; r < x.rows; ++r) {
            auto* row = x.row<float>(r);
            for (std::int64_t c = 0; c < x.cols; ++c) {
                const double n =
                    std::abs(double{row[c]}) * layer.norms[static_cast<std::size_t>(c)];
                if (n <= layer.threshold) {
                    row[c] = 0;
                } else {
                    ++layer.kept;
                }
            }
        }
        layer.seen += x.rows * x.cols;
    }

    std::vector<UnitSpec> specs_;
    std::vector<Neurons>& layers_;
    Mode mode_ = Mode::kSample;
};

double norm_of(const float* row, std::int64_t n) {
    double sum = 0;
    for (std::int64_t i = 0; i < n; ++i) sum += double{row[i]} * double{row[i]};
    return std::sqrt(sum);
}

void add_products(const View& x, const View& w, const View& y, Team& team) {
    Exec exec;
    exec.team = &team;
    ops::dense::Product product;
    product.a = x, product.b = w, product.b_transposed = true, product.c = y;
    product.accumulate = true;
    ops::dense::multiply_tiled(exec, product);
}

// Thresholds at quantiles of a layer's outputs, and their CETT.
void survey(Neurons& layer, const ModelSource& source, Team& team) {
    const std::int64_t neurons = layer.down->cols(), hidden = layer.down->rows();
    std::vector<float> sizes;
    sizes.reserve(layer.sampled.size());
    for (std::size_t i = 0; i < layer.sampled.size(); ++i) {
        const auto c = i % static_cast<std::size_t>(neurons);
        sizes.push_back(static_cast<float>(std::abs(double{layer.sampled[i]}) * layer.norms[c]));
    }
    std::sort(sizes.begin(), sizes.end());
    for (int k = 0; k < kQuantiles; ++k) {
        const double at = kHighest * k / (kQuantiles - 1);
        const double size =
            sizes[static_cast<std::size_t>(at * static_cast<double>(sizes.size() - 1))];
        if (layer.thresholds.empty() || size > layer.thresholds.back())
            layer.thresholds.push_back(size);
    }
    std::vector<float> weights(static_cast<std::size_t>(neurons * hidden));
    std::vector<std::byte> scratch;
    source.read_rows(*layer.down, 0, hidden, weights.data(), scratch);
    const std::int64_t tokens = std::ssize(layer.sampled) / neurons;
    layer.cetts =
        cett_at(layer.sampled, weights, tokens, hidden, layer.norms, layer.thresholds, team);
    layer.sampled = {};
}

// The text's perplexity with what the layers leave out.
class Scorer {
  public:
    Scorer(Runner& runner, const eval::Windows& windows, NeuronTap& tap,
           std::vector<Neurons>& layers)
        : runner_(runner),
          windows_(windows),
          tap_(tap),
          layers_(layers),
          states_(static_cast<std::size_t>((windows.context() - 1) * runner.spec().hidden) *
                      sizeof(float),
                  Purpose::kActivations) {}

    double perplexity() {
        for (Neurons& layer : layers_) layer.kept = layer.seen = 0;
        const std::int64_t hidden = runner_.spec().hidden, rows = windows_.context() - 1;
        double sum = 0;
        for (std::int64_t w = 0; w < windows_.count(); ++w) {
            const std::span<const Token> text = windows_.inputs(w);
            const View x = {states_.data(), DType::kF32, rows, hidden, hidden};
            (void)runner_.sweep({&text, 1}, x, &tap_, {});
            const std::int64_t first = windows_.first_row();
            runner_.head(x.slice_rows(first, windows_.rows()), nullptr,
                         [&](std::int64_t at, View logits) {
                             for (std::int64_t r = 0; r < logits.rows; ++r) {
                                 const Token next = windows_.target(w, first + at + r);
                                 sum += eval::score_row(logits.slice_rows(r, 1), next).nll;
                             }
                         });
        }
        return std::exp(sum / static_cast<double>(windows_.count() * windows_.rows()));
    }

  private:
    Runner& runner_;
    const eval::Windows& windows_;
    NeuronTap& tap_;
    std::vector<Neurons>& layers_;
    Buffer states_;
};

std::vector<Neurons> neurons_of(const ModelSource& source, Team& team) {
    std::vector<Neurons> layers;
    for (const SourceTensor& tensor : source.tensors()) {
        if (!tensor.is_matrix || tensor.rule->cols != Extent::kFfn) continue;
        Neurons layer;
        layer.down = &tensor;
        for (const double square : squared_column_norms(source, tensor, team))
            layer.norms.push_back(std::sqrt(square));
        layers.push_back(std::move(layer));
    }
    if (std::ssize(layers) == source.spec().layers) return layers;
    throw Error(Exit::kUsage, escaped(source.file().path(), 1024),
                "has no feed-forward block in some layer: there are no neurons to leave out");
}

}  // namespace

std::vector<double> cett_at(std::span<const float> neurons, std::span<const float> weights,
                            std::int64_t count, std::int64_t hidden, std::span<const double> norms,
                            std::span<const double> thresholds, Team& team) {
    const auto n = std::ssize(norms);
    std::vector<float> full(static_cast<std::size_t>(count * hidden)), dropped(full.size());
    std::vector<float> part(neurons.begin(), neurons.end());
    const View w = {const_cast<float*>(weights.data()), DType::kF32, hidden, n, n};
    const View x = {part.data(), DType::kF32, count, n, n};
    add_products(x, w, {full.data(), DType::kF32, count, hidden, hidden}, team);
    std::vector<double> out;
    double below = -1;
    for (const double threshold : thresholds) {  // what comes between two of them is added
        for (std::size_t i = 0; i < part.size(); ++i) {
            const double size = std::abs(double{neurons[i]}) * norms[i % norms.size()];
            part[i] = size > below && size <= threshold ? neurons[i] : 0;
        }
        add_products(x, w, {dropped.data(), DType::kF32, count, hidden, hidden}, team);
        double sum = 0;
        for (std::int64_t t = 0; t < count; ++t) {
            const double whole = norm_of(full.data() + t * hidden, hidden);
            if (whole > 0) sum += norm_of(dropped.data() + t * hidden, hidden) / whole;
        }
        out.push_back(sum / static_cast<double>(count));
        below = threshold;
    }
    // Sums of vectors may cancel; what is asked for is the largest threshold that is good enough.
    for (std::size_t k = out.size(); k-- > 1;) out[k - 1] = std::min(out[k - 1], out[k]);
    return out;
}

ActivationSparsity measure_activation_sparsity(Runner& runner, Team& team,
                                               const eval::Windows& windows, double percent,
                                               const Progress& progress) {
    const ModelSource& source = runner.source();
    std::vector<Neurons> layers = neurons_of(source, team);
    NeuronTap tap(source, layers);
    Scorer scorer(runner, windows, tap, layers);
    std::int64_t done = 0;
    const auto step = [&] {
        if (!progress("passes", ++done, kBisections + 3)) throw Stopped();
    };
    ActivationSparsity out;
    out.percent = percent;
    out.tokens = windows.count() * windows.rows();
    out.dense_perplexity = scorer.perplexity();  // which samples, too
    step();
    for (Neurons& layer : layers) survey(layer, source, team);
    step();
    tap.set(NeuronTap::Mode::kMask);
    const auto with = [&](double cett) {
        for (Neurons& layer : layers) layer.threshold = layer.threshold_for(cett);
        return scorer.perplexity();
    };
    double low = 0, high = 1;
    const double most = out.dense_perplexity * (1 + percent / 100);
    for (int i = 0; i < kBisections; ++i) {
        const double middle = (low + high) / 2;
        (with(middle) <= most ? low : high) = middle;
        step();
    }
    out.cett = low;
    out.sparse_perplexity = with(low);
    step();
    for (const Neurons& layer : layers) {
        out.layers.push_back({std::max(layer.threshold, 0.0),
                              static_cast<double>(layer.kept) /
                                  static_cast<double>(std::max<std::int64_t>(layer.seen, 1))});
    }
    return out;
}

double ActivationSparsity::kept() const noexcept {
    double sum = 0;
    for (const LayerSparsity& layer : layers) sum += layer.kept;
    return layers.empty() ? 1 : sum / static_cast<double>(layers.size());
}

Json ActivationSparsity::json() const {
    Json out = Json::object(), list = Json::array();
    out.set("percent", percent);
    out.set("cett", cett);
    out.set("ppl", dense_perplexity);
    out.set("ppl_sparse", sparse_perplexity);
    out.set("kept", kept());
    out.set("tokens", tokens);
    for (const LayerSparsity& layer : layers) {
        Json one = Json::object();
        one.set("threshold", layer.threshold);
        one.set("kept", layer.kept);
        list.push(std::move(one));
    }
    out.set("layers", std::move(list));
    return out;
}

void add_sparsity_to_plan(Plan& plan, const ModelSource& source, std::int64_t windows,
                          std::int64_t context) {
    const auto& spec = source.spec();
    const auto sampled = static_cast<std::uint64_t>(std::min(kSampled, windows * context));
    const auto ffn = static_cast<std::uint64_t>(spec.ffn);
    const auto hidden = static_cast<std::uint64_t>(spec.hidden);
    std::uint64_t& held = plan.at(Tier::kRam, Purpose::kActivations);
    held += Buffer::charged_bytes(static_cast<std::size_t>((context - 1) * spec.hidden) *
                                  sizeof(float));
    held += static_cast<std::uint64_t>(spec.layers) *
            (sampled * ffn * sizeof(float) + ffn * sizeof(double));
    held += sizeof(float) * (ffn * hidden + 2 * sampled * ffn + 2 * sampled * hidden);
}

}  // namespace thimble::prune
