// SPDX-License-Identifier: Apache-2.0
// Times of a tiny model on a made-up machine, against sums over its matrices by hand.
#include <doctest/doctest.h>

#include "core/error.h"
#include "cost/machine_time.h"
#include "cost/served_model.h"
#include "tests/support/golden_model.h"

using namespace thimble;
using namespace thimble::cost;

namespace {

MachineProfile machine() {
    MachineProfile p;
    p.name = "made up", p.cpu = "CPU", p.isa = "any";
    RateAtThreads r;
    r.threads = 1;
    r.read_bytes_per_second = 1e9, r.copy_bytes_per_second = 1e9;
    r.f32_ops_per_second = 2e9, r.i8_ops_per_second = 4e9;
    r.dense_f32_ops_per_second = 2e9, r.dense_bf16_ops_per_second = 2e9;
    p.rates = {r};
    p.disk_read_bytes_per_second = 1e8, p.disk_write_bytes_per_second = 1e8;
    return p;
}

}  // namespace

TEST_CASE("cost machine time: a profile without layouts gives bandwidth and the rate of floats") {
    const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
    const ModelSpec& spec = source->spec();
    const MachineProfile p = machine();
    const MachineTime time({p, 1}, *source);
    CHECK(time.misses() == "bf16");
    const ServedModel model = served_model(*source, {.context_tokens = 64});
    double matrices = 0, keys = 0;  // of one token; of one key
    for (const AttentionSpec& layer : spec.attention) {
        const int q = layer.shape.heads * layer.shape.head_dim;
        const int kv = layer.shape.kv_heads * layer.shape.head_dim;
        matrices += static_cast<double>(spec.hidden * (2 * q + 2 * kv + 3 * spec.ffn));
        keys += 4.0 * q;
        CHECK(model.layers[0].bytes_per_key == 2 * 2.0 * kv);  // f16
    }
    const double head = static_cast<double>(spec.hidden * spec.vocab);
    CHECK(model.prompt_parameters == matrices);
    CHECK(model.decode_parameters == matrices + head);
    // Ten tokens are bound by arithmetic here, one by its bytes: 2 a weight, 2 operations.
    CHECK(time.prefill_seconds(model, 10) ==
          doctest::Approx((10 * 2 * matrices + keys * 55) / 2e9 + 2 * head / 1e9));
    const double one = (matrices + head) * 2 / 1e9;
    CHECK(time.decode_seconds(model, 20, 1) == doctest::Approx(one + kv_bytes(model, 20) / 1e9));
    CHECK(time.decode_seconds(model, 0, 8) == doctest::Approx(8 * (matrices + head) * 2 / 2e9));
    CHECK(time.hardware().ops_per_second == 2e9);
}

TEST_CASE("cost machine time: rates of layouts, widths, calls, attention and activations count") {
    const auto source = ModelSource::open(test::golden_model("llama-tied").directory);
    const ServedModel model = served_model(*source, {.context_tokens = 64});
    MachineProfile p = machine();
    const double bare = MachineTime({p, 1}, *source).decode_seconds(model, 20, 1);
    RateAtThreads& r = p.rates[0];
    r.layouts = {{"bf16", 2e9, 2e9, 1e9, 1e9}};
    const MachineTime same({p, 1}, *source);
    CHECK(same.misses().empty());
    CHECK(same.decode_seconds(model, 20, 1) == doctest::Approx(bare));
    // Narrower than what was measured: more of a row's own cost, as far as twice the wide rate.
    r.layouts[0].narrow_read_bytes_per_second = 5e8;
    CHECK(MachineTime({p, 1}, *source).decode_seconds(model, 20, 1) > 2 * bare);
    r.layouts[0].narrow_read_bytes_per_second = 1e9;
    r.calls_per_second = 1e3;
    const double calls = 4 * static_cast<double>(source->spec().layers) + 1;
    CHECK(MachineTime({p, 1}, *source).decode_seconds(model, 20, 1) ==
          doctest::Approx(bare + calls / 1e3));
    r.attention_bytes_per_second = 5e8;
    CHECK(MachineTime({p, 1}, *source).decode_seconds(model, 20, 1) ==
          doctest::Approx(bare + calls / 1e3 + kv_bytes(model, 20) / 1e9));
    r.attention_calls_per_second = 500;
    CHECK(MachineTime({p, 1}, *source).decode_seconds(model, 20, 1) ==
          doctest::Approx(bare + calls / 1e3 + kv_bytes(model, 20) / 1e9 +
                          static_cast<double>(source->spec().layers) / 500));
    const double before = MachineTime({p, 1}, *source).prefill_seconds(model, 30);
    r.attention_ops_per_second = 1e9;  // half of what stood in for it
    const double attention = prefill_ops(model, 30).attention;
    CHECK(MachineTime({p, 1}, *source).prefill_seconds(model, 30) ==
          doctest::Approx(before + attention / 2e9));
    r.elementwise_bytes_per_second = 1e6;
    CHECK(MachineTime({p, 1}, *source).prefill_seconds(model, 30) > before + attention / 2e9);
}

TEST_CASE("cost profile: rates of layouts come back from JSON, and none may be missing in one") {
    MachineProfile p = machine();
    p.rates[0].layouts = {{"q4_0", 4e9, 3e9, 2e9, 1e9}, {"f16", 8e9, 7e9, 6e9, 5e9}};
    p.rates[0].calls_per_second = 12345;
    const Json json = to_json(p);
    const MachineProfile again = profile_from_json(parse_json(json.dump(), "p"), "p");
    CHECK(to_json(again).dump() == json.dump());
    CHECK(again.at(1).find("f16")->wide_ops_per_second == 8e9);
    CHECK(again.at(1).find("q4_0")->narrow_read_bytes_per_second == 1e9);
    CHECK(again.at(7).find("bf16") == nullptr);
    CHECK(again.at(1).calls_per_second == 12345);
    CHECK(again.at(1).attention_ops_per_second == 0);
    std::string text = json.dump();
    text.replace(text.find("narrow_ops_per_second"), 6, "marrow");
    CHECK_THROWS_AS((void)profile_from_json(parse_json(text, "p"), "p"), Error);
}
