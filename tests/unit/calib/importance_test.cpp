// SPDX-License-Identifier: Apache-2.0
// Importance matrices on disk, added up, selected and described.
#include "calib/importance.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "calib/importance_statistics.h"
#include "core/error.h"
#include "tests/support/process.h"
#include "tests/unit/io/raw_files.h"

using namespace thimble;
using namespace thimble::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A .dat file field by field.
class RawDat {
  public:
    RawDat& i32(std::int64_t v) {
        const auto narrow = static_cast<std::int32_t>(v);
        bytes_.append(reinterpret_cast<const char*>(&narrow), sizeof(narrow));
        return *this;
    }
    RawDat& text(std::string_view v) {
        i32(static_cast<std::int64_t>(v.size()));
        bytes_ += v;
        return *this;
    }
    RawDat& floats(std::initializer_list<float> values) {
        for (const float v : values) bytes_.append(reinterpret_cast<const char*>(&v), sizeof(v));
        return *this;
    }
    [[nodiscard]] const std::string& bytes() const { return bytes_; }

  private:
    std::string bytes_;
};

RawDat raw_dat() {
    RawDat raw;
    raw.i32(2);
    raw.text("blk.0.attn_q.weight").i32(4).i32(3).floats({4, 8, 12});
    raw.text("blk.0.ffn_down.weight").i32(2).i32(2).floats({1, 0});
    raw.i32(4).text("/some/where/text.txt");
    return raw;
}

// Sums of one matrix of 3 columns and of a stack of 2 experts, the second never used.
RawGguf raw_gguf(float first_sum = 10, float count = 5) {
    RawGguf raw;
    raw.header(4, 4);
    raw.key("general.type", GgufType::kString).text("imatrix");
    raw.key("imatrix.datasets", GgufType::kArray).put(GgufType::kString).u64(2);
    raw.text("/a/b/one.txt").text("two.txt");
    raw.key("imatrix.chunk_count", GgufType::kU32).u32(7);
    raw.key("imatrix.chunk_size", GgufType::kU32).u32(128);
    raw.tensor("w.in_sum2", {3, 1}, 0, 0).tensor("w.counts", {1, 1}, 0, 32);
    raw.tensor("e.in_sum2", {2, 2}, 0, 64).tensor("e.counts", {1, 2}, 0, 96);
    raw.data(0);
    const auto block = [&](std::initializer_list<float> values) {
        std::size_t left = 8;
        for (const float v : values) raw.put(v), --left;
        while (left-- > 0) raw.put(0.0F);
    };
    block({first_sum, 20, 30});
    block({count});
    block({1, 2, 0, 0});
    block({9, 0});
    return raw;
}

ImportanceMatrix parsed(const std::string& bytes, std::int64_t chunk_tokens = kDefaultChunkTokens) {
    return parse_importance(std::as_bytes(std::span(bytes)), "test", chunk_tokens);
}

Exit fault_of(const std::string& bytes) {
    try {
        (void)parsed(bytes);
    } catch (const Error& e) {
        return e.exit();
    }
    return Exit::kDone;
}

std::string written(const ImportanceMatrix& matrix, ImportanceFormat format) {
    const TemporaryDirectory directory;
    write_importance(directory.file("out"), matrix, format, IfExists::kRefuse);
    return read_file(directory.file("out"));
}

}  // namespace

TEST_CASE("importance: a GGUF file's sums, counts, chunks and names of texts without directories") {
    const ImportanceMatrix m = parsed(raw_gguf().bytes());
    REQUIRE(m.entries.size() == 2);
    CHECK(m.entries.at("w").sums == std::vector<float>{10, 20, 30});
    CHECK(m.entries.at("w").counts == std::vector<std::int64_t>{5});
    CHECK(m.entries.at("e").counts == std::vector<std::int64_t>{9, 0});
    CHECK(m.entries.at("e").cols() == 2);
    CHECK(m.datasets == std::vector<std::string>{"one.txt", "two.txt"});
    CHECK(m.chunk_count == 7);
    CHECK(m.chunk_tokens == 128);
}

TEST_CASE("importance: a .dat file's means times calls become sums and tokens") {
    const ImportanceMatrix m = parsed(raw_dat().bytes(), 256);
    REQUIRE(m.entries.size() == 2);
    // 4, 8, 12 are mean * 4 calls, and a call is 256 tokens
    CHECK(m.entries.at("blk.0.attn_q.weight").sums == std::vector<float>{1024, 2048, 3072});
    CHECK(m.entries.at("blk.0.attn_q.weight").counts == std::vector<std::int64_t>{1024});
    CHECK(m.datasets == std::vector<std::string>{"text.txt"});
    CHECK(m.chunk_count == 4);
    CHECK(m.chunk_tokens == 256);
}

TEST_CASE("importance: both forms are written as they were read") {
    std::string gguf = raw_gguf().bytes();
    const std::string again = written(parsed(gguf), ImportanceFormat::kGguf);
    const ImportanceMatrix m = parsed(again);
    CHECK(m.entries.at("w").sums == parsed(gguf).entries.at("w").sums);
    CHECK(m.entries.at("e").counts == parsed(gguf).entries.at("e").counts);
    CHECK(written(m, ImportanceFormat::kGguf) == again);

    std::string dat = raw_dat().bytes();
    dat.replace(dat.find("/some/where/"), 12, "");
    dat[dat.find("text.txt") - 4] = 8;
    CHECK(written(parsed(dat), ImportanceFormat::kDat) == dat);
}

