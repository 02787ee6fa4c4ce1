// SPDX-License-Identifier: Apache-2.0
#include "quant/mixes.h"

#include <algorithm>
#include <charconv>
#include <numeric>

namespace thimble {
namespace {

using T = TensorType;

// llama.cpp's numbers of the mixes.
enum FileType : std::uint8_t {
    kF32 = 0,
    kF16 = 1,
    kQ4_0 = 2,
    kQ4_1 = 3,
    kQ8_0 = 7,
    kQ5_0 = 8,
    kQ5_1 = 9,
    kQ2_K = 10,
    kQ3_K_S = 11,
    kQ3_K_M = 12,
    kQ3_K_L = 13,
    kQ4_K_S = 14,
    kQ4_K_M = 15,
    kQ5_K_S = 16,
    kQ5_K_M = 17,
    kQ6_K = 18,
    kIQ2_XXS = 19,
    kIQ2_XS = 20,
    kQ2_K_S = 21,
    kIQ3_XS = 22,
    kIQ3_XXS = 23,
    kIQ1_S = 24,
    kIQ4_NL = 25,
    kIQ3_S = 26,
    kIQ3_M = 27,
    kIQ2_S = 28,
    kIQ2_M = 29,
    kIQ4_XS = 30,
    kIQ1_M = 31,
    kBF16 = 32,
    kTQ1_0 = 36,
    kTQ2_0 = 37,
    kMXFP4_MoE = 38,
};

constexpr Mix kMixes[] = {
    {"f32", T::kF32, kF32},
    {"f16", T::kF16, kF16},
    {"q4_0", T::kQ4_0, kQ4_0},
    {"q4_1", T::kQ4_1, kQ4_1},
    {"q8_0", T::kQ8_0, kQ8_0},
    {"q5_0", T::kQ5_0, kQ5_0},
    {"q5_1", T::kQ5_1, kQ5_1},
    {"q2_k", T::kQ2_K, kQ2_K},
    {"q3_k_s", T::kQ3_K, kQ3_K_S},
    {"q3_k_m", T::kQ3_K, kQ3_K_M, "q3_k"},
    {"q3_k_l", T::kQ3_K, kQ3_K_L},
    {"q4_k_s", T::kQ4_K, kQ4_K_S},
    {"q4_k_m", T::kQ4_K, kQ4_K_M, "q4_k"},
    {"q5_k_s", T::kQ5_K, kQ5_K_S},
    {"q5_k_m", T::kQ5_K, kQ5_K_M, "q5_k"},
    {"q6_k", T::kQ6_K, kQ6_K},
    {"iq2_xxs", T::kIQ2_XXS, kIQ2_XXS},
    {"iq2_xs", T::kIQ2_XS, kIQ2_XS},
    {"q2_k_s", T::kQ2_K, kQ2_K_S},
    {"iq3_xs", T::kIQ3_S, kIQ3_XS},
    {"iq3_xxs", T::kIQ3_XXS, kIQ3_XXS},
    {"iq1_s", T::kIQ1_S, kIQ1_S},
    {"iq4_nl", T::kIQ4_NL, kIQ4_NL},
    {"iq3_s", T::kIQ3_S, kIQ3_S},
    {"iq3_m", T::kIQ3_S, kIQ3_M},
    {"iq2_s", T::kIQ2_XS, kIQ2_S},
    {"iq2_m", T::kIQ2_S, kIQ2_M},
    {"iq4_xs", T::kIQ4_XS, kIQ4_XS},
    {"iq1_m", T::kIQ1_M, kIQ1_M},
    {"bf16", T::kBF16, kBF16},
    {"tq1_0", T::kTQ1_0, kTQ1_0},
    {"tq2_0", T::kTQ2_0, kTQ2_0},
    {"mxfp4_moe", T::kMXFP4, kMXFP4_MoE},
};

// A set of mixes, one bit per file type.
using Set = std::uint64_t;
template <class... Types>
constexpr Set of(Types... types) {
    return ((Set{1} << types) | ...);
}
constexpr Set kIQ2Small = of(kIQ2_S, kIQ2_M);
// Below 3 bits: with rules of their own for everything.
constexpr Set kLow = of(kIQ2_XXS, kIQ2_XS, kIQ1_S, kIQ1_M) | kIQ2Small;
constexpr Set kUsual = ~kLow;

enum class Role : std::uint8_t {
    kHead,
    kEmbedding,
    kValue,  // v, alone or beside q and k in one matrix
    kKey,
    kQuery,
    kAttentionOut,
    kUp,
    kGate,
    kDown,
    kOther,
};

enum class When : std::uint8_t {
    kAlways,
    kGqa4,  // at least 4 heads share a key
    kGqa4OrExperts4,
    kExperts8,  // exactly: Mixtral's number
    kFirst2,
    kFirst4,
    kFirst16th,  // of the layers
    kFirst8th,
    kMiddle,     // all but the first and last eighth
    kMoreBits,   // first and last eighth and every third between
    kMoreBits8,  // that, of a model with 8 experts
    kPlain,      // without importance
    kPlainFirst8th,
    kImportanceFirst8th,
};

// The first rule for mix and role whose condition holds gives the type.
struct Rule {
    Set mixes;
    Role role;
    When when;
    T type;
};

constexpr Rule kRules[] = {
    {of(kQ8_0), Role::kHead, When::kAlways, T::kQ8_0},
    {kLow | of(kIQ3_XXS), Role::kHead, When::kAlways, T::kQ5_K},
    {kUsual, Role::kHead, When::kAlways, T::kQ6_K},

    {of(kIQ2_XXS, kIQ2_XS, kIQ1_S, kIQ1_M), Role::kEmbedding, When::kAlways, T::kQ2_K},
    {kIQ2Small | of(kIQ3_XXS), Role::kEmbedding, When::kAlways, T::kIQ3_S},
    {of(kTQ1_0, kTQ2_0), Role::kEmbedding, When::kAlways, T::kQ4_K},

    {kLow, Role::kValue, When::kGqa4OrExperts4, T::kQ4_K},
    {kIQ2Small, Role::kValue, When::kAlways, T::kIQ3_S},
    {kLow, Role::kValue, When::kAlways, T::kQ2_K},
    {kUsual, Role::kValue, When::kExperts8, T::kQ8_0},
    {of(kQ2_K, kQ2_K_S, kIQ3_XXS, kIQ3_XS, kIQ3_S), Role::kValue, When::kGqa4, T::kQ4_K},
    {of(kQ2_K), Role::kValue, When::kAlways, T::kQ3_K},
    {of(kIQ3_XXS), Role::kValue, When::kPlain, T::kIQ3_S},
    {of(kIQ3_M), Role::kValue, When::kAlways, T::kQ4_K},
    {of(kQ3_K_M), Role::kValue, When::kFirst2, T::kQ5_K},
    {of(kQ3_K_M), Role::kValue, When::kAlways, T::kQ4_K},
    {of(kQ3_K_L), Role::kValue, When::kAlways, T::kQ5_K},
    {of(kIQ4_NL, kIQ4_XS), Role::kValue, When::kGqa4, T::kQ5_K},
    {of(kQ4_K_M, kQ5_K_M), Role::kValue, When::kMoreBits, T::kQ6_K},
    {of(kQ4_K_S), Role::kValue, When::kFirst4, T::kQ5_K},

    {kLow, Role::kKey, When::kExperts8, T::kQ4_K},
    {kUsual, Role::kKey, When::kExperts8, T::kQ8_0},
    {of(kIQ3_XS), Role::kKey, When::kAlways, T::kIQ3_XXS},
    {of(kIQ3_XXS), Role::kKey, When::kAlways, T::kIQ2_S},
    {of(kIQ3_XS), Role::kQuery, When::kAlways, T::kIQ3_XXS},
    {of(kIQ3_XXS), Role::kQuery, When::kAlways, T::kIQ2_S},

    {kLow, Role::kAttentionOut, When::kExperts8, T::kQ5_K},
    {of(kIQ1_S, kIQ1_M), Role::kAttentionOut, When::kAlways, T::kIQ2_XXS},
    {kIQ2Small, Role::kAttentionOut, When::kAlways, T::kIQ3_S},
    {of(kQ2_K, kIQ3_XS, kIQ3_XXS, kQ3_K_S, kQ3_K_M, kIQ4_NL, kQ4_K_S, kQ4_K_M, kIQ3_S, kIQ3_M,
        kIQ4_XS),
     Role::kAttentionOut, When::kExperts8, T::kQ5_K},
    {of(kQ3_K_L), Role::kAttentionOut, When::kExperts8, T::kQ3_K},
    {of(kQ2_K), Role::kAttentionOut, When::kAlways, T::kQ3_K},
    {of(kIQ3_XXS), Role::kAttentionOut, When::kAlways, T::kIQ3_S},
    {of(kQ3_K_M, kIQ3_M), Role::kAttentionOut, When::kAlways, T::kQ4_K},
    {of(kQ3_K_L), Role::kAttentionOut, When::kAlways, T::kQ5_K},

    {of(kIQ3_XS), Role::kGate, When::kMiddle, T::kIQ3_XXS},
    {of(kIQ3_XS), Role::kUp, When::kMiddle, T::kIQ3_XXS},

    {kIQ2Small, Role::kDown, When::kFirst8th, T::kIQ3_S},
    {kLow, Role::kDown, When::kFirst8th, T::kQ2_K},
    {of(kQ2_K), Role::kDown, When::kAlways, T::kQ3_K},
    {of(kQ2_K_S), Role::kDown, When::kFirst8th, T::kQ4_K},
    {of(kIQ3_XXS), Role::kDown, When::kPlainFirst8th, T::kQ4_K},
    {of(kIQ3_XXS), Role::kDown, When::kPlain, T::kQ3_K},
    {of(kQ3_K_M), Role::kDown, When::kFirst16th, T::kQ5_K},
    {of(kQ3_K_M), Role::kDown, When::kAlways, T::kQ4_K},
    {of(kIQ3_M), Role::kDown, When::kFirst8th, T::kQ4_K},
    {of(kIQ3_M), Role::kDown, When::kMoreBits8, T::kQ4_K},
    {of(kQ3_K_L), Role::kDown, When::kAlways, T::kQ5_K},
    {of(kQ4_K_M, kQ5_K_M), Role::kDown, When::kMoreBits, T::kQ6_K},
    {of(kIQ4_NL, kIQ4_XS), Role::kDown, When::kPlainFirst8th, T::kQ5_K},
    {of(kQ4_K_S), Role::kDown, When::kFirst8th, T::kQ5_K},
    {of(kQ4_0), Role::kDown, When::kImportanceFirst8th, T::kQ4_1},
    {of(kQ5_0), Role::kDown, When::kImportanceFirst8th, T::kQ5_1},
};

struct Pattern {
    std::string_view part;
    Role role;
};
constexpr Pattern kPatterns[] = {
    {"attn_qkv.weight", Role::kValue},
    {"attn_kv_b.weight", Role::kValue},
    {"attn_v.weight", Role::kValue},
    {"attn_k.weight", Role::kKey},
    {"attn_q.weight", Role::kQuery},
    {"attn_output.weight", Role::kAttentionOut},
    {"ffn_up", Role::kUp},
    {"ffn_gate", Role::kGate},
    {"ffn_down", Role::kDown},
};

bool is_embedding(std::string_view name) {
    return name == "token_embd.weight" || name == "per_layer_token_embd.weight";
}

Role role_of(std::string_view name, bool tied_embedding) {
    if (is_head(name, tied_embedding)) return Role::kHead;
    if (is_embedding(name)) return Role::kEmbedding;
    for (const Pattern& pattern : kPatterns) {
        if (name.find(pattern.part) != std::string_view::npos) return pattern.role;
    }
    return Role::kOther;
}

// The number in "blk.17.attn_q.weight", else -1.
std::int64_t layer_of(std::string_view name) {
    std::int64_t layer = -1;
    constexpr std::string_view kPrefix = "blk.";
    if (!name.starts_with(kPrefix)) return layer;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), layer);
    return layer;
}

