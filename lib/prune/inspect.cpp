// SPDX-License-Identifier: Apache-2.0
#include "prune/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace thimble::prune {
namespace {

constexpr std::size_t kExtremes = 3;

bool is_massive(double top, double median) {
    return top > kMassive && top >= kMassiveRatio * median;
}

// The largest values of a text's states [tokens, hidden], each of another dimension.
std::vector<Extreme> extremes_of(const float* states, std::int64_t tokens, std::int64_t hidden) {
    std::vector<Extreme> best;  // of each dimension
    for (std::int64_t d = 0; d < hidden; ++d) {
        Extreme here;
        here.dim = d;
        for (std::int64_t t = 0; t < tokens; ++t) {
            const double v = states[t * hidden + d];
            if (std::abs(v) > std::abs(here.value)) here.value = v, here.token = t;
        }
        best.push_back(here);
    }
    const std::size_t count = std::min(kExtremes, best.size());
    std::partial_sort(
        best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count), best.end(),
        [](const Extreme& a, const Extreme& b) { return std::abs(a.value) > std::abs(b.value); });
    best.resize(count);
    return best;
}

double change_of(const float* before, const float* after, std::int64_t tokens,
                 std::int64_t hidden) {
    double sum = 0;
    for (std::int64_t t = 1; t < tokens; ++t)
        sum += 1 - cosine(before + t * hidden, after + t * hidden, hidden);
    return tokens > 1 ? sum / static_cast<double>(tokens - 1) : 0;
}

// The largest of what was found so far.
void merge(std::vector<Extreme>& into, const std::vector<Extreme>& more) {
    into.insert(into.end(), more.begin(), more.end());
    std::stable_sort(into.begin(), into.end(), [](const Extreme& a, const Extreme& b) {
        return std::abs(a.value) > std::abs(b.value);
    });
    std::vector<Extreme> out;
    for (const Extreme& one : into) {
        const bool known =
            std::any_of(out.begin(), out.end(), [&](const Extreme& e) { return e.dim == one.dim; });
        if (!known && out.size() < kExtremes) out.push_back(one);
    }
    into = out;
}

}  // namespace

float median_size(const float* values, std::size_t count, std::vector<float>& scratch) {
    scratch.assign(values, values + count);
    for (float& v : scratch) v = std::abs(v);
    const auto middle = scratch.begin() + static_cast<std::ptrdiff_t>((count - 1) / 2);
    std::nth_element(scratch.begin(), middle, scratch.end());
    return *middle;
}

Activity watch_activity(Runner& runner, const Texts& texts, const Progress& progress) {
    const std::int64_t hidden = runner.spec().hidden, layers = runner.spec().layers;
    std::int64_t longest = 0;
    for (const auto& text : texts) longest = std::max(longest, std::ssize(text));
    const auto bytes = static_cast<std::size_t>(longest * hidden) * sizeof(float);
    Buffer states(bytes, Purpose::kActivations), before(bytes, Purpose::kActivations);
    const Charge sizes(Tier::kRam, Purpose::kActivations, bytes);
    std::vector<float> scratch;

    Activity out;
    out.layers.resize(static_cast<std::size_t>(layers));
    for (std::size_t i = 0; i < texts.size(); ++i) {
        const std::span one = std::span(texts).subspan(i, 1);
        const std::int64_t tokens = std::ssize(texts[i]);
        const View x = {states.data(), DType::kF32, tokens, hidden, hidden};
        runner.embed(one, x);
        for (std::int64_t l = 0; l < layers; ++l) {
            LayerActivity& layer = out.layers[static_cast<std::size_t>(l)];
            std::memcpy(before.data(), states.data(), bytes);
            runner.sweep_layer(l, one, x, nullptr);
            const auto* now = states.as<float>();
            std::vector<Extreme> found = extremes_of(now, tokens, hidden);
            for (Extreme& e : found) {
                e.text = static_cast<std::int64_t>(i);
                e.id = texts[i][static_cast<std::size_t>(e.token)];
            }
            const double top = std::abs(found.front().value);
            const double median =
                median_size(now, static_cast<std::size_t>(tokens * hidden), scratch);
            layer.influence += change_of(before.as<float>(), now, tokens, hidden);
            layer.top += top, layer.median += median;
            layer.massive += is_massive(top, median) ? 1 : 0;
            if (!layer.extremes.empty() && layer.texts > 0)
                layer.same_dim = layer.same_dim && layer.extremes.front().dim == found.front().dim;
            merge(layer.extremes, found);
            ++layer.texts;
        }
        if (!progress("texts", static_cast<std::int64_t>(i) + 1, std::ssize(texts)))
            throw Stopped();
    }
    for (LayerActivity& layer : out.layers) {
        const auto count = static_cast<double>(std::max<std::int64_t>(layer.texts, 1));
        layer.influence /= count, layer.top /= count, layer.median /= count;
    }
    return out;
}

std::optional<std::int64_t> Activity::first_massive() const {
    for (std::size_t l = 0; l < layers.size(); ++l) {
        if (2 * layers[l].massive > layers[l].texts) return static_cast<std::int64_t>(l);
    }
    return std::nullopt;
}

std::optional<std::int64_t> Activity::last_massive() const {
    for (std::size_t l = layers.size(); l-- > 0;) {
        if (2 * layers[l].massive > layers[l].texts) return static_cast<std::int64_t>(l);
    }
    return std::nullopt;
}

Json Activity::json() const {
    Json list = Json::array();
    for (std::size_t l = 0; l < layers.size(); ++l) {
        const LayerActivity& layer = layers[l];
        Json one = Json::object();
        one.set("layer", l);
        one.set("influence", layer.influence);
        one.set("top", layer.top);
        one.set("median", layer.median);
        one.set("ratio", layer.ratio());
        one.set("texts", layer.texts);
        one.set("massive_texts", layer.massive);
        one.set("same_dim", layer.same_dim);
        Json extremes = Json::array();
        for (const Extreme& e : layer.extremes) {
            Json value = Json::object();
            value.set("value", e.value);
            value.set("text", e.text);
            value.set("token", e.token);
            value.set("id", e.id);
            value.set("dim", e.dim);
            extremes.push(std::move(value));
        }
        one.set("extremes", std::move(extremes));
        list.push(std::move(one));
    }
    Json out = Json::object();
    out.set("layers", std::move(list));
    const auto place = [&](const char* name, std::optional<std::int64_t> layer) {
        layer ? out.set(name, *layer) : out.set(name, Json());
    };
    place("first_massive_layer", first_massive());
    place("last_massive_layer", last_massive());
    return out;
}

void add_activity_to_plan(Plan& plan, const ModelSource& source, std::int64_t longest) {
    const auto bytes = static_cast<std::size_t>(longest * source.spec().hidden) * sizeof(float);
    plan.at(Tier::kRam, Purpose::kActivations) += 2 * Buffer::charged_bytes(bytes) + bytes;
}

}  // namespace thimble::prune
