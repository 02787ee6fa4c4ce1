// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "core/error.h"
#include "eval/compare.h"
#include "eval/gate.h"
#include "eval/lm_eval.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

TaskResult task(const std::string& name, const std::string& kind, std::vector<double> acc) {
    TaskResult t;
    t.name = name, t.kind = kind, t.sha256 = "77";
    t.samples = std::ssize(acc);
    t.metrics = {{{"acc", true}, estimate_of(acc)}};
    t.columns = {{"acc", std::move(acc)}};
    return t;
}

}  // namespace

TEST_CASE("eval gate: an unknown figure is named with its nearest and all others") {
    try {
        (void)check_gate(Gate("kdl_mean<1", "--assert"), {{"kld_mean", 1}, {"ppl", 2}});
        FAIL("accepted");
    } catch (const Error& error) {
        CHECK(error.exit() == Exit::kUsage);
        const std::string text = error.what();
        CHECK(text.find("did you mean 'kld_mean'") != std::string::npos);
        CHECK(text.find("figures: kld_mean, ppl") != std::string::npos);
    }
    CHECK(check_gate(Gate("kld_mean<ppl", "--assert"), {{"kld_mean", 1}, {"ppl", 2}}).holds);
}

TEST_CASE("eval figures: short names only where they are clear") {
    Record record;
    record.tasks = {task("one", "choice", {1, 0}), task("two", "choice", {1, 1})};
    record.tasks[1].metrics.push_back({{"f1", true}, {0.25, 0}});
    record.model.bits_per_weight = 4.5;
    const auto find = [&](const std::string& name) -> std::optional<double> {
        for (const Figure& figure : figures_of(record))
            if (figure.name == name) return figure.value;
        return std::nullopt;
    };
    CHECK_FALSE(find("acc"));
    CHECK(find("f1") == 0.25);
    CHECK(find("one.acc") == 0.5);
    CHECK(find("two.acc") == 1);
    CHECK(find("model.bits_per_weight") == 4.5);
    record.averages = {{{"acc", true}, {0.75, 0}}};
    CHECK(find("acc") == 0.75);
    CHECK(figures_of(record, &record).size() == 2 * figures_of(record).size());
    CHECK(figures_of(record, &record).back().name == "baseline.seconds");
}

TEST_CASE("eval compare: pairs samples of equal tasks only") {
    Record a, b;
    a.tasks = {task("one", "choice", {1, 0, 1, 1}), task("two", "choice", {1, 1})};
    b.tasks = {task("one", "choice", {1, 1, 0, 0}), task("two", "choice", {1, 1})};
    b.tasks[1].sha256 = "other";
    const Comparison c = compare(a, b, "a.json", "b.json");
    REQUIRE(c.figures.size() == 1);
    CHECK(c.figures[0].task == "one");
    CHECK(c.figures[0].test.only_a == 2);
    CHECK(c.figures[0].test.only_b == 1);
    CHECK(c.figures[0].test.difference.value == 0.25);
    REQUIRE(c.notes.size() == 1);
    CHECK(c.notes[0] == "two: the samples' files differ");
    b.tasks[0].shots = 5;
    CHECK_THROWS_AS((void)compare(a, b, "a.json", "b.json"), Error);
}

TEST_CASE("eval lm-eval: figures stand where readers of its results look for them") {
    Record record;
    record.model.file = "m.gguf";
    record.tasks = {task("hellaswag", "hellaswag", {1, 0, 1, 1})};
    record.tasks[0].shots = 2;
    const Json json = lm_eval_json(record, {.version = "1", .date = 5, .limit = 4});
    const auto at = [&](std::initializer_list<const char*> keys) -> Json {
        const Json* node = &json;
        for (const char* key : keys) {
            node = node->find(key);
            REQUIRE(node != nullptr);
        }
        return *node;
    };
    CHECK(at({"results", "hellaswag", "acc,none"}).as_double("") == 0.75);
    CHECK(at({"results", "hellaswag", "acc_stderr,none"}).as_double("") == 0.25);
    CHECK(at({"results", "hellaswag", "alias"}).as_string("") == "hellaswag");
    CHECK(at({"higher_is_better", "hellaswag", "acc"}).as_bool(""));
    CHECK(at({"n-shot", "hellaswag"}).as_int("") == 2);
    CHECK(at({"n-samples", "hellaswag", "effective"}).as_int("") == 4);
    CHECK(at({"configs", "hellaswag", "output_type"}).as_string("") == "multiple_choice");
    CHECK(at({"config", "limit"}).as_int("") == 4);
}