bool gets_more_bits(std::int64_t i, std::int64_t n) {
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
}

// Place `i` of a matrix among the `n` of its role.
struct Place {
    std::int64_t i = 0, n = 0;
};

bool holds(When when, const MixModel& model, Place at) {
    const bool gqa4 = model.kv_heads > 0 && model.heads / model.kv_heads >= 4;
    const bool first8th = at.i < at.n / 8;
    switch (when) {
        case When::kAlways:
            return true;
        case When::kGqa4:
            return gqa4;
        case When::kGqa4OrExperts4:
            return gqa4 || model.experts >= 4;
        case When::kExperts8:
            return model.experts == 8;
        case When::kFirst2:
            return at.i < 2;
        case When::kFirst4:
            return at.i < 4;
        case When::kFirst16th:
            return at.i < at.n / 16;
        case When::kFirst8th:
            return first8th;
        case When::kMiddle:
            return !first8th && at.i < 7 * at.n / 8;
        case When::kMoreBits:
            return gets_more_bits(at.i, at.n);
        case When::kMoreBits8:
            return model.experts == 8 && gets_more_bits(at.i, at.n);
        case When::kPlain:
            return !model.importance;
        case When::kPlainFirst8th:
            return !model.importance && first8th;
        case When::kImportanceFirst8th:
            return model.importance && first8th;
    }
    return false;
}

