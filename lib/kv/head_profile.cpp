// SPDX-License-Identifier: Apache-2.0
#include "kv/head_profile.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/strings.h"
#include "io/file.h"

namespace thimble {
namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{16} << 20;
constexpr std::int64_t kMostHeads = 1 << 16;

Error bad(std::string_view where, const std::string& what) {
    return {Exit::kBadData, escaped(where), what,
            "evaluate --find-retrieval-heads makes such a file"};
}

}  // namespace

HeadProfile HeadProfile::parse(std::string_view text, std::string_view where) {
    const Json json = parse_json(text, where);
    const auto get = [&](const char* key) -> const Json& {
        const Json* value = json.find(key);
        if (value == nullptr) throw bad(where, "has no '" + std::string(key) + "'");
        return *value;
    };
    HeadProfile out;
    out.model = get("model").as_string(where);
    out.query_heads = get("query_heads").as_int(where);
    if (out.query_heads < 1 || out.query_heads > kMostHeads)
        throw bad(where, "query_heads must be in 1 ... " + std::to_string(kMostHeads));
    for (const Json& layer : get("heads").as_array(where)) {
        auto& list = out.heads.emplace_back();
        for (const Json& head : layer.as_array(where)) {
            const std::int64_t h = head.as_int(where);
            if (h < 0 || h >= out.query_heads)
                throw bad(where, "heads names head " + std::to_string(h) + " of " +
                                     std::to_string(out.query_heads));
            if (std::find(list.begin(), list.end(), h) != list.end())
                throw bad(where, "heads names head " + std::to_string(h) + " twice in a layer");
            list.push_back(h);
        }
    }
    for (const Json& score : get("layer_score").as_array(where)) {
        const double x = score.as_double(where);
        if (!std::isfinite(x) || x < 0) throw bad(where, "layer_score must be at least 0");
        out.layer_score.push_back(x);
    }
    if (out.heads.empty() || out.heads.size() != out.layer_score.size())
        throw bad(where, "heads and layer_score must have one entry for each layer");
    return out;
}

HeadProfile HeadProfile::read(const std::string& path) {
    return parse(read_text_file(path, kMostBytes), path);
}

Json HeadProfile::json() const {
    Json out = Json::object(), lists = Json::array(), scores = Json::array();
    out.set("model", model);
    out.set("query_heads", query_heads);
    for (const auto& layer : heads) {
        Json list = Json::array();
        for (const std::int64_t head : layer) list.push(head);
        lists.push(std::move(list));
    }
    for (const double score : layer_score) scores.push(score);
    out.set("heads", std::move(lists));
    out.set("layer_score", std::move(scores));
    return out;
}

void HeadProfile::check(const ModelInfo& other, std::string_view path) const {
    if (heads.size() != other.layers.size())
        throw bad(path, "is of a model with " + std::to_string(heads.size()) + " layers, not " +
                            std::to_string(other.layers.size()));
    for (const AttentionLayer& layer : other.layers) {
        if (layer.heads != query_heads)
            throw bad(path, "is of a model with " + std::to_string(query_heads) +
                                " query heads, not " + std::to_string(layer.heads));
    }
}

}  // namespace thimble
