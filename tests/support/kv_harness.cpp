// SPDX-License-Identifier: Apache-2.0
#include "tests/support/kv_harness.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/cpu.h"
#include "kernels/layout/rng.h"
#include "kv/chain.h"
#include "tests/support/temp_dir.h"

namespace thimble::test {
namespace {

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

void rotate_in_double(const ops::Rope& rope, double position, double* head) {
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

std::string write_head_profile(const HeadProfile& profile) {
    static const TempDir folder;
    static int count = 0;
    const std::string path = folder / ("heads" + std::to_string(count++) + ".json");
    std::ofstream(path) << profile.json().dump();
    return path;
}

std::string with_budget(const KvPolicyType& type, std::int64_t budget, std::size_t layers) {
    OptionNames visitor;
    type.visit_options(visitor);
    const std::string name(type.name());
    const auto has = [&](std::string_view option) {
        return std::find(visitor.names.begin(), visitor.names.end(), option) != visitor.names.end();
    };
    std::string options;
    if (has("budget")) options = ":budget=" + std::to_string(budget);
    if (!has("sidecar")) return name + options;
    HeadProfile profile{.model = "test", .query_heads = 6, .heads = {}, .layer_score = {}};
    for (std::size_t i = 0; i < layers; ++i) {
        profile.heads.push_back({static_cast<std::int64_t>(i), 4});
        profile.layer_score.push_back(1.0 + static_cast<double>(i) / 8);
    }
    return name + options + ",sidecar=" + write_head_profile(profile);
}

std::vector<std::string> policies_with_budget(std::int64_t budget, std::size_t layers) {
    std::vector<std::string> all;
    for (const auto& type : kv_policies().items()) {
        std::string one = with_budget(*type, budget, layers);
        const auto duties = KvChain::parse_link(one, "test")->duties();
        if ((duties & KvPolicy::kFilter) != 0) continue;  // the Runner's business, not the engine's
        const bool needs_scores =
            (duties & (KvPolicy::kLayers | KvPolicy::kHeads | KvPolicy::kMerge)) != 0 &&
            (duties & KvPolicy::kScore) == 0;
        if (needs_scores) one = "snapkv:window=16,budget=" + std::to_string(budget) + "+" + one;
        all.push_back(one);
    }
    return all;
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

void KvHarness::finish_prompt(SeqId seq) {
    with_exec(1, [&](const Exec& exec) { engine_.end_prompt(exec, seq); });
}

void KvHarness::feed_prompt(SeqId seq, std::int64_t count, std::int64_t chunk) {
    if (engine_.edits_by_layer()) return feed_by_layer(seq, count, chunk);
    feed(seq, count, chunk);
    finish_prompt(seq);
}

void KvHarness::feed_by_layer(SeqId seq, std::int64_t count, std::int64_t chunk) {
    const std::int64_t seen = engine_.tokens(seq);
    with_exec(chunk, [&](const Exec& exec) {
        for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
            for (std::int64_t first = 0; first < count; first += chunk) {
                const std::int64_t some = std::min(chunk, count - first);
                engine_.begin_layer_step(seq, first, some);
                attend(exec, seq, layer, seen + first, some);
                engine_.end_step();
            }
            engine_.end_layer(exec, seq, static_cast<int>(layer), seen + count);
        }
    });
    engine_.end_layers(seq, seen + count);
}

SeqId KvHarness::fork(SeqId seq) {
    const SeqId other = engine_.fork(seq);
    sequences_[other] = sequences_.at(seq);
    return other;
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

template <class Fn>
void KvHarness::with_exec(std::int64_t count, Fn&& fn) {
    Workspace workspace(KvEngine::workspace_bytes(layers_, options_, count, device_).host);
    fn(Exec{.device = device_, .isa = isa_, .team = &team_, .workspace = &workspace});
}

void KvHarness::step(SeqId seq, std::int64_t count) {
    const std::int64_t first = engine_.tokens(seq);
    with_exec(count, [&](const Exec& exec) {
        engine_.begin_step(seq, count);
        for (std::size_t layer = 0; layer < layers_.size(); ++layer)
            attend(exec, seq, layer, first, count);
        engine_.end_step();
    });
}

void KvHarness::attend(const Exec& exec, SeqId seq, std::size_t layer, std::int64_t first,
                       std::int64_t count) {
    Sequence& sequence = sequences_.at(seq);
    const AttentionLayer& shape = layers_[layer].shape;
    const auto make = [&](std::vector<double>& wide, std::vector<float>& narrow, int heads) {
        const std::int64_t cols = std::int64_t{heads} * shape.head_dim;
        narrow.assign(wide.begin(), wide.end());
        return exec.dtype() == DType::kF64 ? View{wide.data(), DType::kF64, count, cols, cols}
                                           : View{narrow.data(), DType::kF32, count, cols, cols};
    };
    const auto input = [&](KvInput what, int heads) {
        std::vector<double> all;
        for (std::int64_t t = 0; t < count; ++t) {
            const auto row = kv_input(sequence.seed, layer, first + t, what, heads, shape.head_dim);
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

std::vector<double> attend_in_double(const AttentionSpec& spec, std::uint64_t seed,
                                     std::size_t layer, std::int64_t position,
                                     const Visible& visible) {
    return attend_in_double(
        spec, seed, layer, position,
        std::vector<Visible>(static_cast<std::size_t>(spec.shape.kv_heads), visible));
}

std::vector<double> attend_in_double(const AttentionSpec& spec, std::uint64_t seed,
                                     std::size_t layer, std::int64_t position,
                                     const std::vector<Visible>& of_heads) {
    const AttentionLayer& shape = spec.shape;
    const int dim = shape.head_dim, group = shape.heads / shape.kv_heads;
    const std::vector<double> raw =
        kv_input(seed, layer, position, KvInput::kQuery, shape.heads, dim);
    std::vector<double> out(raw.size());
    for (int h = 0; h < shape.heads; ++h) {
        const int kv = h / group;
        const auto at = static_cast<std::ptrdiff_t>(h * dim),
                   kv_at = static_cast<std::ptrdiff_t>(kv * dim);
        const Visible& visible = of_heads[static_cast<std::size_t>(kv)];
        std::vector<double> q(raw.begin() + at, raw.begin() + at + dim);
        rotate_in_double(spec.rope, static_cast<double>(visible.query_position), q.data());
        std::vector<double> score;
        std::vector<std::vector<double>> values;
        for (std::size_t j = 0; j < visible.keys.size(); ++j) {
            const auto all_keys =
                kv_input(seed, layer, visible.keys[j], KvInput::kKey, shape.kv_heads, dim);
            std::vector<double> key(all_keys.begin() + kv_at, all_keys.begin() + kv_at + dim);
            rotate_in_double(spec.rope, static_cast<double>(visible.positions[j]), key.data());
            double dot = 0;
            for (std::size_t d = 0; d < key.size(); ++d) dot += q[d] * key[d];
            const double x = dot * spec.scale;
            score.push_back(spec.softcap > 0 ? spec.softcap * std::tanh(x / spec.softcap) : x);
            const auto all_values =
                kv_input(seed, layer, visible.keys[j], KvInput::kValue, shape.kv_heads, dim);
            values.emplace_back(all_values.begin() + kv_at, all_values.begin() + kv_at + dim);
        }
        const double top = *std::max_element(score.begin(), score.end());
        double sum = 0;
        for (double& s : score) sum += s = std::exp(s - top);
        for (std::size_t j = 0; j < values.size(); ++j)
            for (int d = 0; d < dim; ++d)
                out[static_cast<std::size_t>(h * dim + d)] +=
                    score[j] / sum * values[j][static_cast<std::size_t>(d)];
    }
    return out;
}

}  // namespace thimble::test
