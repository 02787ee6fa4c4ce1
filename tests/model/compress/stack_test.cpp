// SPDX-License-Identifier: Apache-2.0
// Models in blocks: whatever is loaded is the sum of a beginning of the order, memory is what was
// planned, and files that say something else are refused.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "compress/stack_job.h"
#include "compress/stack_order.h"
#include "core/cpu.h"
#include "core/error.h"
#include "io/gguf_writer.h"
#include "kernels/layout/half.h"
#include "model/stacked_store.h"
#include "tests/support/golden_model.h"
#include "tests/support/runs.h"
#include "tests/support/temp_dir.h"

using namespace thimble;

namespace {

constexpr std::int64_t kLevels = 5;

std::string in_blocks(const test::TempDir& directory, const std::string& golden) {
    const std::string source = directory / (golden + ".gguf"),
                      out = directory / (golden + "-b.gguf");
    test::ModelCopy::as_gguf(test::golden_directory(golden), "f32").write_gguf(source);
    StackOptions options;
    options.model = source, options.output = out;
    options.rank = 4, options.levels = kLevels;
    Team team(2);
    StackJob job(options, "test");
    const auto go_on = [](const char*, std::int64_t, std::int64_t) { return true; };
    REQUIRE(job.run(team, best_isa(), go_on));
    REQUIRE(job.output_bytes() == std::filesystem::file_size(out));
    REQUIRE_FALSE(std::filesystem::exists(out + ".blocks"));
    return out;
}

// A matrix in double: the sum of its first blocks, read one by one.
std::vector<double> sum_of(const ModelFile& file, const StackedTensor& tensor,
                           std::int64_t levels) {
    const StackForm& form = tensor.stack();
    std::vector<double> w(static_cast<std::size_t>(form.shape.rows * form.shape.cols));
    std::vector<std::byte> memory(form.bytes);
    for (std::int64_t level = 0; level < levels; ++level) {
        const ops::SignedBlock b = tensor.load(file, level, memory.data());
        for (std::int64_t r = 0; r < form.shape.rows; ++r) {
            for (std::int64_t c = 0; c < form.shape.cols; ++c) {
                double sum = 0;
                for (std::int64_t k = 0; k < form.rank; ++k)
                    sum += static_cast<double>(f16_to_f32(b.a[r * form.rank + k])) *
                           static_cast<double>(f16_to_f32(b.b[c * form.rank + k]));
                const auto byte = static_cast<unsigned>(
                    b.signs[r * cpu::sign_row_bytes(form.shape.cols) + c / 8]);
                w[static_cast<std::size_t>(r * form.shape.cols + c)] +=
                    ((byte >> (c % 8) & 1) != 0 ? -sum : sum) * static_cast<double>(b.scale);
            }
        }
    }
    return w;
}

// Every matrix of a store against the sums of the blocks that a beginning of the order has.
void check_prefix(const ModelSource& source, const Exec& exec, StackedStore& store) {
    const StackOrder order = read_stack_order(source);
    std::vector<std::int64_t> levels(order.linears.size());
    for (std::int64_t i = 0; i < store.blocks(); ++i)
        ++levels[static_cast<std::size_t>(order.order[static_cast<std::size_t>(i)])];
    const std::vector<UnitSpec> units = units_of(source);
    for (std::size_t i = 0; i < order.linears.size(); ++i) {
        const SourceTensor& tensor = *order.linears[i];
        const UnitSpec& unit = units[static_cast<std::size_t>(tensor.layer) + 1];
        const Lease lease = store.acquire({UnitKind::kLayer, tensor.layer});
        for (std::size_t m = 0; m < unit.matrices.size(); ++m) {
            if (unit.matrices[m].weight != &tensor) continue;
            const ops::Stack& stack = *lease.matrix(m).stack;
            REQUIRE(std::ssize(stack.blocks) == levels[i]);
            const std::vector<double> want = sum_of(source.file(), *stacked_of(tensor), levels[i]);
            std::vector<float> got(want.size());
            ops::stack_rows(exec, stack, {0, stack.shape.rows}, got);
            double largest = 0;
            for (const double w : want) largest = std::max(largest, std::abs(w));
            for (std::size_t j = 0; j < want.size(); ++j)
                REQUIRE(std::abs(static_cast<double>(got[j]) - want[j]) < 2e-6 * largest);
        }
    }
}

}  // namespace

