// SPDX-License-Identifier: Apache-2.0
// run --profile and evaluate --profile as a user meets them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "format/weight_format.h"
#include "io/json.h"
#include "model/source.h"
#include "ops/ops.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;
using namespace thimble::test;

namespace {

double figure(const Json& json, const char* key) {
    const Json* value = json.find(key);
    REQUIRE_MESSAGE(value != nullptr, key);
    return value->as_double(key);
}

ProcessResult run(const std::string& tool, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path(tool));
    return run_process(arguments);
}

// Rows and the rest are the whole; returns the bytes of products.
double check_phase(const Json& phase) {
    double seconds = figure(phase, "other_seconds"), products = 0, waiting = 0;
    CHECK(seconds >= 0);
    for (const Json& row : phase.find("operations")->as_array("operations")) {
        seconds += figure(row, "seconds");
        waiting += figure(row, "waiting_seconds");
        CHECK(figure(row, "waiting_seconds") <= figure(row, "seconds"));
        CHECK(std::isfinite(figure(row, "of_read_limit")));
        const std::string name = row.find("operation")->as_string("operation");
        if (!name.starts_with("matmul")) continue;
        products += figure(row, "bytes");
    }
    CHECK(seconds == doctest::Approx(figure(phase, "seconds")));
    CHECK(waiting <= figure(*phase.find("barriers"), "seconds") + 1e-9);
    return products;
}

}  // namespace

TEST_CASE("run --profile: times add up, bytes are the model's, the text stays as it is") {
    const TemporaryDirectory directory;
    const std::string model = directory.file("model.gguf"), report = directory.file("report.json");
    write_tiny_model(model, "llama-tied", "q8_0");
    const std::vector<std::string> what = {
        "-m", model,    "-p",  "some words",   "-n",     "9", "-t",
        "2",  "--temp", "0.7", "--ignore-eos", "--seed", "5"};
    const ProcessResult plain = run("run", what);
    REQUIRE_MESSAGE(plain.exit == 0, plain.err);
    CHECK(plain.err.find("profile:") == std::string::npos);
    for (const std::string device : {"cpu", "ref"}) {
        CAPTURE(device);
        std::vector<std::string> arguments = what;
        arguments.insert(arguments.end(), {"--profile", "--json", report, "--device", device});
        const ProcessResult profiled = run("run", arguments);
        REQUIRE_MESSAGE(profiled.exit == 0, profiled.err);
        if (device == "cpu") CHECK(profiled.out == plain.out);
        CHECK(profiled.err.find("decoding, 8 tokens") != std::string::npos);
        CHECK(profiled.err.find("matmul q8_0") != std::string::npos);

        const Json json = parse_json(read_file(report), report);
        const Json& profile = *json.find("profile");
        CHECK(figure(profile, "read_bytes_per_second") > 1e8);
        const Json &prompt = *profile.find("prompt"), &decode = *profile.find("decode");
        const Json& stats = *json.find("stats");
        CHECK(figure(prompt, "tokens") == figure(stats, "prompt_tokens"));
        CHECK(figure(decode, "tokens") == figure(stats, "decode_steps"));
        // The phase begins before that clock and ends after it.
        CHECK(figure(decode, "seconds") >= figure(stats, "decode_seconds") * (1 - 1e-9));
        (void)check_phase(prompt);
        double bytes = 0;
        const auto source = ModelSource::open(model);
        for (const SourceTensor& tensor : source->tensors()) {
            if (!tensor.is_matrix) continue;
            const LayoutId layout =
                device == "cpu" ? *ops::resident_layout(tensor.layout()) : tensor.layout();
            bytes += static_cast<double>(ops::packed_bytes(layout, {tensor.rows(), tensor.cols()}));
        }
        CHECK(check_phase(decode) == 8 * bytes);
        const double unpacking = figure(decode, "dequantisation_seconds");
        CHECK(unpacking >= 0);
        CHECK(unpacking <= figure(decode, "seconds"));
        CHECK(profile.find("dequantisation")->as_array("d").empty() == (device == "ref"));
    }

    std::vector<std::string> quiet = what;
    quiet.insert(quiet.end(), {"--profile", "-q"});
    CHECK(run("run", quiet).err.empty());
    std::vector<std::string> refused = what;
    refused.insert(refused.end(), {"--profile", "--device", "cuda"});
    CHECK(run("run", refused).exit == 2);
    CHECK(run("run", {"--profile", "--probe", directory.file("p.json")}).exit == 2);
}

