// SPDX-License-Identifier: Apache-2.0
// --device cuda as a user meets it. In the emulated build the device is told by the environment
// what to be.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "io/json.h"
#include "kernels/cuda/stream.h"
#include "tests/support/models.h"
#include "tests/support/process.h"
#include "tests/support/tiny_model.h"

using namespace thimble;

namespace {

using Environment = std::vector<std::pair<std::string, std::string>>;

bool emulated() { return std::string_view(cuda::build_kind()) == "emulated"; }
bool no_device() { return std::string_view(cuda::build_kind()) == "none"; }

test::ProcessResult run(const std::string& model, std::vector<std::string> more,
                        const Environment& environment = {}) {
    std::vector<std::string> command{
        test::tool_path("run"), "-m",  model, "-p", "Once upon a time", "--temp", "0",
        "--progress",           "none"};
    command.insert(command.end(), more.begin(), more.end());
    test::ProcessOptions options;
    options.environment = environment;
    options.environment.emplace_back("THIMBLE_EMU_TRACK", "0");
    options.timeout_seconds = 300;
    return test::run_process(command, options);
}

// Of a JSON report with a plan.
std::uint64_t vram_of(const std::string& report) {
    const Json json = parse_json(report, "report");
    const Json* at = &json;
    for (const char* key : {"plan", "tiers", "vram", "peak_bytes"}) {
        at = at->find(key);
        REQUIRE(at != nullptr);
    }
    return static_cast<std::uint64_t>(at->as_int("peak_bytes"));
}

std::uint64_t planned_vram(const std::string& model, std::vector<std::string> more) {
    more.insert(more.end(), {"--dry-run", "--json", "-"});
    const auto result = run(model, more);
    REQUIRE(result.exit == 0);
    return vram_of(result.out);
}

void check_real_model(const char* name) {
    const auto model = test::real_model(name);
    if (!model) return;
    const std::vector<std::string> base{"-n", "3", "-c", "64"};
    const auto cpu = run(*model, base);
    REQUIRE(cpu.exit == 0);
    const auto on_device = [&](const std::vector<std::string>& more) {
        std::vector<std::string> all = base;
        all.insert(all.end(), {"--device", "cuda"});
        all.insert(all.end(), more.begin(), more.end());
        return all;
    };
    for (const char* layers : {"-1", "7", "0"}) {
        const auto result = run(*model, on_device({"--gpu-layers", layers}));
        CAPTURE(layers);
        INFO(result.err);
        CHECK(result.exit == 0);
        CHECK(result.out == cpu.out);
    }
    // Some weights are streamed, and no keys fit.
    const test::TemporaryDirectory directory;
    CHECK(run(*model, on_device({"--max-memory", "vram=1", "--dry-run", "--json",
                                 directory.file("plan.json")}))
              .exit == 77);
    const std::uint64_t least = vram_of(test::read_file(directory.file("plan.json")));
    const std::uint64_t budget = (least + planned_vram(*model, on_device({}))) / 2;
    // Copies as early as they may be: kernels/emu/emu.h.
    const auto streamed = run(*model, on_device({"--max-memory", "vram=" + std::to_string(budget)}),
                              {{"THIMBLE_EMU_TIMING", "2"}});
    INFO(streamed.err);
    CHECK(streamed.exit == 0);
    CHECK(streamed.out == cpu.out);
    CHECK(streamed.err.find("streamed from host memory") != std::string::npos);
}

}  // namespace