TEST_CASE(
    "importance: in the .dat form experts without tokens count as 1, entries without are left "
    "out") {
    ImportanceMatrix m = parsed(raw_gguf(10, 0).bytes());
    const ImportanceMatrix back = parsed(written(m, ImportanceFormat::kDat), 128);
    REQUIRE(back.entries.size() == 1);
    const ImportanceEntry& e = back.entries.at("e");
    REQUIRE(e.sums.size() == 4);
    const auto mean = [&](std::size_t i) { return e.sums[i] / static_cast<float>(e.counts[0]); };
    CHECK(mean(0) == doctest::Approx(1.0 / 9));
    CHECK(mean(1) == doctest::Approx(2.0 / 9));
    CHECK(mean(2) == 1);
    CHECK(mean(3) == 1);
}

TEST_CASE("importance: two halves added up are the whole") {
    ImportanceMatrix half = parsed(raw_gguf().bytes());
    half.merge(parsed(raw_gguf(1, 251).bytes()), "other");
    CHECK(half.entries.at("w").sums == std::vector<float>{11, 40, 60});
    CHECK(half.entries.at("w").counts == std::vector<std::int64_t>{256});
    CHECK(half.chunk_count == 2);
    CHECK(half.datasets.size() == 4);
    half.merge(parsed(raw_dat().bytes(), 128), "third");
    CHECK(half.entries.size() == 4);
    CHECK(half.chunk_count == 4);

    ImportanceMatrix other = parsed(raw_gguf().bytes());
    other.entries.at("w").sums.push_back(1);
    CHECK_THROWS_AS(half.merge(other, "other"), Error);
}

TEST_CASE("importance: names choose entries, and a text that chooses none is refused") {
    const std::vector<std::string> none, q = {"attn_q"}, typo = {"attn_p"};
    ImportanceMatrix m = parsed(raw_dat().bytes());
    m.select(q, none);
    CHECK(m.entries.size() == 1);
    CHECK(m.entries.count("blk.0.attn_q.weight") == 1);
    m = parsed(raw_dat().bytes());
    m.select(none, q);
    CHECK(m.entries.count("blk.0.ffn_down.weight") == 1);
    CHECK(m.entries.size() == 1);
    CHECK_THROWS_AS(m.select(typo, none), Error);
    CHECK_THROWS_AS(m.select(none, typo), Error);
}

TEST_CASE(
    "importance: bad counts are refused, bad sums are kept for their user but never written") {
    CHECK(fault_of(raw_gguf(10, -1).bytes()) == Exit::kBadData);
    CHECK(fault_of(raw_gguf(10, kNan).bytes()) == Exit::kBadData);
    CHECK(fault_of(raw_gguf(10, 1e30F).bytes()) == Exit::kBadData);
    for (const float bad : {kNan, -1.0F, std::numeric_limits<float>::infinity()}) {
        const ImportanceMatrix m = parsed(raw_gguf(bad).bytes());
        CHECK(unusable_sums(m.entries.at("w")) == 1);
        CHECK(unusable_sums(m.entries.at("e")) == 0);
        CHECK_THROWS_AS((void)written(m, ImportanceFormat::kGguf), Error);
    }
}

TEST_CASE("importance: a file cut anywhere but before the .dat form's tail is refused") {
    const std::string gguf = raw_gguf().bytes();
    for (std::size_t n = 0; n < gguf.size() - 32 + 5; ++n) {
        CAPTURE(n);
        CHECK(fault_of(gguf.substr(0, n)) == Exit::kBadData);
    }
    const std::string dat = raw_dat().bytes();
    const std::size_t tail = dat.size() - 20 - 8;
    for (std::size_t n = 0; n < dat.size(); ++n) {
        CAPTURE(n);
        const bool whole = n == tail || n == tail + 4;
        CHECK(fault_of(dat.substr(0, n)) == (whole ? Exit::kDone : Exit::kBadData));
    }
    CHECK(fault_of(dat + "x") == Exit::kBadData);
}

TEST_CASE("importance: statistics of one layer and its likeness to the layer before") {
    ImportanceMatrix m;
    m.chunk_tokens = 1;
    m.entries["blk.0.x.weight"] = {{1, 2, 3, 4}, {1}};
    m.entries["blk.1.x.weight"] = {{4, 6, 0, 10}, {2}};
    m.entries["blk.2.x.weight"] = {{1, 1}, {0}};
    m.entries["output.weight"] = {{8, 8}, {4}};
    const auto all = importance_statistics(m);
    REQUIRE(all.size() == 3);
    const ImportanceStatistics& s = all[1];
    CHECK(s.tensor == "blk.1.x.weight");
    CHECK(s.layer == 1);
    CHECK(s.total == 10);
    CHECK(s.mean == 2.5);
    CHECK(s.least == 0);
    CHECK(s.most == 5);
    CHECK(s.deviation == doctest::Approx(std::sqrt((0.25 + 0.25 + 6.25 + 6.25) / 4)));
    CHECK(s.active == 0.75);
    CHECK(s.above == 0.25);
    CHECK(s.entropy == doctest::Approx(0.2 * std::log2(5) + 0.3 * std::log2(1 / 0.3) + 0.5));
    REQUIRE(s.cosine.has_value());
    CHECK(*s.cosine == doctest::Approx((4 + 12 + 40) / std::sqrt(30.0 * 152)));
    CHECK(!all[0].cosine.has_value());
    CHECK(all[2].entropy == 1);
    CHECK(!all[2].layer.has_value());
}
