// SPDX-License-Identifier: Apache-2.0
// quantize on matrices that other packages have quantised: their codes are kept, decoded or
// refused, and the other commands read what was written.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "format/weight_format.h"
#include "model/source.h"
#include "quant/row_stream.h"
#include "tests/support/golden_model.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace {

ProcessResult quantize(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), tool_path("quantize"));
    return run_process(arguments, {});
}

std::vector<float> weights(const ModelSource& source, const SourceTensor& tensor) {
    std::vector<float> out(static_cast<std::size_t>(tensor.rows() * tensor.cols()));
    std::vector<std::byte> scratch;
    source.read_rows(tensor, 0, tensor.rows(), out.data(), scratch);
    return out;
}

}  // namespace

TEST_CASE("quantize copy keeps imported codes bit for bit, f16 decodes them, the rest is refused") {
    for (const char* name : {"gptq-4bit-act-order", "awq", "bnb-nf4-nested", "mxfp4"}) {
        CAPTURE(name);
        TemporaryDirectory directory;
        const std::string in = directory.file("in.gguf"), out = directory.file("out.gguf");
        ModelCopy::as_packed_gguf(std::string(THIMBLE_TESTS_DIR) + "/golden/import/" + name)
            .write_gguf(in);
        const auto before = ModelSource::open(in);

        const ProcessResult copied = quantize({"-m", in, "-o", out, "--format", "copy"});
        CAPTURE(copied.err);
        REQUIRE(copied.exit == 0);
        const auto after = ModelSource::open(out);
        for (const TensorEntry& entry : before->file().tensors()) {
            CAPTURE(entry.name);
            const TensorEntry* other = after->file().find(entry.name);
            REQUIRE(other != nullptr);
            if (entry.dims.size() < 2 || other->type != entry.type) continue;  // vectors: f32
            std::vector<std::byte> a(entry.bytes), b(other->bytes);
            before->file().read(entry, 0, a);
            after->file().read(*other, 0, b);
            CHECK(a == b);
        }
        CHECK(quantize({"verify", out}).exit == 0);
        CHECK(quantize({"inspect", out}).exit == 0);

        const ProcessResult plain =
            quantize({"-m", out, "-o", directory.file("f16.gguf"), "--format", "f16"});
        CAPTURE(plain.err);
        REQUIRE(plain.exit == 0);
        const auto decoded = ModelSource::open(directory.file("f16.gguf"));
        for (const SourceTensor& tensor : before->tensors()) {
            CAPTURE(tensor.name);
            const auto want = weights(*before, tensor);
            const auto got = weights(*decoded, *decoded->find(tensor.name));
            CHECK_FALSE(has_planes(decoded->find(tensor.name)->layout()));
            for (std::size_t i = 0; i < want.size(); ++i) {
                const float allowed = 0x1p-11f * std::abs(want[i]) + 0x1p-25f;
                if (!(std::abs(want[i] - got[i]) <= allowed)) FAIL("weight ", i);
            }
        }
        CHECK_FALSE(decoded->file().metadata().find("thimble.format.blk.0.attn_q.weight"));

        const ProcessResult again =
            quantize({"-m", in, "-o", directory.file("no.gguf"), "--format", "q4_0"});
        CHECK(again.exit == 2);
        CHECK(again.err.find("--format copy") != std::string::npos);
        CHECK_FALSE(std::filesystem::exists(directory.file("no.gguf")));
    }
}

namespace {

// Each plane as it was written, and how many bytes came.
using Written = std::map<std::size_t, std::pair<std::vector<std::byte>, std::size_t>>;

class Planes final : public TensorWriter {
  public:
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override { return 0; }
    void write(std::size_t plane, std::uint64_t offset, std::span<const std::byte> bytes) override {
        auto& [data, count] = planes[plane];
        data.resize(std::max<std::size_t>(data.size(), offset + bytes.size()));
        std::copy(bytes.begin(), bytes.end(), data.begin() + static_cast<std::ptrdiff_t>(offset));
        count += bytes.size();
    }
    void finish() override {}
    Written planes;
};

Written copied(const ModelSource& source, const TensorChoice& choice, std::int64_t rows) {
    Planes out;
    Team team(2);
    RowStream stream({&source, &out, &team, slice_bytes(row_bytes(choice, false), rows)});
    RowStream::Sums sums;
    CHECK(stream.convert(choice, 0, 0, sums, [](std::int64_t) { return true; }));
    return out.planes;
}

}  // namespace

TEST_CASE("quantize copy: row by row, codes and tables are written as all at once, and once") {
    for (const char* name : {"gptq-4bit-act-order", "awq", "bnb-nf4-nested"}) {
        CAPTURE(name);
        const auto source =
            ModelSource::open(std::string(THIMBLE_TESTS_DIR) + "/golden/import/" + name);
        QuantizeOptions options;
        options.format = QuantizeOptions::kCopy;
        int packed = 0;
        for (const TensorChoice& choice : choose_formats(
                 *source, options, AdapterMerge({}, *source), Folding(options, *source))) {
            if (!choice.tensor->packed) continue;
            ++packed;
            const Written whole = copied(*source, choice, choice.tensor->rows());
            for (const auto& [plane, written] : whole)
                CHECK(written.second == written.first.size());
            CHECK(copied(*source, choice, 1) == whole);
            CHECK(copied(*source, choice, 5) == whole);
        }
        CHECK(packed == 7);
    }
}

TEST_CASE("quantize: a checkpoint without tokenizer.json is refused with the way to one") {
    const std::string golden = std::string(THIMBLE_TESTS_DIR) + "/golden/import/awq";
    for (const char* other : {"", "tokenizer.model", "vocab.json"}) {
        CAPTURE(other);
        TemporaryDirectory directory;
        const std::string in = directory.file("awq"), out = directory.file("out.gguf");
        std::filesystem::copy(golden, in);
        if (*other != 0) write_file(in + "/" + other, "{}");
        const ProcessResult r = quantize({"-m", in, "-o", out});
        CHECK(r.exit == 66);
        CHECK(r.err.find("no tokenizer.json") != std::string::npos);
        CHECK((r.err.find("save_pretrained") != std::string::npos) == (*other != 0));
        CHECK(r.err.find(*other != 0 ? other : "copy it from") != std::string::npos);
        CHECK_FALSE(std::filesystem::exists(out));
    }
}
