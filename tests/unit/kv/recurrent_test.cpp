// SPDX-License-Identifier: Apache-2.0
// Recurrent layers in the KV engine: their states against a loop in double, and what comes back
// after forks, cuts and files.
#include <doctest/doctest.h>

#include <cmath>

#include "core/cpu.h"
#include "core/error.h"
#include "core/ledger.h"
#include "kernels/layout/rng.h"
#include "kv/cache_file.h"
#include "kv/engine.h"
#include "kv/recurrent_state.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

const std::vector<RecurrentLayer> kLayers = {{5}, {40}};

KvOptions options_of(std::int64_t context, const std::string& policy = "full") {
    KvOptions options;
    options.policy = policy;
    options.context_tokens = context;
    return options;
}

// Drives an engine with inputs that depend on (seed, layer, position) alone.
struct Recurrent {
    explicit Recurrent(Device d = Device::kCpu, std::int64_t context = 500)
        : device(d), engine(StateLayers({}, kLayers), options_of(context), d) {}

    static double input(std::uint64_t seed, std::size_t layer, std::int64_t t, std::int64_t c,
                        bool keep) {
        const Philox4 r =
            philox(seed, static_cast<std::uint64_t>(t) << 20 | static_cast<unsigned>(c),
                   2 * layer + (keep ? 1 : 0));
        return keep ? static_cast<double>(unit_float(r.v[0]))
                    : 2 * static_cast<double>(unit_float(r.v[1])) - 1;
    }

    // Rows [layer][position * channels + channel], appended.
    using Rows = std::vector<std::vector<double>>;
    void feed(SeqId seq, std::uint64_t seed, std::int64_t count, std::int64_t chunk, Rows& rows) {
        rows.resize(kLayers.size());
        Team team(2);
        Workspace workspace(std::size_t{1} << 20);
        Exec exec;
        exec.device = device;
        exec.isa = best_isa();
        exec.team = &team;
        exec.workspace = &workspace;
        for (; count > 0; count -= chunk) {
            const std::int64_t some = std::min(count, chunk), first = engine.tokens(seq);
            engine.begin_step(seq, some);
            for (std::size_t layer = 0; layer < kLayers.size(); ++layer)
                step(exec, seed, layer, first, some, rows[layer]);
            engine.end_step();
        }
    }
    void step(const Exec& exec, std::uint64_t seed, std::size_t layer, std::int64_t first,
              std::int64_t count, std::vector<double>& rows) {
        const WorkspaceScope scope(*exec.workspace);
        const std::int64_t channels = kLayers[layer].channels;
        View views[3];
        for (View& v : views) v = exec.workspace->take_view(exec.dtype(), count, channels);
        const auto at = [&](View v, std::int64_t t, std::int64_t c) -> double {
            return v.dtype == DType::kF64 ? v.row<double>(t)[c]
                                          : static_cast<double>(v.row<float>(t)[c]);
        };
        for (int i = 0; i < 2; ++i) {
            for (std::int64_t t = 0; t < count; ++t) {
                for (std::int64_t c = 0; c < channels; ++c) {
                    const double x = input(seed, layer, first + t, c, i == 0);
                    if (exec.dtype() == DType::kF64) views[i].row<double>(t)[c] = x;
                    if (exec.dtype() == DType::kF32)
                        views[i].row<float>(t)[c] = static_cast<float>(x);
                }
            }
        }
        engine.recur(exec, static_cast<int>(layer), views[0], views[1], views[2]);
        for (std::int64_t t = 0; t < count; ++t) {
            for (std::int64_t c = 0; c < channels; ++c) rows.push_back(at(views[2], t, c));
        }
    }

    Device device;
    KvEngine engine;
};

using Rows = Recurrent::Rows;

Rows fed(std::uint64_t seed, std::int64_t count, std::int64_t chunk, Device device = Device::kCpu) {
    Recurrent r(device);
    Rows rows;
    r.feed(r.engine.open(), seed, count, chunk, rows);
    return rows;
}

