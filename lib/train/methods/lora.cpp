// SPDX-License-Identifier: Apache-2.0
// Low-rank adapters on a frozen model in any weight format (on a 4-bit one: QLoRA).
// "LoRA: Low-Rank Adaptation of Large Language Models" (2021): y = W x + s B A x with A uniform in
// +-1/sqrt(in) and B = 0, s = alpha / rank; with rslora s = alpha / sqrt(rank), "A Rank
// Stabilization Scaling Factor for Fine-Tuning with LoRA" (2023). With dora the rows of W + s B A
// are scaled to trained lengths m: "DoRA: Weight-Decomposed Low-Rank Adaptation" (2024), the rows'
// own lengths n held constant in backward (section 4.3). "QLoRA: Efficient Finetuning of Quantized
// LLMs" (2023); rates: "LoRA+: Efficient Low Rank Adaptation of Large Models" (2024).
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/error.h"
#include "core/strings.h"
#include "kernels/layout/rng.h"
#include "ops/columns.h"
#include "train/method.h"

namespace thimble::train {
namespace {

using Part = ParameterId::Part;

// "model.layers.#.self_attn.q_proj.weight" -> "q_proj"
std::string_view module_of(const SourceTensor& tensor) {
    std::string_view name = tensor.rule != nullptr ? tensor.rule->hf : std::string_view{};
    name = name.substr(0, name.rfind('.'));
    return name.substr(name.rfind('.') + 1);
}

class Lora final : public Method {
  public:
    static constexpr std::string_view kName = "lora";
    static constexpr std::string_view kHelp =
        "low-rank adapters on frozen weights of any format; with dora also the rows' lengths";

    struct Options {
        std::int64_t rank = 16;
        double alpha = 0, dropout = 0, b_rate = 1;
        bool rslora = false, dora = false;
        std::vector<std::string> targets;
        void visit(OptionVisitor& v) {
            v.option({.name = "rank", .help = "rank of the adapters", .least = 1, .most = 4096},
                     rank);
            v.option({.name = "alpha",
                      .help = "they are scaled by alpha / rank; 0: twice the rank",
                      .least = 0,
                      .most = 1e6},
                     alpha);
            v.option({.name = "rslora", .help = "scale by alpha / sqrt(rank) instead"}, rslora);
            v.option({.name = "dora", .help = "train the length of each row, too"}, dora);
            v.option({.name = "dropout",
                      .help = "share of an adapter's input that is dropped",
                      .least = 0,
                      .most = 0.99},
                     dropout);
            v.option({.name = "b-rate",
                      .help = "learning rate of B as a multiple of A's (LoRA+: 16)",
                      .least = 1e-3,
                      .most = 1e3},
                     b_rate);
            v.option({.name = "targets",
                      .help = "matrix that gets an adapter, attn_q or q_proj; repeat for several; "
                              "default: all of every layer"},
                     targets);
        }
    };

    Lora(const Options& options, std::string_view where) : options_(options), where_(where) {
        if (options_.alpha == 0) options_.alpha = 2 * static_cast<double>(options_.rank);
        const auto rank = static_cast<double>(options_.rank);
        scale_ = options_.alpha / (options_.rslora ? std::sqrt(rank) : rank);
    }

    [[nodiscard]] ResultKind result() const override { return ResultKind::kAdapter; }

    void declare(const UnitSpec& unit, UnitId id, ParameterSet& parameters) override {
        if (id.kind != UnitKind::kLayer) return;
        for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
            const auto& m = unit.matrices[i];
            roles_.insert(m.role);
            roles_.insert(std::string(module_of(*m.weight)));
            if (wanted(m.role) || wanted(module_of(*m.weight)))
                add_adapter({id, Part::kLowRankA, i, 0}, *m.weight, parameters);
        }
    }