// 80 layers and shared keys: v is so small a part that more bits cost next to nothing.
bool is_70b(const MixModel& model) {
    return model.layers == 80 &&
           ((model.architecture == "llama" && model.heads != model.kv_heads) ||
            model.architecture == "qwen2");
}

TensorType ruled_type(const Mix& mix, const MixModel& model, const MixTensor& matrix, Role role,
                      Place at) {
    if (mix.file_type == kMXFP4_MoE) return matrix.stacked ? mix.base : T::kQ8_0;
    const bool whole = matrix.cols % find_tensor_type(mix.base)->block_elements == 0;
    if (role == Role::kHead && !whole) return T::kQ8_0;
    const Set mine = of(mix.file_type);
    TensorType type = mix.base;
    for (const Rule& rule : kRules) {
        if ((rule.mixes & mine) == 0 || rule.role != role || !holds(rule.when, model, at)) continue;
        type = rule.type;
        break;
    }
    const bool low = (kLow & mine) != 0;
    if (role == Role::kValue && !low && is_70b(model) && (type == T::kQ3_K || type == T::kQ4_K))
        return T::kQ5_K;
    return type;
}

// Places as llama.cpp counts them: by layer and name; of the FFN, models with experts have the
// layer's number itself.
std::vector<Place> places_of(const Mix& mix, const MixModel& model,
                             std::span<const MixTensor> matrices, std::span<const Role> roles) {
    std::vector<std::size_t> order(matrices.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        const std::int64_t la = layer_of(matrices[a].name), lb = layer_of(matrices[b].name);
        return la != lb ? la < lb : matrices[a].name < matrices[b].name;
    });
    const auto values = std::count(roles.begin(), roles.end(), Role::kValue);
    const bool low = (kLow & of(mix.file_type)) != 0;
    std::vector<Place> places(matrices.size());
    std::int64_t seen[static_cast<std::size_t>(Role::kOther) + 1] = {};
    for (const std::size_t i : order) {
        const Role role = roles[i];
        const bool ffn = role == Role::kUp || role == Role::kGate || role == Role::kDown;
        std::int64_t& count = seen[static_cast<std::size_t>(role)];
        places[i] = {ffn && model.experts > 1 && !low ? layer_of(matrices[i].name) : count,
                     ffn ? model.layers : values};
        ++count;
    }
    return places;
}

}  // namespace

