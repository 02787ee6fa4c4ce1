// SPDX-License-Identifier: Apache-2.0
#include "recipe/gate.h"

#include <charconv>
#include <cmath>
#include <cstdio>
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

std::string number_text(double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.6g", value);
    return text;
}

bool compare(double value, const std::string& relation, double limit) {
    if (std::isnan(value)) return false;
    if (relation == "<") return value < limit;
    if (relation == "<=") return value <= limit;
    if (relation == ">") return value > limit;
    if (relation == ">=") return value >= limit;
    return (value == limit) == (relation == "==");
}

GateResult judged(const Gate& gate, const Json& value) {
    const double number =
        value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.as_double(gate.figure);
    return {compare(number, gate.relation, gate.limit), number};
}

std::string trimmed(std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t");
    if (first == std::string_view::npos) return {};
    return std::string(text.substr(first, text.find_last_not_of(" \t") - first + 1));
}

}  // namespace

std::string Gate::text() const { return figure + relation + number_text(limit); }

Gate parse_gate(std::string_view text, std::string_view where) {
    const auto bad = [&](const char* what) {
        return Error(Exit::kUsage, std::string(where), "gate '" + escaped(text) + "' " + what,
                     "write a figure, one of < <= > >= == != and a number: kld_mean<0.03");
    };
    const std::size_t at = text.find_first_of("<>=!");
    if (at == std::string_view::npos) throw bad("compares nothing");
    const std::size_t end = text.find_first_not_of("<>=!", at);
    Gate gate{.figure = trimmed(text.substr(0, at)), .relation = {}, .limit = 0, .where = {}};
    gate.relation = text.substr(at, end == std::string_view::npos ? end : end - at);
    gate.where = where;
    static constexpr std::string_view kName =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
    if (gate.figure.empty() || gate.figure.find_first_not_of(kName) != std::string::npos)
        throw bad("does not begin with the name of a figure");
    const std::vector<std::string> relations = {"<", "<=", ">", ">=", "==", "!="};
    bool known = false;
    for (const std::string& relation : relations) known |= relation == gate.relation;
    if (!known) throw bad("has no such comparison");
    const std::string limit = end == std::string_view::npos ? "" : trimmed(text.substr(end));
    const char* last = limit.data() + limit.size();
    const auto [stop, failed] = std::from_chars(limit.data(), last, gate.limit);
    if (limit.empty() || failed != std::errc{} || stop != last || !std::isfinite(gate.limit))
        throw bad("does not end with a number");
    return gate;
}

GateResult check_gate(const Gate& gate, const Json& result) {
    std::vector<Figure> figures;
    const Json* named = result.find("figures");
    if (named != nullptr) {
        collect(*named, "", figures);
        for (const Figure& figure : figures)
            if (figure.path == gate.figure) return judged(gate, *figure.value);
    }
    figures.clear();
    collect(result, "", figures);
    std::vector<const Figure*> found;
    std::vector<std::string> names;
    for (const Figure& figure : figures) {
        names.push_back(key_of(figure.path));
        if (figure.path == gate.figure) {
            found = {&figure};
            break;
        }
        if (key_of(figure.path) == gate.figure) found.push_back(&figure);
    }
    if (found.empty())
        throw Error(Exit::kUsage, gate.where, "the result has no figure '" + gate.figure + "'",
                    did_you_mean(gate.figure, names));
    if (found.size() > 1)
        throw Error(Exit::kUsage, gate.where, "'" + gate.figure + "' names several figures",
                    "write " + found[0]->path + " or " + found[1]->path);
    return judged(gate, *found.front()->value);
}

std::string gate_line(const Gate& gate, const GateResult& result) {
    return gate.text() + (result.holds ? " holds: " : " failed: ") + gate.figure + " is " +
           (std::isnan(result.value) ? "not a number" : number_text(result.value));
}

}  // namespace thimble::recipe
