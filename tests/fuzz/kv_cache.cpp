// SPDX-License-Identifier: Apache-2.0
// Any bytes as a saved KV cache: an Error, or a sequence that a token can be attended to.
#include "kv/cache_file.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "core/team.h"
#include "ops/exec.h"
#include "ops/ops.h"

using namespace thimble;

namespace {

constexpr int kDim = 16;

// A layer that sees everything, and one with a window.
std::vector<AttentionSpec> layers() {
    AttentionSpec global;
    global.shape = {.kv_heads = 1, .heads = 2, .head_dim = kDim};
    global.rope.dims = kDim;
    global.scale = 0.25;
    AttentionSpec local = global;
    local.shape.window = 20;
    return {global, local};
}

void attend_once(KvEngine& engine, const KvOptions& options, SeqId seq) {
    static Team team(1);
    Workspace workspace(KvEngine::workspace_bytes(layers(), options, 1, Device::kCpu).host);
    const Exec exec{.team = &team, .workspace = &workspace};
    engine.begin_step(seq, 1);
    for (int layer = 0; layer < 2; ++layer) {
        float q[2 * kDim] = {1}, k[kDim] = {1}, v[kDim] = {1}, out[2 * kDim];
        engine.attend(exec, layer, {q, DType::kF32, 1, 2 * kDim, 2 * kDim},
                      {k, DType::kF32, 1, kDim, kDim}, {v, DType::kF32, 1, kDim, kDim},
                      {out, DType::kF32, 1, 2 * kDim, 2 * kDim});
    }
    engine.end_step();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const std::string path =
        "/tmp/fuzz-kv-cache-" + std::to_string(::getpid()) + ".safetensors";
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    const KvOptions options{.policy = "h2o:budget=12", .context_tokens = 128};
    KvEngine engine(layers(), options, Device::kCpu);
    const KvFileHead expected{"m", options.policy, options.type_k, options.type_v, {}};
    try {
        const SeqId seq = load_sequence(engine, expected, path);
        if (engine.tokens(seq) < engine.capacity_tokens()) attend_once(engine, options, seq);
        engine.close(seq);
    } catch (const Error& e) {
        if (e.exit() != Exit::kBadData) std::abort();
    }
    if (engine.bytes() != 0) std::abort();
    ::unlink(path.c_str());
    return 0;
}