TEST_CASE("blocks: the order names each block once, level after level") {
    const test::TempDir directory;
    const auto source = ModelSource::open(in_blocks(directory, "llama-tied"));
    const StackOrder order = read_stack_order(*source);
    const std::size_t linears = order.linears.size();
    CHECK(linears == 7 * static_cast<std::size_t>(source->spec().layers));
    REQUIRE(order.order.size() == linears * kLevels);
    for (std::size_t level = 0; level < kLevels; ++level) {
        const auto at = order.order.begin() + static_cast<std::ptrdiff_t>(level * linears);
        CHECK(std::set<std::int32_t>(at, at + static_cast<std::ptrdiff_t>(linears)).size() ==
              linears);
    }
    // Blocks lie one after the other, so that a beginning is read in one go.
    std::vector<std::int64_t> level(linears);
    std::uint64_t end = 0;
    for (const std::int32_t i : order.order) {
        const auto linear = static_cast<std::size_t>(i);
        const TensorEntry& entry =
            source->file().get(stack_block_name(order.linears[linear]->name, level[linear]++));
        CHECK(entry.offset >= end);
        CHECK((end == 0 || entry.offset < end + 64));
        end = entry.offset + entry.bytes;
    }
}

TEST_CASE("blocks: any size is a beginning of the order, loaded at once, grown or shrunk to") {
    const test::TempDir directory;
    for (const char* golden : {"llama-tied", "gemma3"}) {
        CAPTURE(golden);
        const auto source = ModelSource::open(in_blocks(directory, golden));
        Team team(2);
        Exec exec;
        exec.isa = best_isa(), exec.team = &team;
        const StorePlan all = plan_store(*source, exec, {}),
                        least = plan_store(*source, exec, {.most_bytes = 0});
        CHECK(all.blocks == all.all_blocks);
        CHECK(least.blocks == all.all_blocks / kLevels);
        Ledger& ledger = Ledger::process();
        const std::uint64_t before = ledger.current_bytes(Tier::kRam);
        const auto moving = make_stacked_store(*source, exec, {});
        for (std::int64_t step = 20; step >= -20; --step) {
            const std::uint64_t bytes =
                least.resident_bytes + static_cast<std::uint64_t>(std::abs(step)) *
                                           (all.resident_bytes - least.resident_bytes) / 20;
            const StorePlan plan = plan_store(*source, exec, {.most_bytes = bytes});
            CHECK(plan.resident_bytes <= bytes);
            moving->resize(bytes);
            CHECK(moving->blocks() == plan.blocks);
            CHECK(moving->held_bytes() == plan.resident_bytes);
            CHECK(ledger.current_bytes(Tier::kRam) - before == plan.resident_bytes);
            if (step % 5 != 0) continue;
            check_prefix(*source, exec, *moving);
            const std::uint64_t here = ledger.current_bytes(Tier::kRam);
            const auto fresh = make_stacked_store(*source, exec, {.most_bytes = bytes});
            CHECK(ledger.current_bytes(Tier::kRam) - here == plan.resident_bytes);
            CHECK(fresh->blocks() == moving->blocks());
            CHECK(fresh->bytes_per_token() == moving->bytes_per_token());
            check_prefix(*source, exec, *fresh);
        }
    }
}

TEST_CASE("blocks: logits agree with the decoded model, step by step and at once") {
    const test::TempDir directory;
    for (const char* golden : {"llama-tied", "gemma3"}) {
        CAPTURE(golden);
        const std::string path = in_blocks(directory, golden);
        const auto& tokens = test::golden_model(golden).prompts[1].tokens;
        Team team(2);
        RunnerOptions options;
        options.kv = {.type_k = "f32", .type_v = "f32", .context_tokens = 64};
        options.device = Device::kRef;  // decodes all rows to doubles
        Runner reference(ModelSource::open(path), options, team);
        const std::vector<double> want = test::all_logits(reference, tokens);
        options.device = Device::kCpu, options.isa = best_isa();
        double largest = 0;
        for (const double x : want) largest = std::max(largest, std::abs(x));
        for (const std::int64_t step : {64, 1, 3}) {
            options.step_tokens = step;
            Runner runner(ModelSource::open(path), options, team);
            REQUIRE(runner.stacked() != nullptr);
            const std::vector<double> got = test::all_logits(runner, tokens);
            REQUIRE(got.size() == want.size());
            for (std::size_t i = 0; i < got.size(); ++i)
                REQUIRE(std::abs(got[i] - want[i]) < 3e-5 * largest);
        }
    }
}

TEST_CASE("blocks: costs that are no number come last, equal ones stay") {
    CHECK(sorted_by_cost(std::vector<double>{3, NAN, 1, 3, NAN, 2}) ==
          std::vector<std::int32_t>{2, 5, 0, 3, 1, 4});
    CHECK(order_by_layers(3, 2) == std::vector<std::int32_t>{0, 1, 2, 0, 1, 2});
}