    void check() const override {
        for (const std::string& target : options_.targets) {
            if (roles_.contains(target)) continue;
            const std::vector<std::string> names(roles_.begin(), roles_.end());
            throw Error(Exit::kUsage, where_, "no matrix is called '" + escaped(target) + "'",
                        did_you_mean(target, names));
        }
    }

    void initialise(const ModelSource&, const ParameterSet& parameters, std::size_t index,
                    std::uint64_t seed) const override {
        const Parameter& p = parameters.items()[index];
        const std::int64_t elements = p.info.elements();
        std::fill_n(p.values, elements, 0.0f);
        if (!p.name.ends_with(".lora_a")) return;  // lengths come with the first refresh()
        const auto bound =
            static_cast<float>(1 / std::sqrt(static_cast<double>(p.info.shape.cols)));
        for (std::int64_t e = 0; e < elements; ++e) {
            const auto u = static_cast<std::uint64_t>(e);
            const Philox4 words = philox(seed, u / 4, kInitialStream + index);
            p.values[e] = bound * (2 * unit_float(words.v[u % 4]) - 1);
        }
    }

    void bind(UnitId id, const ParameterSet& parameters, UnitWeights& weights) override {
        if (id.kind != UnitKind::kLayer) return;
        for (std::size_t i = 0; i < weights.matrices.size(); ++i) {
            const auto a = parameters.find({id, Part::kLowRankA, i, 0});
            if (!a) continue;
            Terms& adapter = adapters_[{id.layer, i}];
            adapter.term.a = parameters.items()[*a].packed();
            adapter.term.b = parameters.items()[*a + 1].packed();
            adapter.term.scale = scale_;
            adapter.term.dropout.rate = options_.dropout;
            weights.matrices[i].low_rank = {&adapter.term, 1};
            if (!options_.dora) continue;
            adapter.lengths = parameters.items()[*a + 2].values;
            adapter.device_scales = parameters.items()[*a + 2].on_device;
        }
    }

    void refresh(const Exec& exec, UnitId id, UnitWeights& weights) override {
        if (!options_.dora || id.kind != UnitKind::kLayer) return;
        for (std::size_t i = 0; i < weights.matrices.size(); ++i) {
            const auto at = adapters_.find({id.layer, i});
            if (at != adapters_.end()) refresh_rows(exec, at->second, weights.matrices[i]);
        }
    }

    void finish_gradients(const Exec& exec, ParameterSet& parameters) override {
        if (!options_.dora || exec.dry) return;
        for (auto& [place, adapter] : adapters_) {
            const ParameterId id{{UnitKind::kLayer, place.first}, Part::kRowScale, place.second, 0};
            const View g = parameters[parameters.find(id).value()].gradient;
            // row_scale = m / n, so the gradient of m is that of row_scale over n.
            for (std::int64_t r = 0; r < g.cols; ++r) {
                const double n = adapter.norms[static_cast<std::size_t>(r)];
                if (n == 0) continue;  // nothing to scale: its gradient is 0
                if (g.dtype == DType::kF64) {
                    g.row<double>(0)[r] /= n;
                } else {
                    g.row<float>(0)[r] /= static_cast<float>(n);
                }
            }
        }
    }

    [[nodiscard]] Adapter adapter(const ModelSource& source,
                                  const ParameterSet& parameters) const override {
        Adapter out;
        out.settings.rslora = options_.rslora, out.settings.dora = options_.dora;
        out.settings.dropout = options_.dropout;
        out.settings.base_model = source.spec().name;
        for (std::size_t i = 0; i < parameters.size(); i += options_.dora ? 3 : 2) {
            const Parameter& a = parameters.items()[i];
            AdapterMatrix matrix;
            matrix.tensor = source.find(a.name.substr(0, a.name.rfind('.')));
            matrix.rank = options_.rank, matrix.alpha = options_.alpha;
            matrix.a = a.values, matrix.b = parameters.items()[i + 1].values;
            if (options_.dora) matrix.lengths = parameters.items()[i + 2].values;
            out.matrices.push_back(matrix);
        }
        return out;
    }

