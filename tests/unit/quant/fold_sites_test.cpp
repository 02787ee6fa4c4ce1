// SPDX-License-Identifier: Apache-2.0
#include "quant/fold_sites.h"

#include <doctest/doctest.h>

#include <deque>
#include <string>

#include "core/error.h"

using namespace thimble;

namespace {

template <class Fn>
Error error_of(Fn&& fn) {
    try {
        fn();
    } catch (const Error& e) {
        return e;
    }
    return Error(Exit::kDone, "nothing", "was thrown");
}

// One layer between an embedding and a head, of the roles given.
struct Model {
    TensorRule rule;
    std::deque<SourceTensor> tensors;
    std::vector<UnitSpec> units = std::vector<UnitSpec>(3);

    const SourceTensor* add(const std::string& name) {
        tensors.push_back({});
        tensors.back().name = name;
        tensors.back().rule = &rule;
        return &tensors.back();
    }
    void add_matrices(const std::vector<std::string>& roles, bool biased = false) {
        for (const std::string& role : roles) {
            const SourceTensor* bias = biased ? add(role + ".bias") : nullptr;
            units[1].matrices.push_back({role, add(role), bias});
        }
    }
    void add_norm(const std::string& role) { units[1].vectors.push_back({role, add(role)}); }
    [[nodiscard]] const SourceTensor* of(const std::string& name) const {
        for (const SourceTensor& t : tensors)
            if (t.name == name) return &t;
        return nullptr;
    }
};

Model whole() {
    Model m;
    m.add_norm("attn_norm");
    m.add_norm("ffn_norm");
    m.add_matrices({"attn_q", "attn_k", "attn_v", "attn_output"}, true);
    m.add_matrices({"ffn_gate", "ffn_up", "ffn_down"}, true);
    return m;
}

const std::vector<std::string> kBlocks = {"attention", "ffn"};

}  // namespace

TEST_CASE("fold sites: rows, the columns that they meet and biases go together") {
    const Model m = whole();
    const auto sites = fold_sites({true, true, true}, kBlocks, m.units);
    REQUIRE(sites.size() == 4);
    using Tensors = std::vector<const SourceTensor*>;
    CHECK(sites[0].kind == FoldSite::Kind::kValues);
    CHECK(sites[0].rows == Tensors{m.of("attn_v")});
    CHECK(sites[0].columns == Tensors{m.of("attn_output"), m.of("attn_v.bias")});
    CHECK(sites[0].keys == Tensors{m.of("attn_output")});
    CHECK(sites[1].kind == FoldSite::Kind::kFfn);
    CHECK(sites[1].rows == Tensors{m.of("ffn_gate"), m.of("ffn_up")});
    CHECK(sites[1].columns ==
          Tensors{m.of("ffn_down"), m.of("ffn_gate.bias"), m.of("ffn_up.bias")});
    CHECK(sites[2].norm == m.of("attn_norm"));
    CHECK(sites[2].keys == Tensors{m.of("attn_q"), m.of("attn_k"), m.of("attn_v")});
    CHECK(sites[3].norm == m.of("ffn_norm"));
    CHECK(sites[3].keys == Tensors{m.of("ffn_gate"), m.of("ffn_up")});
    CHECK(fold_sites({true, false, false}, kBlocks, m.units).size() == 1);
    CHECK(fold_sites({false, true, false}, kBlocks, m.units).size() == 1);
    CHECK(fold_sites({false, false, true}, kBlocks, m.units).size() == 2);
    CHECK(fold_sites({}, kBlocks, m.units).empty());
}

TEST_CASE("fold sites: what no layer has, what others read and rows with an order are refused") {
    const auto refused = [](const Model& m, FoldWish wish, const std::string& flag,
                            const std::vector<std::string>& blocks = kBlocks) {
        const Error e = error_of([&] { (void)fold_sites(wish, blocks, m.units); });
        CHECK(e.exit() == Exit::kUsage);
        CHECK(e.where() == flag);
        return e.problem();
    };
    Model bare;
    bare.add_norm("attn_norm");
    bare.add_matrices({"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down"});
    CHECK(refused(bare, {true, false, false}, "--rearrange").find("ffn_up") != std::string::npos);
    CHECK_NOTHROW((void)fold_sites({false, true, true}, kBlocks, bare.units));
    Model mixer;
    mixer.add_matrices({"ffn_gate", "ffn_up", "ffn_down"});
    CHECK(refused(mixer, {false, true, false}, "--rearrange").find("attn_v") != std::string::npos);
    CHECK(refused(mixer, {false, false, true}, "--smooth").find("norm") != std::string::npos);
    // Roles of the same name in blocks of another kind.
    const Model m = whole();
    refused(m, {true, false, false}, "--rearrange", {"attention", "experts"});
    refused(m, {false, true, false}, "--rearrange", {"recurrence", "ffn"});
    refused(m, {false, false, true}, "--smooth", {"recurrence", "experts"});

    Model tied = whole();
    tied.units[2].matrices.push_back({"output", tied.of("ffn_gate"), nullptr});
    CHECK(refused(tied, {true, false, false}, "--rearrange").find("'ffn_gate' is read in 2") !=
          std::string::npos);
    CHECK_NOTHROW((void)fold_sites({false, true, false}, kBlocks, tied.units));
    Model shared = whole();
    shared.units[2].vectors.push_back({"output_norm", shared.of("attn_norm")});
    CHECK(refused(shared, {false, false, true}, "--smooth").find("'attn_norm' is read in 2") !=
          std::string::npos);

    Model ordered = whole();
    ordered.rule.transform = HfTransform::kPairKeys;
    CHECK(refused(ordered, {false, true, false}, "--rearrange").find("order of their own") !=
          std::string::npos);
    CHECK_NOTHROW((void)fold_sites({false, false, true}, kBlocks, ordered.units));
}

TEST_CASE("rearrange list: items, all of them, and others with the nearest name") {
    CHECK_FALSE(parse_rearrange("").any());
    CHECK(parse_rearrange("ffn").ffn);
    CHECK_FALSE(parse_rearrange("ffn").values);
    CHECK_FALSE(parse_rearrange("values").ffn);
    CHECK(parse_rearrange("values").values);
    for (const char* both : {"all", "ffn,values", "values,ffn"}) {
        CHECK(parse_rearrange(both).ffn);
        CHECK(parse_rearrange(both).values);
    }
    CHECK_FALSE(parse_rearrange("all").smooth);
    for (const char* bad : {"keys", "ffn,", ",", "ffn values", "valuse"}) {
        const Error e = error_of([&] { (void)parse_rearrange(bad); });
        CHECK(e.exit() == Exit::kUsage);
        CHECK(e.where() == "--rearrange");
    }
    CHECK(error_of([] { (void)parse_rearrange("valuse"); }).problem().find("values") !=
          std::string::npos);
}