// Of each layer, the rows of tokens [first, end).
Rows part(const Rows& rows, std::int64_t first, std::int64_t end) {
    Rows out;
    for (std::size_t l = 0; l < rows.size(); ++l) {
        const std::int64_t n = kLayers[l].channels;
        out.emplace_back(rows[l].begin() + first * n, rows[l].begin() + end * n);
    }
    return out;
}

}  // namespace

TEST_CASE("recurrent layers: states are what a loop in double gives, in steps of any length") {
    for (const Device device : {Device::kRef, Device::kCpu}) {
        const Rows whole = fed(3, 200, 200, device);
        for (std::size_t layer = 0; layer < kLayers.size(); ++layer) {
            const std::int64_t channels = kLayers[layer].channels;
            double worst = 0;
            for (std::int64_t c = 0; c < channels; ++c) {
                double h = 0;
                for (std::int64_t t = 0; t < 200; ++t) {
                    h = Recurrent::input(3, layer, t, c, true) * h +
                        Recurrent::input(3, layer, t, c, false);
                    const auto at = static_cast<std::size_t>(t * channels + c);
                    worst = std::max(worst, std::abs(whole[layer][at] - h));
                }
            }
            CHECK(worst < (device == Device::kRef ? 1e-13 : 1e-5));
        }
        for (const std::int64_t chunk : {1, 7, 64, 65, 66, 130}) {
            CAPTURE(chunk);
            CHECK(fed(3, 200, chunk, device) == whole);
        }
    }
}

TEST_CASE("recurrent layers: the last 64 tokens can be taken back, earlier ones only all at once") {
    const Rows whole = fed(4, 300, 300), other = fed(5, 300, 300);
    Recurrent r;
    const SeqId seq = r.engine.open();
    Rows rows;
    r.feed(seq, 4, 150, 30, rows);
    CHECK(r.engine.rollback_floor(seq) == 150 - RecurrentState::kRevocable);
    for (const std::int64_t back : {149, 100, 86}) {
        Rows again;
        r.engine.truncate(seq, back);
        r.feed(seq, 4, 150 - back, 9, again);
        CHECK(again == part(whole, back, 150));
    }
    CHECK_THROWS_AS(r.engine.truncate(seq, 85), Error);
    CHECK(r.engine.tokens(seq) == 150);
    // Cut, and less written than before: what was beyond cannot be reached, what is kept can.
    r.engine.truncate(seq, 100);
    CHECK(r.engine.rollback_floor(seq) == 86);
    r.engine.truncate(seq, 86);
    Rows rest;
    r.feed(seq, 4, 214, 50, rest);
    CHECK(rest == part(whole, 86, 300));
    r.engine.truncate(seq, 0);
    CHECK(r.engine.rollback_floor(seq) == 0);
    Rows anew;
    r.feed(seq, 5, 70, 11, anew);
    CHECK(anew == part(other, 0, 70));
}

TEST_CASE("recurrent layers: a fork goes its own way") {
    const Rows whole = fed(6, 120, 120), other = fed(7, 120, 120);
    Recurrent r;
    const SeqId seq = r.engine.open();
    Rows rows, forked, rest;
    r.feed(seq, 6, 90, 90, rows);
    const SeqId fork = r.engine.fork(seq);
    r.feed(fork, 7, 20, 20, forked);  // other inputs: the state changes
    r.feed(seq, 6, 30, 10, rest);
    CHECK(rest == part(whole, 90, 120));
    CHECK(forked != part(other, 90, 110));
    r.engine.truncate(fork, 90);
    Rows again;
    r.feed(fork, 6, 30, 30, again);
    CHECK(again == part(whole, 90, 120));
    r.engine.close(seq);
    r.engine.truncate(fork, 60);
    again.clear();
    r.feed(fork, 6, 60, 30, again);
    CHECK(again == part(whole, 60, 120));
}

