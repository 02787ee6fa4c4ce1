// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kv_harness.h"

#include <algorithm>
#include <cmath>

#include "core/cpu.h"
#include "kernels/layout/rng.h"

namespace thimble::test {
namespace {

void rotate(const ops::Rope& rope, double position, double* head) {
    for (int i = 0; i < rope.dims / 2; ++i) {
        const double angle =
            position * rope.frequency_scale * std::pow(rope.base, -2.0 * i / rope.dims);
        const bool halves = rope.style == ops::RopeStyle::kHalves;
        double& a = head[halves ? i : 2 * i];
        double& b = head[halves ? i + rope.dims / 2 : 2 * i + 1];
        const double x = a, y = b;
        a = x * std::cos(angle) - y * std::sin(angle);
        b = x * std::sin(angle) + y * std::cos(angle);
    }
}

struct OptionNames final : OptionVisitor {
    std::vector<std::string> names;
    void option(const OptionInfo& info, bool&) override { names.emplace_back(info.name); }
    void option(const OptionInfo& info, std::int64_t&) override { names.emplace_back(info.name); }
    void option(const OptionInfo& info, double&) override { names.emplace_back(info.name); }
    void option(const OptionInfo& info, std::string&) override { names.emplace_back(info.name); }
    void option(const OptionInfo& info, std::vector<std::string>&) override {
        names.emplace_back(info.name);
    }
    void group(std::string_view) override {}
};

}  // namespace

std::vector<AttentionSpec> kv_layers(std::int64_t window) {
    AttentionSpec global;
    global.shape = {.kv_heads = 2, .heads = 6, .head_dim = 32};
    global.rope.dims = 32;
    global.scale = 0.2;
    AttentionSpec local = global;
    local.shape.window = window;
    local.rope.style = ops::RopeStyle::kHalves;
    local.rope.dims = 16;
    local.rope.base = 500.0;
    AttentionSpec capped = global;
    capped.rope.style = ops::RopeStyle::kHalves;
    capped.rope.base = 1e6;
    capped.rope.frequency_scale = 0.125;
    capped.softcap = 2.0;
    return {global, local, capped};
}

KvOptions kv_options(const std::string& policy, std::int64_t context, const std::string& type) {
    return {.policy = policy, .type_k = type, .type_v = type, .context_tokens = context};
}

std::string with_budget(const KvPolicyType& type, std::int64_t budget) {
    OptionNames visitor;
    type.visit_options(visitor);
    const std::string name(type.name());
    const bool bounded =
        std::find(visitor.names.begin(), visitor.names.end(), "budget") != visitor.names.end();
    return bounded ? name + ":budget=" + std::to_string(budget) : name;
}

Isa KvHarness::best_isa_for_tests() { return best_isa(); }

KvHarness::KvHarness(std::vector<AttentionSpec> layers, KvOptions options, Device device,
                     int threads, Isa isa)
    : layers_(std::move(layers)),
      options_(std::move(options)),
      engine_(layers_, options_, device),
      device_(device),
      team_(threads),
      isa_(isa) {}

SeqId KvHarness::open(std::uint64_t seed) {
    const SeqId seq = engine_.open();
    sequences_[seq] = {.seed = seed, .rows = std::vector<Rows>(layers_.size())};
    return seq;
}

void KvHarness::feed(SeqId seq, std::int64_t count, std::int64_t chunk) {
    for (; count > 0; count -= chunk) step(seq, std::min(count, chunk));
}

void KvHarness::truncate(SeqId seq, std::int64_t tokens) {
    engine_.truncate(seq, tokens);
    for (Rows& rows : sequences_[seq].rows) rows.resize(static_cast<std::size_t>(tokens));
}

std::vector<double> kv_input(std::uint64_t seed, std::size_t layer, std::int64_t position,
                             KvInput what, int heads, int head_dim) {
    std::vector<double> row;
    const std::uint64_t stream = layer * 4 + static_cast<std::uint64_t>(what);
    for (int i = 0; i < heads * head_dim; ++i) {
        const Philox4 r = philox(
            seed, static_cast<std::uint64_t>(position) << 20 | static_cast<unsigned>(i), stream);
        row.push_back(4.0 * static_cast<double>(unit_float(r.v[0])) - 2.0);
    }
    return row;
}

void KvHarness::step(SeqId seq, std::int64_t count) {
    Sequence& sequence = sequences_.at(seq);
    const std::int64_t first = engine_.tokens(seq);
    Workspace workspace(KvEngine::workspace_bytes(layers_, options_, count, device_).host);
    Exec exec{.device = device_, .isa = isa_, .team = &team_, .workspace = &workspace};
    engine_.begin_step(seq, count);
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
        const AttentionLayer& shape = layers_[layer].shape;
        const auto make = [&](std::vector<double>& wide, std::vector<float>& narrow, int heads) {
            const std::int64_t cols = std::int64_t{heads} * shape.head_dim;
            narrow.assign(wide.begin(), wide.end());
            return exec.dtype() == DType::kF64
                       ? View{wide.data(), DType::kF64, count, cols, cols}
                       : View{narrow.data(), DType::kF32, count, cols, cols};
        };
        const auto input = [&](KvInput what, int heads) {
            std::vector<double> all;
            for (std::int64_t t = 0; t < count; ++t) {
                const auto row =
                    kv_input(sequence.seed, layer, first + t, what, heads, shape.head_dim);
                all.insert(all.end(), row.begin(), row.end());
            }
            return all;
        };
        std::vector<double> q = input(KvInput::kQuery, shape.heads);
        std::vector<double> k = input(KvInput::kKey, shape.kv_heads);
        std::vector<double> v = input(KvInput::kValue, shape.kv_heads);
        std::vector<double> out(q.size(), std::nan(""));
        std::vector<float> q32, k32, v32, out32;
        const View result = make(out, out32, shape.heads);
        engine_.attend(exec, static_cast<int>(layer), make(q, q32, shape.heads),
                       make(k, k32, shape.kv_heads), make(v, v32, shape.kv_heads), result);
        for (std::int64_t t = 0; t < count; ++t) {
            std::vector<double> row;
            for (std::int64_t i = 0; i < result.cols; ++i) {
                row.push_back(exec.dtype() == DType::kF64
                                  ? result.row<double>(t)[i]
                                  : static_cast<double>(result.row<float>(t)[i]));
            }
            sequence.rows[layer].push_back(std::move(row));
        }
    }
    engine_.end_step();
}

