// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "core/error.h"
#include "eval/report.h"
#include "eval/report_join.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

Record sample() {
    Record r;
    r.model = {"Tiny", "tiny.gguf", "0123456789abcdef", "llama", "q8_0", 1536, 1000, 8.5, {}};
    r.reference = r.model;
    r.text = TextFacts{"text.txt", "fedcba9876543210", 100, 60};
    r.settings = {16, 3, 512, "f16", "f16", "full", "auto", "cpu", "avx2", "CPU", 2};
    r.perplexity = PerplexityFigures{21, {2.5, 0.125}, {12.18, 1.5}};
    DivergenceFigures d;
    d.kld = {0.0125, 0.0005};
    d.same_top = {0.9375, 0.01};
    d.kld_max = 0.5;
    r.divergence = d;
    r.speed = Speed{512, 128, 4096, 5, 1000.25, 50.5, 123456};
    r.seconds = 1.5;
    r.peak = {1000, 2048};
    return r;
}

}  // namespace

TEST_CASE("eval record: JSON keeps every field") {
    const Record r = sample();
    const std::string text = to_json(r).dump(2);
    const Record back = record_from_json(parse_json(text, "r.json"), "r.json");
    CHECK(to_json(back).dump(2) == text);
    CHECK(back.divergence->kld.standard_error == 0.0005);
    CHECK(back.speed->bytes_per_token == 123456);
    CHECK(back.speed->depth_tokens == 4096);

    Record bare;
    bare.perplexity = PerplexityFigures{};
    const Record bare_back = record_from_json(to_json(bare), "r.json");
    CHECK_FALSE(bare_back.divergence.has_value());
    CHECK_FALSE(bare_back.reference.has_value());
    CHECK_FALSE(bare_back.speed.has_value());
}

TEST_CASE("eval record: another JSON file is refused with the key") {
    const auto problem = [](const Json& json) -> std::string {
        try {
            (void)record_from_json(json, "r.json");
        } catch (const Error& error) {
            CHECK(error.exit() == Exit::kBadData);
            return error.what();
        }
        return "accepted";
    };
    CHECK(problem(Json::object()).find("r.json: is not an evaluation result") == 0);
    Json no_settings = to_json(sample());
    no_settings.set("settings", Json());
    CHECK(problem(no_settings) == "r.json: settings: expected an object");
    Json no_key = to_json(sample());
    no_key.set("text", Json::object());
    CHECK(problem(no_key) == "r.json: text: key 'file' is missing");
}

TEST_CASE("eval report: columns line up by characters and notes name what differs") {
    CHECK(text_table({{"a", "PPL"}, {"long", "1 ± 2"}, {"x", "-"}}) ==
          "a       PPL\nlong  1 ± 2\nx         -\n");

    Record other = sample();
    other.model.file = "a-longer-name.gguf";
    other.divergence.reset();
    other.speed.reset();
    const std::vector<Record> same = {sample(), other};
    const std::string text = report_text(same);
    CHECK(text.find("12.180 ± 1.500") != std::string::npos);
    CHECK(text.find("0.01250 ± 0.00050") != std::string::npos);
    CHECK(text.find("93.75 ± 1.00") != std::string::npos);
    CHECK(text.find("1.5 KiB") != std::string::npos);
    CHECK(text.find("do not compare") == std::string::npos);

    other.settings.windows = 4;
    const std::vector<Record> differing = {sample(), other};
    CHECK(report_text(differing).find("do not compare") != std::string::npos);
    CHECK(report_json(differing).find("results")->as_array("").size() == 2);
}

namespace {

std::string refusal(ReportJoin& join, const Json& json, const std::string& where) {
    try {
        join.add(json, where);
        (void)std::move(join).records();
    } catch (const Error& error) {
        CHECK(error.exit() == Exit::kBadData);
        return error.what();
    }
    return "accepted";
}

Json made(const std::string& output) {
    Json json = Json::object();
    json.set("schema", "thimble.report/1");
    json.set("tool", "quantize");
    json.set("output", output);
    json.set("seconds", 2.5);
    json.set("relative_rmse", 0.0912);
    return json;
}

}  // namespace

TEST_CASE("eval report: a model's quality, its speed and its making share a line") {
    Record quality = sample(), speed = sample();
    quality.speed.reset();
    speed.text.reset(), speed.perplexity.reset(), speed.divergence.reset();
    speed.reference.reset();
    speed.peak.measured_bytes = 4096;
    speed.speed->limit_bytes_per_second = 2e7;
    for (const bool speed_first : {false, true}) {
        ReportJoin join;
        join.add(to_json(speed_first ? speed : quality), "a.json");
        join.add(made("somewhere/tiny.gguf"), "q.json");
        join.add(to_json(speed_first ? quality : speed), "b.json");
        const std::vector<Record> records = std::move(join).records();
        REQUIRE(records.size() == 1);
        CHECK(records[0].divergence->kld.value == 0.0125);
        CHECK(records[0].peak.measured_bytes == 4096);
        CHECK(records[0].encoding->seconds == 2.5);
        const std::string text = report_text(records);
        CHECK(text.find("of read limit %") != std::string::npos);
        CHECK(text.find(" 31 ") != std::string::npos);  // 123456 * 50.5 of 2e7
        CHECK(text.find("9.12") != std::string::npos);
        CHECK(to_json(record_from_json(to_json(records[0]), "r")).dump() ==
              to_json(records[0]).dump());
    }

    // Other activations, another file: not the same line; and then the column is shown.
    Record other = speed;
    other.settings.activations = "f32";
    ReportJoin apart;
    apart.add(to_json(quality), "a.json");
    apart.add(to_json(other), "b.json");
    const std::vector<Record> two = std::move(apart).records();
    CHECK(two.size() == 2);
    CHECK(report_text(two).find("activations  ") != std::string::npos);

    ReportJoin lone;
    CHECK(refusal(lone, made("x.gguf"), "q.json") ==
          "q.json: no result is of the file that it made, 'x.gguf'");
    ReportJoin dry;
    Json no_output = made("x");
    no_output.set("tool", "run");
    CHECK(refusal(dry, no_output, "q.json").find("is not an evaluation result") !=
          std::string::npos);
}

TEST_CASE("eval report: lines are ordered by a figure, those without it last") {
    std::vector<Record> records = {sample(), sample(), sample()};
    records[0].model.file = "none";
    records[0].speed.reset();
    records[1].speed->decode_tokens_per_second = 9;
    records[1].model.file = "more";
    records[2].speed->decode_tokens_per_second = 3;
    records[2].model.file = "less";
    sort_records(records, "speed.decode_tokens_per_second", "--sort");
    CHECK(records[0].model.file + records[1].model.file + records[2].model.file == "lessmorenone");
    CHECK_THROWS_WITH_AS(sort_records(records, "speed.decode", "--sort"),
                         doctest::Contains("no result has a figure 'speed.decode'"), Error);
}
