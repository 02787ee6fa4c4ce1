// SPDX-License-Identifier: Apache-2.0
// Full fine-tuning: every tensor of the model is a parameter. Matrices are held in F32, or in BF16
// without a copy in F32 beside it ("pure bf16"): the updater rounds them stochastically then, so
// that steps below their last place still arrive. Vectors stay F32. A tensor with two uses (a tied
// head) is one parameter.
#include <map>

#include "train/method.h"

namespace thimble::train {
namespace {

using Part = ParameterId::Part;

class Full final : public Method {
  public:
    static constexpr std::string_view kName = "full";
    static constexpr std::string_view kHelp = "trains every tensor of the model";

    struct Options {
        std::string weights = "f32";
        void visit(OptionVisitor& v) {
            v.option({.name = "weights",
                      .help = "what matrices are held in while they are trained; bf16: half the "
                              "memory, rounded stochastically at each step",
                      .choices = {"f32", "bf16"}},
                     weights);
        }
    };

    Full(const Options& options, std::string_view /*where*/)
        : in_bf16_(options.weights == "bf16") {}

    [[nodiscard]] ResultKind result() const override { return ResultKind::kModel; }

    void declare(const UnitSpec& unit, UnitId id, ParameterSet& parameters) override {
        for (std::size_t i = 0; i < unit.matrices.size(); ++i) {
            const auto& m = unit.matrices[i];
            add({id, Part::kMatrix, i, 0}, *m.weight, parameters);
            if (m.bias != nullptr) add({id, Part::kBias, i, 0}, *m.bias, parameters);
        }
        for (std::size_t i = 0; i < unit.vectors.size(); ++i)
            add({id, Part::kVector, i, 0}, *unit.vectors[i].weight, parameters);
    }

    void initialise(const ModelSource& source, const ParameterSet& parameters, std::size_t index,
                    std::uint64_t /*seed*/) const override {
        const Parameter& p = parameters.items()[index];
        std::vector<std::byte> scratch;
        constexpr std::int64_t kRows = 16;
        std::vector<float> values(static_cast<std::size_t>(kRows * p.tensor->cols()));
        for (std::int64_t first = 0; first < p.tensor->rows(); first += kRows) {
            const std::int64_t count = std::min(kRows, p.tensor->rows() - first);
            source.read_rows(*p.tensor, first, count, values.data(), scratch);
            p.write(first * p.tensor->cols(),
                    std::span(values).first(static_cast<std::size_t>(count * p.tensor->cols())));
        }
    }

    void bind(UnitId id, const ParameterSet& parameters, UnitWeights& weights) override {
        const auto value = [&](Part part, std::size_t i) -> const Parameter& {
            return parameters.items()[parameters.find({id, part, i, 0}).value()];
        };
        for (std::size_t i = 0; i < weights.matrices.size(); ++i) {
            weights.matrices[i].weight = value(Part::kMatrix, i).packed();
            if (parameters.find({id, Part::kBias, i, 0}))
                weights.matrices[i].bias = value(Part::kBias, i).vector();
        }
        for (std::size_t i = 0; i < weights.vectors.size(); ++i)
            weights.vectors[i] = value(Part::kVector, i).vector();
    }

  private:
    void add(const ParameterId& id, const SourceTensor& tensor, ParameterSet& parameters) {
        const auto known = places_.find(&tensor);
        if (known != places_.end()) return parameters.also(id, known->second);
        Parameter p;
        p.name = tensor.name;
        p.info.shape = {tensor.rows(), tensor.cols()};
        p.info.is_embedding = id.unit.kind == UnitKind::kEmbedding;
        p.decays = tensor.is_matrix;
        p.in_bf16 = in_bf16_ && tensor.is_matrix;
        p.tensor = &tensor;
        places_[&tensor] = parameters.add(id, std::move(p));
    }

    bool in_bf16_;
    std::map<const SourceTensor*, std::size_t> places_;
};

}  // namespace

std::unique_ptr<MethodType> make_full_method();
std::unique_ptr<MethodType> make_full_method() { return std::make_unique<MethodOf<Full>>(); }

}  // namespace thimble::train
