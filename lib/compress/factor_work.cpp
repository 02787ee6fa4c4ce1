// SPDX-License-Identifier: Apache-2.0
// What a FactorJob does: looks at inputs, factors, chooses ranks, writes and compares.
#include <algorithm>
#include <numeric>

#include "compress/factor_state.h"
#include "core/error.h"
#include "io/gguf_writer.h"
#include "model/factored_tensor.h"

namespace thimble {
namespace {

// Where its factors lie meanwhile, as long as they may be.
std::string a_name(const FactorCandidate& c) { return factor_a_name(c.tensor->name); }
std::string b_name(const FactorCandidate& c) { return factor_b_name(c.tensor->name); }

}  // namespace

std::vector<TensorSpec> FactorJob::State::scratch_specs() const {
    std::vector<TensorSpec> specs;
    for (const FactorCandidate& c : candidates) {
        if (c.most() == 0) continue;
        const auto most = static_cast<std::uint64_t>(c.most());
        const auto [rows, cols] = c.shape();
        specs.push_back({a_name(c), TensorType::kF32, {most, static_cast<std::uint64_t>(cols)}});
        specs.push_back({b_name(c), TensorType::kF32, {most, static_cast<std::uint64_t>(rows)}});
    }
    return specs;
}

std::uint64_t FactorJob::State::scratch_bytes() const {
    return GgufWriter::predict(Metadata(), scratch_specs()).file_bytes;
}

std::vector<RankChoices> FactorJob::State::all_choices() const {
    std::vector<RankChoices> out;
    for (const FactorCandidate& c : candidates) out.push_back(c.choices);
    return out;
}

void FactorJob::State::choose() {
    const std::vector<std::size_t> chosen =
        options.ranks == "equal" ? choose_equal(all_choices(), options.ratio)
                                 : choose_ranks(all_choices(), bytes_wanted(), "--ratio");
    for (std::size_t i = 0; i < chosen.size(); ++i) candidates[i].chosen = chosen[i];
}

FactorChoices FactorJob::State::choices() const {
    FactorChoices out;
    for (const FactorCandidate& c : candidates)
        out[c.tensor] = {c.choices[c.chosen].rank, c.format};
    return out;
}

// Each layer is looked at as the model has it: what is lost before it does not change what it is
// factored for, and ranks can be chosen for all at once.
void FactorJob::State::learn(Team& team, Isa isa, const std::string& scratch,
                             const Progress& progress) {
    GgufWriter out(scratch, Metadata(), scratch_specs(), IfExists::kReplace);
    const std::vector<UnitSpec> units = units_of(*source);
    std::optional<Runner> runner;
    Buffer states;
    View x;
    Exec exec;
    exec.isa = isa, exec.team = &team, exec.activations = Activations::kF32;
    const UnitSpec* unit = nullptr;
    InputTap tap(exec, sums(), [&](std::size_t matrix) {
        return std::ranges::any_of(candidates, [&](const FactorCandidate& c) {
            return c.tensor == unit->matrices[matrix].weight && c.most() > 0;
        });
    });
    if (looks()) {
        runner.emplace(ModelSource::open(options.model), looking, team);
        const std::int64_t tokens = tokens_of(texts->windows()), hidden = source->spec().hidden;
        states = Buffer(static_cast<std::size_t>(tokens * hidden) * sizeof(float),
                        Purpose::kActivations);
        x = {states.data(), DType::kF32, tokens, hidden, hidden};
        runner->embed(texts->windows(), x);
    }
    for (std::int64_t layer = 0; layer < source->spec().layers; ++layer) {
        unit = &units[static_cast<std::size_t>(layer) + 1];
        tap.clear();
        if (runner) runner->sweep_layer(layer, texts->windows(), x, &tap);
        factor_layer(layer, *unit, runner ? &tap : nullptr, team, out);
        if (!progress("layers", layer + 1, source->spec().layers)) throw Stopped();
    }
    out.finish();
}

void FactorJob::State::factor_layer(std::int64_t layer, const UnitSpec& unit, const InputTap* tap,
                                    Team& team, TensorWriter& out) {
    struct Work {
        FactorCandidate* candidate = nullptr;
        std::size_t place = 0;  // of its a among the scratch file's tensors
        std::size_t matrix = 0;
    };
    std::vector<Work> work;
    std::size_t place = 0;
    for (FactorCandidate& c : candidates) {
        if (c.most() == 0) continue;
        const auto at = std::ranges::find(unit.matrices, c.tensor, &UnitSpec::Matrix::weight);
        if (c.tensor->layer == layer && at != unit.matrices.end())
            work.push_back({&c, place, static_cast<std::size_t>(at - unit.matrices.begin())});
        place += 2;
    }
    std::mutex writing;
    team.run(std::ssize(work), 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const Work& w = work[static_cast<std::size_t>(i)];
            std::vector<double> squares;
            InputNorm norm;
            norm.damp = options.damp;
            if (sums().squares) squares = tap->squares(w.matrix);
            if (sums().gram) norm.gram = tap->gram(w.matrix);
            norm.squares = squares;
            if (looks() && norm.gram.empty() && norm.squares.empty())
                throw Error(Exit::kBadData, escaped(options.model, 1024),
                            "no token reached '" + w.candidate->tensor->name + "'");
            factor(*w.candidate, norm, w.place, out, writing);
        }
    });
}