TEST_SUITE("cuda" * doctest::skip(no_device())) {
    TEST_CASE("cuda: no device, and a driver too old, are usage errors that say what to do" *
              doctest::skip(!emulated())) {
        const test::TemporaryDirectory directory;
        test::write_tiny_model(directory.file("m.gguf"), "llama-tied");
        const std::vector<std::string> cuda{"-n", "2", "--device", "cuda"};
        const auto none = run(directory.file("m.gguf"), cuda, {{"THIMBLE_EMU_DEVICES", "0"}});
        CHECK(none.exit == 2);
        CHECK(none.err.find("no CUDA-capable device") != std::string::npos);
        CHECK(none.err.find("--device cpu") != std::string::npos);
        CHECK(none.out.empty());
        const auto old = run(directory.file("m.gguf"), cuda, {{"THIMBLE_EMU_DRIVER", "11040"}});
        const auto bare = run(directory.file("m.gguf"), cuda, {{"THIMBLE_EMU_DRIVER", "0"}});
        CHECK(bare.exit == 2);
        CHECK(bare.err.find("no NVIDIA driver") != std::string::npos);
        const auto early = run(directory.file("m.gguf"), cuda, {{"THIMBLE_EMU_CAPABILITY", "75"}});
        CHECK(early.exit == 2);
        CHECK(early.err.find("compute capability 7.5") != std::string::npos);
        CHECK(early.err.find("--device cpu") != std::string::npos);
        CHECK(old.exit == 2);
        CHECK(old.err.find("11.4") != std::string::npos);
        CHECK(old.err.find("13.0") != std::string::npos);
    }

    TEST_CASE("cuda: a budget one page too small is refused, and the least that fits is kept") {
        const test::TemporaryDirectory directory;
        const std::string model = directory.file("m.gguf");
        test::write_tiny_model(model, "llama-tied");
        const std::vector<std::string> base{"-n", "4", "--device", "cuda"};
        std::vector<std::string> tight = base;
        tight.insert(tight.end(), {"--max-memory", "vram=1"});
        const auto refused = run(model, tight);
        CHECK(refused.exit == 77);
        CHECK(refused.err.find("vram") != std::string::npos);
        CHECK(refused.err.find("--gpu-layers 0") != std::string::npos);
        // What it says it needs is what it takes.
        std::vector<std::string> dry = tight;
        dry.insert(dry.end(), {"--dry-run", "--json", directory.file("plan.json")});
        CHECK(run(model, dry).exit == 77);
        const std::uint64_t least = vram_of(test::read_file(directory.file("plan.json")));
        std::vector<std::string> fits = base, short_by_a_page = base;
        fits.insert(fits.end(), {"--max-memory", "vram=" + std::to_string(least)});
        short_by_a_page.insert(short_by_a_page.end(),
                               {"--max-memory", "vram=" + std::to_string(least - 4096)});
        CHECK(run(model, fits).exit == 0);
        CHECK(run(model, short_by_a_page).exit == 77);
    }

    TEST_CASE(
        "cuda: a device that has less than was stated ends with 77 and names what to offload" *
        doctest::skip(!emulated())) {
        const test::TemporaryDirectory directory;
        test::write_tiny_model(directory.file("m.gguf"), "llama-tied");
        const auto result = run(directory.file("m.gguf"),
                                {"-n", "2", "--device", "cuda", "--max-memory", "vram=1GiB"},
                                {{"THIMBLE_EMU_MEMORY", "1000000"}});
        CHECK(result.exit == 77);
        CHECK(result.err.find("--gpu-layers") != std::string::npos);
    }

    TEST_CASE("cuda: a coded model gives what the plain one does, all of it there and streamed") {
        const test::TemporaryDirectory directory;
        const std::string plain = directory.file("plain.gguf"),
                          coded = directory.file("coded.gguf");
        test::write_tiny_model(plain, "gemma3", "bf16");
        REQUIRE(test::run_process({test::tool_path("compress"), plain, "-o", coded, "-q"}).exit ==
                0);
        std::vector<std::string> words{"-n", "4", "-c", "32", "--device", "cuda"};
        const auto want = run(plain, words);
        INFO(want.err);
        REQUIRE(want.exit == 0);
        CHECK(run(coded, words).out == want.out);
        std::vector<std::string> least = words;
        least.insert(least.end(), {"--max-memory", "vram=1", "--dry-run", "--json",
                                   directory.file("plan.json")});
        CHECK(run(coded, least).exit == 77);
        const std::uint64_t budget = vram_of(test::read_file(directory.file("plan.json")));
        words.insert(words.end(), {"--max-memory", "vram=" + std::to_string(budget)});
        for (const char* timing : {"0", "2"}) {  // kernels/emu/emu.h
            const auto streamed = run(coded, words, {{"THIMBLE_EMU_TIMING", timing}});
            INFO(streamed.err);
            CHECK(streamed.exit == 0);
            CHECK(streamed.out == want.out);
            CHECK(streamed.err.find("streamed from host memory") != std::string::npos);
        }
    }

    TEST_CASE("cuda: a tool that works on the CPU only says so") {
        const test::TemporaryDirectory directory;
        test::write_tiny_model(directory.file("m.gguf"), "llama-tied");
        const auto result =
            test::run_process({test::tool_path("quantize"), "-m", directory.file("m.gguf"), "-o",
                               directory.file("q.gguf"), "--device", "cuda"});
        CHECK(result.exit == 2);
        CHECK(result.err.find("--device cpu") != std::string::npos);
    }

    TEST_CASE("cuda: activations that device or weights do not have are refused in one line") {
        const test::TemporaryDirectory directory;
        const std::string bytes = directory.file("q8_0.gguf"), planes = directory.file("b3.gguf");
        test::write_tiny_model(bytes, "llama-tied", "q8_0");
        test::write_tiny_model(planes, "llama-tied", "bipolar:bits=3");
        const auto with = [&](const std::string& model, const std::string& device,
                              const std::string& activations) {
            return run(model, {"-n", "4", "--device", device, "--activations", activations});
        };
        struct Refused {
            std::string activations, way;
        };
        for (const Refused& one :
             {Refused{"i8-token", "--device cpu"}, Refused{"b4", "--format bipolar"}}) {
            const std::string& activations = one.activations;
            CAPTURE(activations);
            const auto refused = with(bytes, "cuda", activations);
            CHECK(refused.exit == 2);
            CHECK(refused.out.empty());
            CHECK(std::count(refused.err.begin(), refused.err.end(), '\n') == 1);
            CHECK(refused.err.find("--activations " + activations) != std::string::npos);
            CHECK(refused.err.find(one.way) != std::string::npos);
            CHECK(with(bytes, "cpu", activations).exit == 0);
        }
        const auto cpu = with(planes, "cpu", "b4"), device = with(planes, "cuda", "b4");
        INFO(device.err);
        CHECK(cpu.exit == 0);
        CHECK(device.exit == 0);
        CHECK(device.out == cpu.out);
        // A reference without bit planes is read as it would be unasked.
        const std::string record = directory.file("record.json");
        const auto compared = test::run_process(
            {test::tool_path("evaluate"), "-m", planes, "--reference", bytes, "-f",
             "/usr/share/common-licenses/GPL-3", "-c", "16", "--chunks", "1", "--device", "cuda",
             "--activations", "b4", "--json", record, "--progress", "none"});
        INFO(compared.err);
        REQUIRE(compared.exit == 0);
        CHECK(test::read_file(record).find("4 bit planes, else i8 and 16 bits") !=
              std::string::npos);
    }

    TEST_CASE("cuda: SmolLM2 gives the CPU's greedy tokens with all, some and no layers there") {
        check_real_model(test::kSmolLm2);
    }
    TEST_CASE("cuda: Gemma gives the CPU's greedy tokens with all, some and no layers there") {
        check_real_model(test::kGemma3);
    }

    TEST_CASE("cuda: a short perplexity is the CPU's") {
        const auto model = test::real_model(test::kSmolLm2);
        if (!model) return;
        const test::TemporaryDirectory directory;
        const auto perplexity = [&](const std::string& device, const std::string& activations) {
            test::ProcessOptions options;
            options.environment = {{"THIMBLE_EMU_TRACK", "0"}};
            const std::string out = directory.file(device + ".json");
            const auto result = test::run_process(
                {test::tool_path("evaluate"), "-m", *model, "-f",
                 "/usr/share/common-licenses/GPL-3", "-c", "40", "--chunks", "1", "--device",
                 device, "--activations", activations, "--json", out, "--progress", "none"},
                options);
            INFO(result.err);
            REQUIRE(result.exit == 0);
            const Json json = parse_json(test::read_file(out), "record");
            const Json* at = &json;
            for (const char* key : {"result", "perplexity", "perplexity", "value"}) {
                at = at->find(key);
                REQUIRE(at != nullptr);
            }
            return at->as_double("value");
        };
        const double exact = perplexity("cpu", "f32");
        CHECK(std::abs(perplexity("cuda", "f32") / exact - 1) < 1e-3);
        // Input rounded to 16 bits, over a few tokens.
        CHECK(std::abs(perplexity("cuda", "auto") / exact - 1) < 0.01);
    }
}