TEST_CASE("recurrent layers: a sequence holds what was predicted, however long it is") {
    for (const Device device : {Device::kRef, Device::kCpu}) {
        const std::uint64_t before = Ledger::process().current_bytes(Tier::kRam, Purpose::kKv);
        Recurrent r(device);
        const std::uint64_t predicted =
            KvEngine::predict_bytes(StateLayers({}, kLayers), options_of(500), 1, device);
        CHECK(predicted >= 65 * 45 * (device == Device::kRef ? 8 : 4));
        const SeqId a = r.engine.open();
        Rows rows;
        r.feed(a, 1, 400, 100, rows);
        CHECK(Ledger::process().current_bytes(Tier::kRam, Purpose::kKv) - before == predicted);
        CHECK(r.engine.bytes() == predicted);
        const SeqId b = r.engine.fork(a);
        CHECK(Ledger::process().current_bytes(Tier::kRam, Purpose::kKv) - before == 2 * predicted);
        CHECK(r.engine.bytes(b) == predicted);
        r.engine.close(a);
        r.engine.close(b);
        CHECK(Ledger::process().current_bytes(Tier::kRam, Purpose::kKv) == before);
    }
}

TEST_CASE(
    "recurrent layers: a saved sequence goes on, and can be cut, as if it had never stopped") {
    const TemporaryDirectory directory;
    const std::string path = directory.file("state.safetensors");
    const Rows whole = fed(8, 150, 150);
    for (const std::int64_t length : {1, 20, 100}) {
        CAPTURE(length);
        const std::vector<std::int32_t> text(static_cast<std::size_t>(length), 9);
        const KvFileHead head = KvFileHead::of("model", options_of(500), text);
        {
            Recurrent r;
            const SeqId seq = r.engine.open();
            Rows rows;
            r.feed(seq, 8, length, 40, rows);
            save_sequence(r.engine, seq, head, path);
        }
        CHECK(read_kv_head(path).tokens == text);
        Recurrent r;
        const SeqId seq = load_sequence(r.engine, head, path);
        Rows rest;
        r.feed(seq, 8, 30, 30, rest);
        CHECK(rest == part(whole, length, length + 30));
        const std::int64_t least = std::max<std::int64_t>(r.engine.rollback_floor(seq), 1);
        r.engine.truncate(seq, least);
        Rows again;
        r.feed(seq, 8, 10, 3, again);
        CHECK(again == part(whole, least, least + 10));
    }
    // Another count of channels, or another device, is another model.
    KvEngine ref(StateLayers({}, kLayers), options_of(500), Device::kRef);
    const KvFileHead head = KvFileHead::of("model", options_of(500), {});
    CHECK_THROWS_AS((void)load_sequence(ref, head, path), Error);
    CHECK(ref.bytes() == 0);
    KvEngine wide(StateLayers({}, {{5}, {41}}), options_of(500), Device::kCpu);
    CHECK_THROWS_AS((void)load_sequence(wide, head, path), Error);
}

TEST_CASE("recurrent layers: what only keys could have is refused") {
    const auto refused = [](const KvOptions& options) {
        try {
            const KvEngine engine(StateLayers({}, kLayers), options, Device::kCpu);
        } catch (const Error& e) {
            return e.exit() == Exit::kUsage;
        }
        return false;
    };
    CHECK(!refused(options_of(10)));
    CHECK(refused(options_of(10, "streaming:sink=4,budget=64")));
    CHECK(refused(options_of(10, "snapkv:budget=64")));
    KvOptions typed = options_of(10);
    typed.type_v = "q8_0";
    CHECK(refused(typed));
    Recurrent r(Device::kCpu, 10);
    const SeqId seq = r.engine.open();
    CHECK_THROWS_AS(r.engine.begin_step(seq, 11), Error);
}
