// SPDX-License-Identifier: Apache-2.0
// Mixes against what llama-quantize chooses (scripts/make_golden_mixes.py).
#include "quant/mixes.h"

#include <doctest/doctest.h>

#include <map>
#include <sstream>

#include "core/strings.h"
#include "io/file.h"
#include "io/json.h"

using namespace thimble;

namespace {

const Json& golden() {
    static const std::string path = std::string(THIMBLE_TESTS_DIR) + "/golden/format/mixes.json";
    static const Json json = parse_json(read_text_file(path, 1 << 20), path);
    return json;
}

// "q6_k*2 q4_k" -> {q6_k, q6_k, q4_k}
std::vector<std::string> spelled_out(const std::string& runs) {
    std::vector<std::string> types;
    std::istringstream words(runs);
    for (std::string word; words >> word;) {
        const std::size_t star = word.find('*');
        const int count = star == std::string::npos ? 1 : std::stoi(word.substr(star + 1));
        types.insert(types.end(), static_cast<std::size_t>(count), word.substr(0, star));
    }
    return types;
}

struct Case {
    MixModel model;
    std::int64_t hidden = 0;
    std::vector<std::string> names;
    std::vector<MixTensor> matrices;

    explicit Case(const Json& json) {
        const auto number = [&](const char* key) { return json.find(key)->as_int(key); };
        model.architecture = json.find("architecture")->as_string("architecture");
        model.layers = number("layers");
        model.heads = number("heads");
        model.kv_heads = number("kv_heads");
        model.experts = number("experts");
        model.tied_embedding = json.find("tied")->as_bool("tied");
        model.importance = json.find("importance")->as_bool("importance");
        hidden = number("hidden");
        const JsonMembers& columns = json.find("columns")->as_members("columns");
        names.reserve(static_cast<std::size_t>(model.layers + 1) * columns.size() + 2);
        add("token_embd.weight", hidden, false);
        // Layers from the last to the first: their order in the file does not count.
        for (std::int64_t layer = model.layers; layer-- > 0;) {
            for (const auto& [role, cols] : columns)
                add("blk." + std::to_string(layer) + "." + role + ".weight", cols.as_int("cols"),
                    role.ends_with("_exps"));
        }
        if (!model.tied_embedding) add("output.weight", hidden, false);
    }

    // Name -> type of every matrix.
    [[nodiscard]] std::map<std::string, std::string> types(const Mix& mix) const {
        std::map<std::string, std::string> out;
        const std::vector<TensorType> mixed = mixed_types(mix, model, matrices);
        REQUIRE(mixed.size() == matrices.size());
        for (std::size_t i = 0; i < mixed.size(); ++i)
            out[names[i]] = find_tensor_type(fitting_type(mixed[i], matrices[i].cols))->name;
        return out;
    }

  private:
    void add(std::string name, std::int64_t cols, bool stacked) {
        names.push_back(std::move(name));
        matrices.push_back({names.back(), cols, stacked});
    }
};

// The golden file's row for one mix, by tensor name.
std::map<std::string, std::string> wanted(const Json& row) {
    std::map<std::string, std::string> out;
    for (const auto& [role, runs] : row.as_members("row")) {
        const std::vector<std::string> types = spelled_out(runs.as_string("types"));
        if (role == "token_embd" || role == "output") {
            out[role + ".weight"] = types.front();
            continue;
        }
        for (std::size_t layer = 0; layer < types.size(); ++layer)
            out["blk." + std::to_string(layer) + "." + role + ".weight"] = types[layer];
    }
    return out;
}

}  // namespace

TEST_CASE(
    "mixes: every matrix of many shapes of model gets the type that llama-quantize gives it") {
    int compared = 0;
    for (const auto& [name, json] : golden().as_members("golden")) {
        CAPTURE(name);
        const Case model(json);
        for (const auto& [mix_name, row] : json.find("mixes")->as_members("mixes")) {
            CAPTURE(mix_name);
            const Mix* mix = find_mix(to_lower(mix_name));
            REQUIRE(mix != nullptr);
            const auto got = model.types(*mix), want = wanted(row);
            REQUIRE(got.size() == want.size());
            for (const auto& [tensor, type] : want) {
                CAPTURE(tensor);
                CHECK(got.at(tensor) == type);
                ++compared;
            }
        }
    }
    CHECK(compared > 50'000);
}

TEST_CASE("mixes: float types have no exceptions, and every mix has its own number and name") {
    const Case model(*golden().find("7b"));
    for (const char* name : {"f32", "f16", "bf16"}) {
        for (const auto& [tensor, type] : model.types(*find_mix(name))) CHECK(type == name);
    }
    std::map<std::uint32_t, std::string_view> numbers;
    for (const Mix& mix : mixes()) {
        CHECK(numbers.emplace(mix.file_type, mix.name).second);
        CHECK(find_mix(mix.name) == &mix);
    }
    CHECK(find_mix("q4_k") == find_mix("q4_k_m"));
    CHECK(find_mix("q4_k_m")->file_type == 15);
    CHECK(find_mix("q9_k") == nullptr);
}

TEST_CASE("mixes: importance is asked for where llama-quantize asks for it") {
    const std::string name = "blk.0.attn_q.weight";
    int asked = 0;
    for (const Mix& mix : mixes()) asked += needs_importance(&mix, mix.base, name) ? 1 : 0;
    CHECK(asked == 8);  // iq1_s, iq1_m, iq2_xxs, iq2_xs, iq2_s, iq2_m, iq3_xxs, q2_k_s
    CHECK(needs_importance(nullptr, TensorType::kIQ2_S, name));
    CHECK(needs_importance(find_mix("q2_k_s"), TensorType::kQ2_K, name));
    CHECK_FALSE(needs_importance(find_mix("q2_k"), TensorType::kQ2_K, name));
    CHECK_FALSE(needs_importance(find_mix("q2_k_s"), TensorType::kQ4_K, name));
    CHECK_FALSE(needs_importance(nullptr, TensorType::kIQ3_S, name));
    for (const char* exempt : {"token_embd.weight", "output.weight"})
        CHECK_FALSE(needs_importance(find_mix("iq1_s"), TensorType::kIQ1_S, exempt));
}