std::span<const Mix> mixes() noexcept { return kMixes; }

const Mix* find_mix(std::string_view name) noexcept {
    for (const Mix& mix : kMixes) {
        if (mix.name == name || (!mix.alias.empty() && mix.alias == name)) return &mix;
    }
    return nullptr;
}

bool is_head(std::string_view name, bool tied_embedding) noexcept {
    return name == "output.weight" || (tied_embedding && is_embedding(name));
}

bool needs_importance(const Mix* mix, TensorType type, std::string_view name) noexcept {
    if (is_embedding(name) || name == "output.weight") return false;
    switch (type) {
        case T::kIQ1_S:
        case T::kIQ1_M:
        case T::kIQ2_XXS:
        case T::kIQ2_XS:
        case T::kIQ2_S:
        case T::kIQ3_XXS:
            return true;
        case T::kQ2_K:
            return mix != nullptr && mix->file_type == kQ2_K_S;
        default:
            return false;
    }
}

std::vector<TensorType> mixed_types(const Mix& mix, const MixModel& model,
                                    std::span<const MixTensor> matrices) {
    if (find_tensor_type(mix.base)->block_elements == 1)
        return std::vector<TensorType>(matrices.size(), mix.base);
    std::vector<Role> roles;
    for (const MixTensor& m : matrices) roles.push_back(role_of(m.name, model.tied_embedding));
    const std::vector<Place> places = places_of(mix, model, matrices, roles);
    std::vector<TensorType> types;
    for (std::size_t i = 0; i < matrices.size(); ++i)
        types.push_back(ruled_type(mix, model, matrices[i], roles[i], places[i]));
    return types;
}

TensorType fitting_type(TensorType wanted, std::int64_t cols) {
    const auto fits = [&](T type) { return cols % find_tensor_type(type)->block_elements == 0; };
    if (fits(wanted)) return wanted;
    T shorter = T::kF16;
    switch (wanted) {
        case T::kIQ1_S:
        case T::kIQ1_M:
        case T::kIQ2_XXS:
        case T::kIQ2_XS:
        case T::kIQ2_S:
        case T::kIQ3_XXS:
        case T::kIQ3_S:
        case T::kIQ4_XS:
            shorter = T::kIQ4_NL;
            break;
        case T::kQ2_K:
        case T::kQ3_K:
        case T::kTQ1_0:
        case T::kTQ2_0:
            shorter = T::kQ4_0;
            break;
        case T::kQ4_K:
            shorter = T::kQ5_0;
            break;
        case T::kQ5_K:
            shorter = T::kQ5_1;
            break;
        case T::kQ6_K:
            shorter = T::kQ8_0;
            break;
        default:
            break;
    }
    return fits(shorter) ? shorter : T::kF16;
}

}  // namespace thimble