std::vector<double> attend_in_double(const AttentionSpec& spec, std::uint64_t seed,
                                     std::size_t layer, std::int64_t position,
                                     const Visible& visible) {
    const AttentionLayer& shape = spec.shape;
    const int dim = shape.head_dim, group = shape.heads / shape.kv_heads;
    std::vector<double> q = kv_input(seed, layer, position, KvInput::kQuery, shape.heads, dim);
    for (int h = 0; h < shape.heads; ++h)
        rotate(spec.rope, static_cast<double>(visible.query_position),
               &q[static_cast<std::size_t>(h * dim)]);
    const std::size_t n = visible.keys.size();
    std::vector<std::vector<double>> keys(n), values(n);
    for (std::size_t j = 0; j < n; ++j) {
        keys[j] = kv_input(seed, layer, visible.keys[j], KvInput::kKey, shape.kv_heads, dim);
        values[j] = kv_input(seed, layer, visible.keys[j], KvInput::kValue, shape.kv_heads, dim);
        for (int h = 0; h < shape.kv_heads; ++h)
            rotate(spec.rope, static_cast<double>(visible.positions[j]),
                   &keys[j][static_cast<std::size_t>(h * dim)]);
    }
    std::vector<double> out(q.size());
    for (int h = 0; h < shape.heads; ++h) {
        const int kv = h / group;
        std::vector<double> score(n);
        for (std::size_t j = 0; j < n; ++j) {
            double dot = 0;
            for (int d = 0; d < dim; ++d)
                dot += q[static_cast<std::size_t>(h * dim + d)] *
                       keys[j][static_cast<std::size_t>(kv * dim + d)];
            score[j] = dot * spec.scale;
            if (spec.softcap > 0) score[j] = spec.softcap * std::tanh(score[j] / spec.softcap);
        }
        const double top = *std::max_element(score.begin(), score.end());
        double sum = 0;
        for (double& s : score) sum += s = std::exp(s - top);
        for (std::size_t j = 0; j < n; ++j)
            for (int d = 0; d < dim; ++d)
                out[static_cast<std::size_t>(h * dim + d)] +=
                    score[j] / sum * values[j][static_cast<std::size_t>(kv * dim + d)];
    }
    return out;
}

}  // namespace thimble::test