TEST_CASE("run --profile: layers from disk, several workers, a cache that is only read") {
    const TemporaryDirectory directory;
    const std::string model = directory.file("model.gguf"), report = directory.file("report.json");
    write_tiny_model(model, "gemma3", "f32");
    const auto profile_of = [&](std::vector<std::string> more) {
        std::vector<std::string> arguments = {"-m", model, "-p", "some words", "-n",     "6",
                                              "-q", "-t",  "1",  "--profile",  "--json", report};
        arguments.insert(arguments.end(), more.begin(), more.end());
        const ProcessResult r = run("run", arguments);
        CHECK_MESSAGE(r.exit == 0, r.err);
        const Json json = parse_json(read_file(report), report);
        (void)check_phase(*json.find("profile")->find("prompt"));
        (void)check_phase(*json.find("profile")->find("decode"));
        return json;
    };
    const Json whole = profile_of({"--ignore-eos"});
    const auto has_disk = [](const Json& json) {
        const auto& rows =
            json.find("profile")->find("decode")->find("operations")->as_array("operations");
        return std::any_of(rows.begin(), rows.end(), [](const Json& row) {
            return row.find("operation")->as_string("o") == "weights from disk";
        });
    };
    CHECK(!has_disk(whole));
    const ProcessResult dry =
        run("run", {"-m", model, "-p", "some words", "-n", "6", "-t", "1", "--profile", "--dry-run",
                    "--max-memory", "ram=1", "--json", report});
    REQUIRE(dry.exit == 77);
    const Json plan = parse_json(read_file(report), report);
    const std::int64_t least =
        plan.find("plan")->find("tiers")->find("ram")->find("peak_bytes")->as_int("");
    CHECK(has_disk(
        profile_of({"--ignore-eos", "--max-memory", "ram=" + std::to_string(least + (8 << 10))})));

    const Json workers = profile_of({"--workers", "2", "--ignore-eos"});
    CHECK(figure(*workers.find("profile")->find("decode"), "tokens") >= 12);
    const Json read = profile_of({"-n", "0", "--kv-save", directory.file("cache.safetensors")});
    CHECK(figure(*read.find("profile")->find("prompt"), "tokens") > 0);
    CHECK(figure(*read.find("profile")->find("decode"), "tokens") == 0);
}

TEST_CASE("evaluate --profile: every format, and what binds it") {
    const TemporaryDirectory directory;
    const std::string out = directory.file("kernels.json");
    const std::vector<std::string> small = {"--profile",        "-q", "-t", "1", "--rows", "64",
                                            "--profile-memory", "16"};
    const auto profile = [&](std::vector<std::string> more) {
        more.insert(more.begin(), small.begin(), small.end());
        return run("evaluate", more);
    };
    const ProcessResult r = profile({"--cols", "256", "-o", out});
    REQUIRE_MESSAGE(r.exit == 0, r.err);
    const Json json = parse_json(read_file(out), out);
    CHECK(json.find("schema")->as_string("schema") == "thimble.kernels.v1");
    CHECK(figure(json, "read_bytes_per_second") > 1e8);
    std::vector<std::string> names;
    for (const Json& one : json.find("formats")->as_array("formats")) {
        const std::string name = one.find("format")->as_string("format");
        CAPTURE(name);
        names.push_back(name);
        for (const Json& other : one.find("also")->as_array("also"))
            names.push_back(other.as_string("also"));
        REQUIRE(one.find("skipped") == nullptr);
        CHECK(r.out.find("\n" + name + " ") != std::string::npos);
        const auto format = make_format(name, "test");
        const double bits = figure(one, "bytes_per_weight") * 8;
        CHECK(bits >= format->info().nominal_bits_per_weight * 0.5);
        CHECK(bits <= 66);
        for (const char* key : {"seconds", "bytes_per_second", "of_read_limit", "near_seconds",
                                "near_seconds_per_weight", "prompt_ops_per_second"}) {
            CAPTURE(key);
            CHECK(std::isfinite(figure(one, key)));
            CHECK(figure(one, key) > 0);
        }
        const double share = figure(one, "dequantisation_share");
        CHECK(share >= 0);
        CHECK(share < 1);
        if (name == "q8_0" || name == "f32") CHECK(share == 0);
        const std::string binds = one.find("binds")->as_string("binds");
        CHECK((binds == "memory" || binds == "dequantisation" || binds == "arithmetic" ||
               binds == "threads"));
        if (binds == "dequantisation") CHECK(share > 0.5);
        const double read = figure(one, "read_seconds"), near = figure(one, "near_seconds");
        CHECK(figure(one, "waiting_seconds") == 0);  // of one thread
        CHECK((binds == "memory") == (read >= near || figure(one, "of_read_limit") >= 1 / 1.2));
    }
    for (const std::string& name : weight_formats().names())
        CHECK_MESSAGE(std::count(names.begin(), names.end(), name) == 1, name);
    for (const FormatAlias& alias : format_aliases())
        CHECK_MESSAGE(std::count(names.begin(), names.end(), std::string(alias.name)) == 1,
                      alias.name);
}

TEST_CASE("evaluate --profile: some formats, and what it refuses") {
    const std::vector<std::string> small = {"--profile",        "-q", "-t",     "1",
                                            "--profile-memory", "16", "--json", "-"};
    const auto profile = [&](std::vector<std::string> more) {
        more.insert(more.begin(), small.begin(), small.end());
        return run("evaluate", more);
    };
    const ProcessResult two = profile({"--format", "int4", "--format", "affine", "--format",
                                       "sparse:values=i8", "--rows", "128", "--cols", "96"});
    REQUIRE_MESSAGE(two.exit == 0, two.err);
    const Json json = parse_json(two.out, "stdout");
    const auto& formats = json.find("profile")->find("formats")->as_array("formats");
    REQUIRE(formats.size() == 2);
    CHECK(formats[0].find("also")->as_array("also").size() == 1);
    CHECK(figure(formats[1], "bytes_per_weight") < 1);  // half of the weights are zero

    CHECK(profile({"--format", "q4_k", "--rows", "64", "--cols", "96"}).exit == 2);
    CHECK(profile({"--format", "nosuch"}).exit == 2);
    CHECK(profile({"--rows", "65"}).exit == 2);
    CHECK(profile({"--device", "ref"}).exit == 2);
    const ProcessResult dry = profile({"--dry-run", "--max-memory", "ram=20M"});
    CHECK(dry.exit == 77);
}
