// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include "core/error.h"
#include "eval/report.h"

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
    r.speed = Speed{512, 128, 5, 1000.25, 50.5, 123456};
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
