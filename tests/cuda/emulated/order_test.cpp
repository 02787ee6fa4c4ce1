// SPDX-License-Identifier: Apache-2.0
// The whole path of a model on the device, with work on its streams early and late: what the
// library forgets to order gives other logits in one of these.
#include <numeric>

#include "../harness.h"
#include "core/cpu.h"
#include "kernels/emu/emu.h"
#include "ops/cuda_context.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::cuda_test;

namespace {

constexpr emu::Timing kTimings[] = {emu::Timing::kAtOnce, emu::Timing::kLate,
                                    emu::Timing::kCopiesEarly};

struct Scene {
    emu::Settings kept = emu::settings();
    Scene() {
        emu::clear_fault();
        emu::settings().track_shared = false;
    }
    ~Scene() {
        emu::settings() = kept;
        emu::clear_fault();
    }
};

std::vector<double> logits_with(const std::string& path, const RunnerOptions& options,
                                std::span<const std::int32_t> tokens) {
    Team team(1);
    Runner runner(ModelSource::open(path), options, team);
    return test::all_logits(runner, tokens);
}

}  // namespace

TEST_SUITE("cuda") {
    TEST_CASE("cuda emulation: streamed weights give the same logits with copies early and late") {
        const Scene scene;
        const test::TempDir directory;
        const auto& golden = test::golden_model("gemma3");
        const std::string path = directory / "m.gguf";
        test::ModelCopy::as_gguf(golden.directory, "q8_0").write_gguf(path);
        RunnerOptions options;
        options.device = Device::kCuda;
        options.isa = best_isa();
        options.kv.context_tokens = 64;
        options.step_tokens = 4;
        const auto vram = [&](std::uint64_t most) {
            Plan plan;
            options.cuda.vram_bytes = most;
            Runner::add_to_plan(plan, *ModelSource::open(path), options, 1, 1, 1);
            return plan.total_bytes(Tier::kVram);
        };
        const std::uint64_t least = vram(0), all = vram(UINT64_MAX);
        const auto tokens = std::span(golden.prompts[1].tokens).first(9);
        for (const unsigned part : {0U, 2U, 3U}) {
            options.cuda.vram_bytes = least + (all - least) * part / 4;
            std::vector<double> first;
            for (const emu::Timing timing : kTimings) {
                emu::settings().timing = timing;
                const std::vector<double> logits = logits_with(path, options, tokens);
                if (first.empty()) first = logits;
                CAPTURE(part);
                CAPTURE(static_cast<int>(timing));
                CHECK(logits == first);
            }
        }
        CHECK(emu::fault().kind == emu::FaultKind::kNone);
    }

    TEST_CASE("cuda emulation: uploads keep their bytes until what was queued has read them") {
        const Scene scene;
        constexpr int kN = 5000, kUploads = 200;  // several times the room for uploads
        for (const emu::Timing timing : kTimings) {
            emu::settings().timing = timing;
            CAPTURE(static_cast<int>(timing));
            CudaContext context{Exec{}};
            const Array<float> out(static_cast<std::size_t>(kN) * kUploads);
            std::vector<float> values(kN);
            for (int u = 0; u < kUploads; ++u) {
                std::iota(values.begin(), values.end(), static_cast<float>(u * kN));
                const float* there = context.upload(std::span<const float>(values));
                cuda::add({.a = there,
                           .b = there,
                           .out = out.data() + static_cast<std::ptrdiff_t>(u) * kN,
                           .rows = 1,
                           .cols = kN,
                           .a_stride = kN,
                           .b_stride = kN,
                           .out_stride = kN},
                          context.compute());
            }
            context.compute().wait();
            std::vector<float> want(out.size());
            for (std::size_t i = 0; i < want.size(); ++i) want[i] = 2 * static_cast<float>(i);
            CHECK((out.get() == want));
        }
    }
}