TEST_CASE("blocks: the measured order is that of the perplexity of each step") {
    const test::TempDir directory;
    const std::string path = in_blocks(directory, "llama-tied");
    const auto& tokens = test::golden_model("llama-tied").prompts[1].tokens;
    Team team(2);
    RunnerOptions options;
    options.isa = best_isa(), options.kv.context_tokens = 64;
    Runner runner(ModelSource::open(path), options, team);
    const std::span<const std::int32_t> text = tokens;
    const auto order = order_by_perplexity(runner, {&text, 1}, [](auto, auto) { return true; });
    REQUIRE(order);
    const std::size_t linears = runner.stacked()->order().linears.size();
    REQUIRE(order->size() == linears * kLevels);
    CHECK_FALSE(order_by_perplexity(runner, {&text, 1}, [](auto done, auto) { return done < 3; }));
    // Anew, with doubles and the steps of level 2.
    const std::size_t level = 2;
    std::vector<double> loss;
    for (std::size_t i = 0; i < linears; ++i) {
        for (std::size_t j = 0; j < linears; ++j)
            runner.stacked()->limit(j, static_cast<std::int64_t>(level) + (i == j ? 1 : 0));
        const std::vector<double> logits =
            test::all_logits(runner, std::span(tokens).first(tokens.size() - 1));
        const std::size_t vocab = logits.size() / (tokens.size() - 1);
        double sum = 0;
        for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
            double all = 0;
            for (std::size_t v = 0; v < vocab; ++v) all += std::exp(logits[t * vocab + v]);
            sum += std::log(all) - logits[t * vocab + static_cast<std::size_t>(tokens[t + 1])];
        }
        loss.push_back(sum);
    }
    for (std::size_t i = 0; i + 1 < linears; ++i) {
        const auto here = static_cast<std::size_t>((*order)[level * linears + i]);
        const auto next = static_cast<std::size_t>((*order)[level * linears + i + 1]);
        CHECK(loss[here] <= loss[next] + 1e-6);
    }
    CHECK(*std::ranges::max_element(loss) > *std::ranges::min_element(loss) + 1e-4);
}

TEST_CASE("blocks: files that are not whole or not in order are refused") {
    const test::TempDir directory;
    const std::string path = in_blocks(directory, "llama-tied");
    const auto changed = [&](auto&& change) {
        const auto file = ModelFile::open(path);
        Metadata metadata = file->metadata();
        std::vector<TensorSpec> specs;
        std::vector<std::vector<std::byte>> data;
        for (const TensorEntry& t : file->tensors()) {
            specs.push_back({t.name, t.type, t.dims});
            file->read(t, 0, data.emplace_back(t.bytes));
        }
        change(metadata, specs, data);
        const std::string out = directory / "changed.gguf";
        GgufWriter writer(out, metadata, specs, IfExists::kReplace);
        for (std::size_t i = 0; i < specs.size(); ++i) writer.write(i, 0, data[i]);
        writer.finish();
        const auto source = ModelSource::open(out);
        Team team(1);
        Exec exec;
        exec.isa = best_isa(), exec.team = &team;
        (void)make_store(*source, exec, {});
    };
    using Specs = std::vector<TensorSpec>;
    using Data = std::vector<std::vector<std::byte>>;
    const auto with_order = [&](auto&& edit) {
        changed([&](Metadata& metadata, Specs&, Data&) {
            auto order =
                std::get<std::vector<std::int32_t>>(metadata.find_array(kStackOrderKey)->elements);
            edit(order);
            metadata.set(std::string(kStackOrderKey),
                         std::make_shared<const MetaArray>(MetaArray{order}));
        });
    };
    changed([](Metadata&, Specs&, Data&) {});  // as it is: no error
    using Order = std::vector<std::int32_t>;
    CHECK_THROWS_AS(with_order([](Order& o) { o.pop_back(); }), Error);
    CHECK_THROWS_AS(with_order([](Order& o) { o.back() = -1; }), Error);
    CHECK_THROWS_AS(with_order([](Order& o) { o.back() = 1000; }), Error);
    CHECK_THROWS_AS(with_order([](Order& o) { o.push_back(0); }), Error);
    CHECK_THROWS_AS(with_order([](Order& o) { o[1] = o[0]; }), Error);
    CHECK_THROWS_AS(with_order([](Order& o) { std::swap(o[1], o[o.size() - 3]); }), Error);
    CHECK_THROWS_AS(changed([](Metadata& m, Specs&, Data&) { m.erase(kStackOrderKey); }), Error);
    CHECK_THROWS_AS(changed([](Metadata& m, Specs&, Data&) { m.erase(kStackLinearsKey); }), Error);
    CHECK_THROWS_AS(changed([](Metadata&, Specs& s, Data& d) { s.pop_back(), d.pop_back(); }),
                    Error);
    CHECK_THROWS_AS(
        changed([](Metadata&, Specs& s, Data& d) { --s.back().dims[0], d.back().pop_back(); }),
        Error);
    CHECK_THROWS_AS(changed([](Metadata&, Specs&, Data& d) {  // the factor is no number
                        std::fill(d.back().end() - 4, d.back().end(), std::byte{0xff});
                    }),
                    Error);
    CHECK_THROWS_AS(changed([](Metadata&, Specs&, Data& d) {
                        std::fill(d.back().end() - 8, d.back().end() - 4, std::byte{0xff});
                    }),
                    Error);
}
