// SPDX-License-Identifier: Apache-2.0
#include "recipe/gate.h"

#include <limits>
#include <vector>

#include "core/error.h"
#include "core/strings.h"

namespace thimble::recipe {
namespace {

struct Figure {
    std::string path;
    const Json* value;
};

bool is_estimate(const Json& json) {
    const Json* value = json.find("value");
    return value != nullptr && (value->is_number() || value->is_null());
}

// Every number of an object, by dotted path; lists have no figures.
void collect(const Json& json, const std::string& path, std::vector<Figure>& figures) {
    if (json.is_number() || json.is_null()) {
        figures.push_back({path, &json});
    } else if (json.is_object() && !path.empty() && is_estimate(json)) {
        figures.push_back({path, json.find("value")});
    } else if (json.is_object()) {
        for (const auto& [key, value] : json.as_members("result"))
            collect(value, path.empty() ? key : path + "." + key, figures);
    }
}

std::string key_of(const std::string& path) { return path.substr(path.rfind('.') + 1); }

std::vector<Figure> figures_of(const Json& json) {
    std::vector<Figure> figures;
    collect(json, "", figures);
    return figures;
}

double number_of(const Figure& figure) {
    return figure.value->is_null() ? std::numeric_limits<double>::quiet_NaN()
                                   : figure.value->as_double(figure.path);
}

double find(const std::vector<Figure>& named, const std::vector<Figure>& all,
            const std::string& name, const std::string& where) {
    for (const auto* figures : {&named, &all})
        for (const Figure& figure : *figures)
            if (figure.path == name) return number_of(figure);
    std::vector<const Figure*> found;
    std::vector<std::string> names;
    for (const Figure& figure : all) {
        names.push_back(key_of(figure.path));
        if (names.back() == name) found.push_back(&figure);
    }
    if (found.empty())
        throw Error(Exit::kUsage, where, "the result has no figure '" + escaped(name) + "'",
                    did_you_mean(name, names));
    if (found.size() > 1)
        throw Error(Exit::kUsage, where, "'" + escaped(name) + "' names several figures",
                    "write " + found[0]->path + " or " + found[1]->path);
    return number_of(*found.front());
}

}  // namespace

GateResult check_gate(const Gate& gate, const Json& result) {
    const Json* named = result.find("figures");
    const std::vector<Figure> first = named == nullptr ? std::vector<Figure>{} : figures_of(*named);
    const std::vector<Figure> all = figures_of(result);
    return gate.evaluate(
        [&](const std::string& name) { return find(first, all, name, gate.where()); });
}

Json gate_json(const Gate& gate, const GateResult& result) {
    Json entry = Json::object();
    entry.set("assert", gate.text());
    entry.set("left", result.left);
    entry.set("right", result.right);
    entry.set("holds", result.holds);
    entry.set("line", describe(gate, result));
    return entry;
}

}  // namespace thimble::recipe