    void set_pass(std::uint64_t seed, std::uint64_t pass) override {
        std::uint64_t number = 0;
        for (auto& [place, adapter] : adapters_) {
            adapter.term.dropout.seed = seed;
            adapter.term.dropout.stream = kDropoutStream + (pass << 20) + number++;
        }
    }

  private:
    static constexpr std::uint64_t kInitialStream = std::uint64_t{1} << 56;
    static constexpr std::uint64_t kDropoutStream = std::uint64_t{2} << 56;

    struct Terms {
        LowRank term;
        float* lengths = nullptr;    // m, [out]; DoRA
        std::vector<double> norms;   // n, [out]: lengths of the rows of W + s B A
        std::vector<double> scales;  // m / n, in exec.dtype()
        // On a CUDA device: these, in the place of the lengths, which nothing there reads.
        std::byte* device_scales = nullptr;
    };

    [[nodiscard]] bool wanted(std::string_view name) const {
        const auto& t = options_.targets;
        return t.empty() || std::find(t.begin(), t.end(), name) != t.end();
    }

    void add_adapter(ParameterId id, const SourceTensor& tensor, ParameterSet& parameters) const {
        const auto add = [&](Part part, const char* suffix, Shape2 shape, bool decays,
                             double rate) {
            Parameter p;
            p.name = tensor.name + suffix;
            p.info.shape = shape;
            p.decays = decays;
            p.rate = rate;
            id.part = part;
            parameters.add(id, std::move(p));
        };
        add(Part::kLowRankA, ".lora_a", {options_.rank, tensor.cols()}, true, 1);
        add(Part::kLowRankB, ".lora_b", {tensor.rows(), options_.rank}, true, options_.b_rate);
        if (options_.dora) add(Part::kRowScale, ".lengths", {1, tensor.rows()}, false, 1);
    }

    // Lengths of the rows as they now are, and what scales them to the trained ones; at first both
    // are the rows' own.
    void refresh_rows(const Exec& exec, Terms& adapter, Linear& linear) const {
        const Shape2 shape = linear.weight.shape;
        const bool first = adapter.norms.empty();
        adapter.norms.resize(static_cast<std::size_t>(shape.rows));
        adapter.scales.resize(static_cast<std::size_t>(shape.rows));
        const View scales = {adapter.scales.data(), exec.dtype(), 1, shape.rows, shape.rows};
        linear.row_scale = scales;
        if (adapter.device_scales != nullptr) linear.row_scale->data = adapter.device_scales;
        if (exec.dry) return;
        ops::row_lengths(exec, linear.weight, adapter.term.a, adapter.term.b, adapter.term.scale,
                         adapter.norms);
        for (std::int64_t r = 0; r < shape.rows; ++r) {
            const double n = adapter.norms[static_cast<std::size_t>(r)];
            if (first && adapter.lengths[r] == 0) adapter.lengths[r] = static_cast<float>(n);
            const double scale = n > 0 ? static_cast<double>(adapter.lengths[r]) / n : 0;
            if (exec.dtype() == DType::kF64) {
                scales.row<double>(0)[r] = scale;
            } else {
                scales.row<float>(0)[r] = static_cast<float>(scale);
            }
        }
        if (adapter.device_scales != nullptr) ops::copy_to_device(exec, scales, *linear.row_scale);
    }

    Options options_;
    std::string where_;
    double scale_ = 1;
    std::set<std::string, std::less<>> roles_;
    std::map<std::pair<std::int64_t, std::size_t>, Terms> adapters_;  // by layer and matrix
};

}  // namespace

std::unique_ptr<MethodType> make_lora_method();
std::unique_ptr<MethodType> make_lora_method() { return std::make_unique<MethodOf<Lora>>(); }

}  // namespace thimble::train
