// SPDX-License-Identifier: Apache-2.0
#include "recipe/editor_schema.h"

namespace thimble::recipe {
namespace {

Json object(std::initializer_list<std::pair<const char*, Json>> members) {
    Json made = Json::object();
    for (const auto& [key, value] : members) made.set(key, value);
    return made;
}

Json list(std::initializer_list<Json> items) { return Json(JsonArray(items)); }

Json typed(const char* type, const char* description) {
    return object({{"type", type}, {"description", description}});
}

// An option may be a reference, and a list a single text; `with` takes only what stands in it.
Json option_schema(const Json& entry) {
    Json value = Json::object();
    for (const char* key : {"type", "enum", "minimum", "maximum", "items"})
        if (const Json* found = entry.find(key)) value.set(key, *found);
    const Json reference = object({{"type", "string"}, {"pattern", "\\$\\{"}});
    const Json* type = entry.find("type");
    const bool array = type != nullptr && type->as_string("type") == "array";
    const bool text = type != nullptr && type->as_string("type") == "string";
    Json made = Json::object();
    if (const Json* help = entry.find("description")) made.set("description", *help);
    if (const Json* standard = entry.find("default")) made.set("default", *standard);
    if (array) {
        const Json* items = entry.find("items");
        made.set("anyOf", list({value, *items, reference}));
    } else if (text && entry.find("enum") == nullptr) {
        // Numbers and maps with 'name' are texts, too.
        made.set("type", list({"string", "number", "boolean", "object"}));
    } else {
        made.set("anyOf", list({value, reference}));
    }
    return made;
}

// Options that several commands have alike, written once.
class Shared {
  public:
    explicit Shared(const std::map<std::string, Json>& tools) {
        for (const auto& [tool, schema] : tools)
            for (const auto& [name, entry] : schema.find("properties")->as_members("properties"))
                ++uses_[name][option_schema(entry).dump()];
    }
    // The option itself, or a reference to it.
    [[nodiscard]] Json of(const std::string& name, const Json& entry) const {
        if (!is_shared(name)) return option_schema(entry);
        return object({{"$ref", "#/$defs/" + name}});
    }
    [[nodiscard]] Json definitions(const std::map<std::string, Json>& tools) const {
        std::map<std::string, Json> found;
        for (const auto& [tool, schema] : tools)
            for (const auto& [name, entry] : schema.find("properties")->as_members("properties"))
                if (is_shared(name)) found[name] = option_schema(entry);
        Json made = Json::object();
        for (const auto& [name, schema] : found) made.set(name, schema);
        return made;
    }

  private:
    [[nodiscard]] bool is_shared(const std::string& name) const {
        const auto& kinds = uses_.at(name);
        return kinds.size() == 1 && kinds.begin()->second > 1;
    }
    std::map<std::string, std::map<std::string, int>> uses_;  // option -> schema -> commands
};

Json with_schema(const Json& tool, const Shared& shared) {
    Json properties = Json::object();
    for (const auto& [name, entry] : tool.find("properties")->as_members("properties"))
        properties.set(name, shared.of(name, entry));
    return object({{"type", "object"},
                   {"properties", properties},
                   {"required", *tool.find("required")},
                   {"additionalProperties", false}});
}

Json step_properties(const Json& uses) {
    const Json texts = object({{"type", "array"}, {"items", object({{"type", "string"}})}});
    Json needs = texts, gates = texts, matrix = object({{"type", "object"}});
    needs.set("description", "ids of steps that come before");
    gates.set("description", "gates on the step's figures: kld_mean<0.03");
    matrix.set("description", "one instance per combination; with exclude and include");
    matrix.set("additionalProperties", object({{"type", "array"}}));
    return object({{"id", object({{"type", "string"},
                                  {"pattern", "^[A-Za-z0-9_-]{1,64}$"},
                                  {"description", "referred to as ${steps.ID.option}"}})},
                   {"uses", object({{"enum", uses}, {"description", "a tool and its command"}})},
                   {"with", typed("object", "the tool's long options")},
                   {"needs", needs},
                   {"matrix", matrix},
                   {"assert", gates},
                   {"measure", object({{"enum", list({"once", "always"})},
                                       {"description", "its result holds timings"}})},
                   {"show", typed("boolean", "its stdout is part of the recipe's")}});
}

}  // namespace

Json editor_schema(Toolbox& toolbox) {
    Json uses = Json::array(), branches = Json::array();
    const std::map<std::string, Json> tools = toolbox.all_schemas();
    const Shared shared(tools);
    for (const auto& [name, schema] : tools) {
        uses.push(name);
        const Json when = object({{"properties", object({{"uses", object({{"const", name}})}})},
                                  {"required", list({"uses"})}});
        const Json then = object({{"properties", object({{"with", with_schema(schema, shared)}})}});
        branches.push(object({{"if", when}, {"then", then}}));
    }
    const Json step = object({{"type", "object"},
                              {"properties", step_properties(uses)},
                              {"required", list({"id", "uses"})},
                              {"additionalProperties", false},
                              {"allOf", branches}});
    const Json vars =
        object({{"type", "object"},
                {"description", "referred to as ${vars.x}; ~ has no value until --set gives one"},
                {"additionalProperties",
                 object({{"type", list({"string", "number", "boolean", "null"})}})}});
    return object(
        {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
         {"title", "thimble recipe"},
         {"type", "object"},
         {"properties",
          object({{"recipe", object({{"const", 1}})},
                  {"description", typed("string", "what it is for")},
                  {"vars", vars},
                  {"steps", object({{"type", "array"}, {"items", step}, {"minItems", 1}})}})},
         {"required", list({"recipe", "steps"})},
         {"$defs", shared.definitions(tools)},
         {"additionalProperties", false}});
}

}  // namespace thimble::recipe
