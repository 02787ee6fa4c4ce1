// SPDX-License-Identifier: Apache-2.0
// The grammar of gates, one table for all that reads them: evaluate --assert on an evaluation's
// figures, and recipes on a result's JSON.
#include <doctest/doctest.h>

#include <cmath>

#include "core/error.h"
#include "core/gate.h"
#include "eval/gate.h"
#include "recipe/gate.h"

using namespace thimble;

namespace {

const std::vector<eval::Figure> kFigures = {
    {"ppl", 20}, {"baseline.ppl", 19.9}, {"kld_mean", std::nan("")}, {"text_2.ppl", 8}, {"n", 3}};
constexpr const char* kResult =
    R"({"ppl": 20, "baseline": {"ppl": {"value": 19.9, "standard_error": 5}}, "kld_mean": null,
        "text_2": {"ppl": 8}, "n": 3})";

enum Outcome { kHolds, kFails, kUnknown, kRefused };
struct Case {
    const char* text;
    Outcome outcome;
};
const std::vector<Case> kTable = {
    // Arithmetic has its usual order.
    {"1+2*3==7", kHolds},
    {"(1+2)*3==9", kHolds},
    {"8/4/2==1", kHolds},
    {"7-4-2==1", kHolds},
    {"-2*-3==6", kHolds},
    {"n-1==2", kHolds},
    {"2-n==-(1)", kHolds},
    // Every comparison, both ways.
    {"2>=2", kHolds},
    {"2<=2", kHolds},
    {"2==2", kHolds},
    {"2!=3", kHolds},
    {"2<3", kHolds},
    {"3>2", kHolds},
    {"2<2", kFails},
    {"2>2", kFails},
    {"2!=2", kFails},
    {"3<=2", kFails},
    {"2>=3", kFails},
    {"2==3", kFails},
    // Numbers and spaces.
    {" 1e-3 < 0.002 ", kHolds},
    {"\tn\t==\t3", kHolds},
    {"ppl<2e1", kFails},
    // Figures, on either side; those that are no numbers hold nothing.
    {"ppl==20", kHolds},
    {"20==ppl", kHolds},
    {"text_2.ppl==8", kHolds},
    {"ppl<=baseline.ppl*1.01", kHolds},
    {"ppl<=baseline.ppl*1.001", kFails},
    {"kld_mean<1", kFails},
    {"kld_mean>=1", kFails},
    {"kld_mean!=1", kFails},
    {"kld_mean==kld_mean", kFails},
    {"1<kld_mean", kFails},
    {"n/0>1", kHolds},
    {"0/0==0/0", kFails},
    {"pppl<3", kUnknown},
    {"ppl<nan", kUnknown},
    {"ppl<inf", kUnknown},
    {"ppl<n.m", kUnknown},
    // What is no gate.
    {"", kRefused},
    {" ", kRefused},
    {"ppl", kRefused},
    {"ppl<", kRefused},
    {"<3", kRefused},
    {"ppl=3", kRefused},
    {"ppl=<3", kRefused},
    {"ppl<>3", kRefused},
    {"ppl<<3", kRefused},
    {"ppl<3<4", kRefused},
    {"(ppl<3", kRefused},
    {"(ppl<3)", kRefused},
    {"ppl<(3", kRefused},
    {"ppl<3)", kRefused},
    {"n n<3", kRefused},
    {"1..2<3", kRefused},
    {".ppl<3", kRefused},
    {"1<3x", kRefused},
    {"+1<3", kRefused},
    {"ppl<1e999", kRefused},
    {"ppl==*3", kRefused},
    {"$(ppl)<1", kRefused},
    {"ppl<3\n", kRefused},
};

template <class Check>
Outcome outcome_of(const char* text, const Check& check) {
    std::optional<Gate> gate;
    try {
        gate.emplace(text, "here");
    } catch (const Error& error) {
        CHECK(error.exit() == Exit::kUsage);
        CHECK(std::string(error.what()).starts_with("here: gate '"));
        return kRefused;
    }
    try {
        return check(*gate).holds ? kHolds : kFails;
    } catch (const Error& error) {
        CHECK(error.exit() == Exit::kUsage);
        CHECK(error.where() == "here");
        return kUnknown;
    }
}

}  // namespace

TEST_CASE("gate: one grammar for evaluations and for recipes") {
    const Json result = parse_json(kResult, "result");
    for (const Case& c : kTable) {
        CAPTURE(c.text);
        CHECK(outcome_of(c.text, [](const Gate& g) { return eval::check_gate(g, kFigures); }) ==
              c.outcome);
        CHECK(outcome_of(c.text, [&](const Gate& g) { return recipe::check_gate(g, result); }) ==
              c.outcome);
    }
}

TEST_CASE("gate: nesting has an end") {
    CHECK_THROWS_AS(Gate(std::string(1000, '(') + "1<2", "here"), Error);
    CHECK_THROWS_AS(Gate(std::string(1000, '-') + "1<2", "here"), Error);
    CHECK_NOTHROW(Gate(std::string(20, '(') + "1" + std::string(20, ')') + "<2", "here"));
}

TEST_CASE("gate: an error shows the place, a description what the figures are") {
    try {
        const Gate gate("ppl<20%", "here");
        FAIL("accepted");
    } catch (const Error& error) {
        CHECK(std::string(error.what()) ==
              "here: gate 'ppl<20%': expected the end, found '%' (for example 'kld_mean<0.03' or "
              "'ppl<=baseline.ppl*1.01')");
    }
    const auto text = [](const char* gate) {
        const Gate made(gate, "here");
        return describe(made, eval::check_gate(made, kFigures));
    };
    CHECK(text("ppl < 19") == "ppl < 19 failed: ppl is 20");
    CHECK(text("ppl<=baseline.ppl*1.01+ppl*0") ==
          "ppl<=baseline.ppl*1.01+ppl*0 holds: ppl is 20, baseline.ppl is 19.9");
    CHECK(text("kld_mean<1") == "kld_mean<1 failed: kld_mean is not a number");
    CHECK(text("1<2") == "1<2 holds");
    const Gate sides("n*2<ppl/2", "here");
    const GateResult result = eval::check_gate(sides, kFigures);
    CHECK(result.left == 6);
    CHECK(result.right == 10);
}