void FactorJob::State::factor(FactorCandidate& c, const InputNorm& norm, std::size_t place,
                              TensorWriter& out, std::mutex& writing) const {
    const auto [rows, cols] = c.shape();
    std::vector<float> weights(static_cast<std::size_t>(rows * cols));
    const Charge charge(Tier::kRam, Purpose::kOther, weights.size() * sizeof(float));
    std::vector<std::byte> bytes;
    const std::int64_t step = std::max<std::int64_t>((std::int64_t{1} << 20) / cols, 1);
    for (std::int64_t first = 0; first < rows; first += step)
        source->read_rows(*c.tensor, first, std::min(step, rows - first),
                          weights.data() + first * cols, bytes);
    const MatrixFactors factors =
        factor_matrix(weights, c.shape(), norm, c.most(),
                      escaped(options.model, 1024) + ": tensor '" + c.tensor->name + "'");
    const double all = std::accumulate(factors.energy.begin(), factors.energy.end(), 0.0);
    double lost = 0;
    auto next = std::ssize(factors.energy);
    for (std::size_t i = 1; i < c.choices.size(); ++i) {
        RankChoice& choice = c.choices[i];
        for (; next > choice.rank; --next)
            lost += factors.energy[static_cast<std::size_t>(next - 1)];
        choice.loss = all > 0 ? lost / all : 0;
    }
    const std::lock_guard lock(writing);
    out.write(place, 0, std::as_bytes(std::span(factors.a)));
    out.write(place + 1, 0, std::as_bytes(std::span(factors.b)));
}

void FactorJob::State::write(const std::string& scratch, const std::string& path, Isa isa,
                             const Progress& progress) {
    choose();
    const FactorWriter writer(*source, choices());
    const IfExists if_exists =
        options.overwrite || path != options.output ? IfExists::kReplace : IfExists::kRefuse;
    GgufWriter out(path, metadata(writer, true), writer.specs(), if_exists);
    const Charge disk(Tier::kDisk, Purpose::kWeights, out.file_bytes());
    output_bytes = out.file_bytes();
    std::int64_t done = 0;
    const std::int64_t all = std::ssize(writer.copied()) + std::ssize(candidates);
    const auto step = [&] {
        if (!progress("write", ++done, all)) throw Stopped();
    };
    for (const FactorOutput& tensor : writer.copied()) {
        writer.copy(tensor, out);
        step();
    }
    const std::unique_ptr<ModelFile> factors = ModelFile::open(scratch);
    reports.clear();
    for (const FactorCandidate& c : candidates) {
        const RankChoice& choice = c.choices[c.chosen];
        reports.push_back(
            {c.tensor->name, choice.rank, c.choices.front().bytes, choice.bytes, choice.loss});
        if (choice.rank > 0) {
            const auto [rows, cols] = c.shape();
            std::vector<float> a(static_cast<std::size_t>(choice.rank * cols)),
                b(static_cast<std::size_t>(choice.rank * rows)), turned(b.size());
            factors->read(factors->get(a_name(c)), 0, std::as_writable_bytes(std::span(a)));
            factors->read(factors->get(b_name(c)), 0, std::as_writable_bytes(std::span(b)));
            for (std::int64_t k = 0; k < choice.rank; ++k)
                for (std::int64_t r = 0; r < rows; ++r)
                    turned[static_cast<std::size_t>(r * choice.rank + k)] =
                        b[static_cast<std::size_t>(k * rows + r)];
            writer.store(*c.tensor, a, turned, isa, out);
        }
        step();
    }
    out.finish();
}

void FactorJob::State::check(const std::string& path, Team& team, const Progress& progress) {
    Runner changed(ModelSource::open(path), checking, team);
    Runner original(ModelSource::open(options.model), checking, team);
    quality = eval::measure_quality(changed, original, *texts->checks(), progress);
    eval::check_divergence(*quality, options.max_kld, "give a larger --ratio");
}

}  // namespace thimble
