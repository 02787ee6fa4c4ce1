// SPDX-License-Identifier: Apache-2.0
// compress embeddings as a user runs it: stores, what they cost, which is best, and back.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "compress/embedding_store.h"
#include "compress/vector_coder.h"
#include "io/npy.h"
#include "io/vector_file.h"
#include "kernels/layout/rng.h"
#include "tests/support/process.h"

using namespace thimble;
using namespace thimble::test;

namespace fs = std::filesystem;

namespace {

ProcessResult embeddings(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {tool_path("compress"), "embeddings"});
    arguments.emplace_back("-q");
    return run_process(arguments);
}
Json must(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--json", "-"});
    const ProcessResult r = embeddings(std::move(arguments));
    CAPTURE(r.err);
    REQUIRE(r.exit == 0);
    return parse_json(r.out, "stdout");
}
double number(const Json& json, const std::vector<const char*>& keys) {
    const Json* at = &json;
    for (const char* key : keys) {
        at = at->find(key);
        REQUIRE(at != nullptr);
    }
    return at->as_double("number");
}

using Rows = std::vector<std::vector<float>>;

float normal(std::uint64_t seed, std::uint64_t i) {
    float sum = -2;
    for (const std::uint32_t v : philox(seed, i).v) sum += unit_float(v);
    return 1.7320508f * sum;
}
// Of length one, with variances that fall slowly.
Rows random_rows(std::int64_t rows, std::int64_t dims, std::uint64_t seed) {
    Rows out;
    for (std::int64_t r = 0; r < rows; ++r) {
        std::vector<float> row;
        double squares = 0;
        for (std::int64_t k = 0; k < dims; ++k) {
            row.push_back(normal(seed, static_cast<std::uint64_t>(r * dims + k)) /
                          (1 + static_cast<float>(k) / static_cast<float>(dims)));
            squares += std::pow(row.back(), 2);
        }
        for (float& x : row) x = static_cast<float>(x / std::sqrt(squares));
        out.push_back(std::move(row));
    }
    return out;
}
std::string npy(const Rows& rows) {
    std::string out = npy_header(rows.size(), rows[0].size());
    for (const auto& row : rows)
        out.append(reinterpret_cast<const char*>(row.data()), 4 * row.size());
    return out;
}
Rows read_rows(const std::string& path) {
    const VectorFile file(path, "");
    Rows out(static_cast<std::size_t>(file.rows()),
             std::vector<float>(static_cast<std::size_t>(file.dims())));
    for (std::size_t r = 0; r < out.size(); ++r)
        file.read(static_cast<std::int64_t>(r), 1, out[r].data());
    return out;
}
double cosine(const std::vector<float>& a, const std::vector<float>& b) {
    double ab = 0, aa = 0, bb = 0;
    for (std::size_t k = 0; k < a.size(); ++k)
        ab += static_cast<double>(a[k]) * b[k], aa += std::pow(a[k], 2), bb += std::pow(b[k], 2);
    return ab / std::sqrt(aa * bb);
}

struct Setting {
    TemporaryDirectory directory;
    std::string in = directory.file("in.npy"), store = directory.file("store.safetensors"),
                out = directory.file("out.npy");
};

}  // namespace

TEST_CASE("embeddings: every format's numbers come back as its coder says, equal bytes each time") {
    const Setting s;
    const Rows rows = random_rows(90, 37, 1);
    write_file(s.in, npy(rows));
    for (const EmbeddingFormat& format : embedding_formats()) {
        CAPTURE(format.name);
        const std::string name(format.name);
        const Json report = must({s.in, "-o", s.store, "--format", name, "--similarity", "dot"});
        must({"--decompress", s.store, "-o", s.out});
        VectorStatistics statistics;
        for (const auto& row : rows) statistics.add(row);
        const VectorCoder coder(format.code, 0, statistics);
        const Rows again = read_rows(s.out);
        REQUIRE(again.size() == rows.size());
        double errors = 0, squares = 0;
        for (std::size_t r = 0; r < rows.size(); ++r) {
            std::vector<std::uint8_t> codes(static_cast<std::size_t>(coder.bytes()));
            std::vector<float> expected(37);
            coder.encode(rows[r].data(), codes.data());
            coder.decode(codes.data(), expected.data());
            CHECK(again[r] == expected);
            for (std::size_t k = 0; k < 37; ++k)
                errors += std::pow(expected[k] - rows[r][k], 2), squares += std::pow(rows[r][k], 2);
        }
        CHECK(number(report, {"relative_error"}) ==
              doctest::Approx(std::sqrt(errors / squares)).epsilon(1e-4));
        CHECK(number(report, {"output_bytes"}) == static_cast<double>(fs::file_size(s.store)));
        CHECK(number(report, {"plan", "output_bytes"}) ==
              static_cast<double>(fs::file_size(s.store)));
        CHECK(number(report, {"code_bytes"}) == static_cast<double>(90 * coder.bytes()));
        const std::string first = read_file(s.store);
        must({s.in, "-o", s.store, "--format", name, "--similarity", "dot", "--overwrite", "-t",
              "1"});
        CHECK(read_file(s.store) == first);
        fs::remove(s.store), fs::remove(s.out);
    }
}

TEST_CASE(
    "embeddings: all principal directions bring the vectors back, half of them most of each") {
    const Setting s;
    const Rows rows = random_rows(400, 48, 2);
    write_file(s.in, npy(rows));
    must({s.in, "-o", s.store, "--format", "f32", "--pca", "48", "--similarity", "dot"});
    must({"--decompress", s.store, "-o", s.out});
    Rows again = read_rows(s.out);
    for (std::size_t r = 0; r < rows.size(); ++r)
        for (std::size_t k = 0; k < 48; ++k) CHECK(std::abs(again[r][k] - rows[r][k]) < 1e-5);
    for (const char* similarity : {"dot", "cosine"}) {
        const Json report = must({s.in, "-o", s.store, "--format", "e4m3", "--pca", "0.5",
                                  "--similarity", similarity, "--overwrite"});
        CHECK(number(report, {"dims"}) == 24);
        const double explained = number(report, {"explained_variance"});
        CHECK(explained > 0.6);
        CHECK(explained < 0.9);
        must({"--decompress", s.store, "-o", s.out, "--overwrite"});
        again = read_rows(s.out);
        double mean = 0;
        for (std::size_t r = 0; r < rows.size(); ++r) mean += cosine(again[r], rows[r]) / 400;
        CAPTURE(similarity);
        // Of vectors around zero the cosine's square is the explained part, about.
        CHECK(mean == doctest::Approx(std::sqrt(explained)).epsilon(0.02));
    }
}

TEST_CASE("embeddings: quality against a brute force, with queries and judgements") {
    const Setting s;
    const Rows rows = random_rows(600, 40, 3), queries = random_rows(30, 40, 4);
    write_file(s.in, npy(rows));
    const std::string q = s.directory.write("q.npy", npy(queries));
    // Judged relevant: the best three by brute force.
    std::string qrels;
    for (std::size_t i = 0; i < queries.size(); ++i) {
        std::vector<std::size_t> order(rows.size());
        for (std::size_t r = 0; r < order.size(); ++r) order[r] = r;
        std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
            return cosine(rows[a], queries[i]) > cosine(rows[b], queries[i]);
        });
        for (std::size_t k = 0; k < 3; ++k)
            qrels += std::to_string(i) + "\t" + std::to_string(order[k]) + "\t" +
                     std::to_string(3 - k) + "\n";
    }
    const std::string judged = s.directory.write("qrels.tsv", qrels);
    const Json report = must({s.in, "-o", s.store, "--queries", q, "--qrels", judged});
    CHECK(number(report, {"as_is", "ndcg_at_10"}) == doctest::Approx(1).epsilon(1e-9));
    CHECK(number(report, {"as_is", "recall_at_10"}) == 1);
    CHECK(number(report, {"quality", "ndcg_at_10"}) > 0.95);
    CHECK(number(report, {"quality", "ndcg_at_10"}) < 1);
    CHECK(number(report, {"quality", "queries"}) == 30);
    // Without judgements the ten nearest are the truth.
    const Json own = must({s.in, "-o", s.store, "--queries", q, "--overwrite"});
    CHECK(number(own, {"as_is", "recall_at_10"}) == 1);
    CHECK(number(own, {"quality", "recall_at_10"}) > 0.9);
    // Directions of a product with a query that is not centred keep its ranks at full rank.
    Rows apart = rows;
    for (auto& row : apart) row[0] += 3, row[7] -= 2;
    write_file(s.in, npy(apart));
    const Json dot = must({s.in, "-o", s.store, "--queries", q, "--pca", "1.0", "--format", "f32",
                           "--similarity", "dot", "--overwrite"});
    CHECK(number(dot, {"quality", "recall_at_10"}) > 0.99);
}

// Each query has ten neighbours at a cosine of about 0.6; those of the others are random.
TEST_CASE("embeddings: fp8 finds 98 of 100 neighbours among random vectors") {
    const Setting s;
    Rows rows = random_rows(3000, 384, 5);
    const Rows queries = random_rows(100, 384, 6);
    std::string qrels;
    for (std::size_t q = 0; q < queries.size(); ++q) {
        for (std::size_t i = 0; i < 10; ++i) {
            std::vector<float>& row = rows[(q * 10 + i) * 2];
            for (std::size_t k = 0; k < row.size(); ++k)
                row[k] = 0.8f * row[k] + 0.6f * queries[q][k];
            qrels += std::to_string(q) + " " + std::to_string((q * 10 + i) * 2) + "\n";
        }
    }
    write_file(s.in, npy(rows));
    const std::string q = s.directory.write("q.npy", npy(queries)),
                      judged = s.directory.write("qrels", qrels);
    for (const char* format : {"e4m3", "e5m2"}) {
        const Json report = must({s.in, "-o", s.store, "--overwrite", "--format", format,
                                  "--queries", q, "--qrels", judged});
        CHECK(number(report, {"as_is", "recall_at_10"}) >= 0.98);
        CHECK(number(report, {"quality", "recall_at_10"}) >= 0.98);
    }
}

// Without such neighbours scores lie close: the error of e4m3, 2.6 % of the vectors' length, is
// about how far the tenth is from the eleventh.
TEST_CASE("embeddings: of vectors all alike the order of formats is that of their errors") {
    const Setting s;
    write_file(s.in, npy(random_rows(4000, 384, 5)));
    const auto recalls = [&](std::vector<std::string> more) {
        more.insert(more.begin(), {s.in, "--frontier", "--held-out", "200", "--pca", "0.5"});
        const Json report = must(more);
        CHECK(number(report, {"queries"}) == 200);
        std::vector<double> out(embedding_formats().size());
        for (const Json& point : report.find("frontier")->as_array("frontier")) {
            if (point.find("pca")->as_bool("pca")) continue;
            const auto* format = find_embedding_format(point.find("format")->as_string("f"));
            out[static_cast<std::size_t>(format->code)] = number(point, {"recall_at_10"});
        }
        return out;
    };
    const std::vector<double> plain = recalls({}), scaled = recalls({"--prescale", "5"}),
                              hamming = recalls({"--binary-scores", "hamming"});
    const auto of = [](const std::vector<double>& all, VectorCode code) {
        return all[static_cast<std::size_t>(code)];
    };
    CHECK(of(plain, VectorCode::kF32) == 1);
    CHECK(of(plain, VectorCode::kF16) >= 0.99);
    CHECK(of(plain, VectorCode::kU8) < of(plain, VectorCode::kF16));
    CHECK(of(plain, VectorCode::kE4m3) < of(plain, VectorCode::kU8));
    CHECK(of(plain, VectorCode::kE4m3) > 0.92);
    CHECK(of(plain, VectorCode::kE5m2) < of(plain, VectorCode::kE4m3));
    CHECK(of(plain, VectorCode::kSign) < of(plain, VectorCode::kE5m2));
    CHECK(of(hamming, VectorCode::kSign) < of(plain, VectorCode::kSign));
    CHECK(of(plain, VectorCode::kE2m1) < 0.1);  // most numbers became 0
    CHECK(of(scaled, VectorCode::kE2m1) > of(plain, VectorCode::kSign));
    CHECK(of(scaled, VectorCode::kE4m3) > 0.92);
}

// All codes are 0, so the first ten rows are found whatever they are; near row 0, the query, are
// others.
TEST_CASE("embeddings: a vector held out is not searched for itself") {
    const Setting s;
    Rows rows(40, {0, 0.1f, 0.1f});
    for (std::size_t r = 20; r < 30; ++r) rows[r] = {0.1f, 0, 0};
    rows[0] = {0.2f, 0, 0};
    write_file(s.in, npy(rows));
    const Json report = must({s.in, "--frontier", "--held-out", "1", "--format", "e2m1,f32",
                              "--pca", "3", "--similarity", "dot"});
    const Json& zeros = report.find("frontier")->as_array("frontier").front();
    CHECK(number(zeros, {"recall_at_10"}) == 0);
    CHECK(number(report, {"as_is", "recall_at_10"}) == 1);
}

TEST_CASE("embeddings: the frontier's best that fits is what is written") {
    const Setting s;
    write_file(s.in, npy(random_rows(1500, 64, 6)));
    const Json report =
        must({s.in, "--frontier", "--held-out", "50", "--budget", "60KiB", "-o", s.store});
    double best = -1;
    std::string wanted;
    bool found_best_of_its_size = false;
    for (const Json& point : report.find("frontier")->as_array("frontier")) {
        if (number(point, {"file_bytes"}) > 60 * 1024) continue;
        if (number(point, {"ndcg_at_10"}) <= best) continue;
        best = number(point, {"ndcg_at_10"});
        wanted = point.find("format")->as_string("format");
        found_best_of_its_size = point.find("best_of_its_size")->as_bool("best");
    }
    CHECK(found_best_of_its_size);
    CHECK(report.find("format")->as_string("format") == wanted);
    CHECK(fs::file_size(s.store) <= 60 * 1024);
    CHECK(fs::file_size(s.store) == number(report, {"output_bytes"}));
    const EmbeddingStore store(s.store);
    CHECK(store.facts().rows == 1500);
    const ProcessResult small =
        embeddings({s.in, "--frontier", "--budget", "1KiB", "-o", s.out + ".safetensors"});
    CHECK(small.exit == 2);
    CHECK(small.err.find("the least is") != std::string::npos);
}

TEST_CASE("embeddings: another set can train, halves and safetensors are read") {
    const Setting s;
    const Rows rows = random_rows(200, 32, 7);
    const std::string train = s.directory.write("train.npy", npy(random_rows(300, 32, 8)));
    Json header = Json::object();
    std::string data;
    for (const auto& row : rows)
        for (const float x : row) {
            const std::uint16_t half = f32_to_bf16(x);
            data.append(reinterpret_cast<const char*>(&half), 2);
        }
    for (const char* tensor : {"other", "vectors"}) {
        Json one = Json::object();
        const bool first = std::string(tensor) == "other";
        const auto n = static_cast<std::int64_t>(data.size());
        one.set("dtype", "BF16");
        one.set("shape", JsonArray{std::int64_t{200}, std::int64_t{32}});
        one.set("data_offsets", JsonArray{first ? std::int64_t{0} : n, first ? n : 2 * n});
        header.set(tensor, std::move(one));
    }
    const std::string text = header.dump();
    const std::uint64_t size = text.size();
    const std::string in = s.directory.write(
        "in.safetensors",
        std::string(reinterpret_cast<const char*>(&size), sizeof size) + text + data + data);
    const ProcessResult two = embeddings({in, "-o", s.store});
    CHECK(two.exit == 2);
    CHECK(two.err.find("--tensor") != std::string::npos);
    CHECK(
        embeddings({in, "-o", s.store, "--tensor", "vector"}).err.find("did you mean 'vectors'") !=
        std::string::npos);
    // The ranges are the other set's, and hold the vectors.
    must({in, "-o", s.store, "--tensor", "vectors", "--format", "int8", "--train", train,
          "--similarity", "dot"});
    must({"--decompress", s.store, "-o", s.out});
    VectorStatistics statistics;
    for (const auto& row : random_rows(300, 32, 8)) statistics.add(row);
    const VectorCoder coder(VectorCode::kU8, 0, statistics);
    const Rows again = read_rows(s.out);
    for (std::size_t r = 0; r < rows.size(); ++r) {
        std::vector<float> x = rows[r], expected(32);
        for (float& v : x) v = bf16_to_f32(f32_to_bf16(v));
        std::uint8_t codes[32];
        coder.encode(x.data(), codes);
        coder.decode(codes, expected.data());
        CHECK(again[r] == expected);
    }
}

TEST_CASE(
    "embeddings: what is damaged or asked for wrongly is refused in a line, nothing written") {
    const Setting s;
    write_file(s.in, npy(random_rows(50, 16, 9)));
    must({s.in, "-o", s.store, "--format", "e4m3", "--pca", "8"});
    const std::string whole = read_file(s.store), good = read_file(s.in);
    const std::string other = s.directory.file("other.safetensors");
    const auto refused = [&](const std::vector<std::string>& arguments, int exit,
                             const char* says) {
        const ProcessResult r = embeddings(arguments);
        CAPTURE(r.err);
        CAPTURE(says);
        CHECK(r.exit == exit);
        CHECK(r.err.find(says) != std::string::npos);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(fs::exists(s.out));
        CHECK_FALSE(fs::exists(other));
    };
    for (const std::size_t n : {std::size_t{0}, std::size_t{7}, good.size() / 2, good.size() - 1}) {
        write_file(s.in, good.substr(0, n));
        refused({s.in, "-o", other}, 65, "in.npy");
    }
    Rows rows = random_rows(50, 16, 9);
    rows[31][5] = std::nanf("");
    write_file(s.in, npy(rows));
    refused({s.in, "-o", other}, 65, "row 31, number 5");
    write_file(s.in, good);
    const std::string wide = s.directory.write("wide.npy", npy(random_rows(20, 17, 1)));
    refused({s.in, "-o", other, "--queries", wide}, 65, "17 numbers");
    refused({s.in, "-o", other, "--train", wide}, 65, "17 numbers");
    refused({s.in, "-o", other, "--pca", "17"}, 2, "--pca");
    refused({s.in, "-o", other, "--pca", "1.5"}, 2, "--pca");
    refused({s.in, "-o", other, "--pca", "0.5x"}, 2, "--pca");
    refused({s.in, "-o", other, "--format", "e4m2"}, 2, "did you mean 'e");
    refused({s.in, "-o", other, "--format", "e4m3,int8"}, 2, "--frontier");
    refused({s.in}, 2, "--output");
    refused({s.in, "-o", s.out}, 2, ".safetensors");
    refused({s.in, "--frontier", "--held-out", "45"}, 2, "fewer than ten");
    refused({s.in, "-o", s.store}, 73, "exists");
    refused({"--decompress", s.in, "-o", s.out}, 65, "in.npy");
    // A store that lies.
    for (std::size_t n = 0; n < whole.size(); n += 97) {
        write_file(other, whole.substr(0, n));
        const ProcessResult r = embeddings({"--decompress", other, "-o", s.out});
        CHECK(r.exit == 65);
        CHECK_FALSE(fs::exists(s.out));
    }
    const auto changed = [&](const std::string& from, const std::string& to) {
        std::string text = whole;
        const std::size_t at = text.find(from);
        REQUIRE(at != std::string::npos);
        text.replace(at, from.size(), to);
        write_file(other, text);
        const ProcessResult r = embeddings({"--decompress", other, "-o", s.out});
        CAPTURE(r.err);
        CHECK(r.exit == 65);
        CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
        CHECK_FALSE(fs::exists(s.out));
    };
    changed("\\\"e4m3\\\"", "\\\"e5m2\\\"");
    changed("\\\"rows\\\":50", "\\\"rows\\\":51");
    changed("\\\"dims\\\":8", "\\\"dims\\\":9");
    changed("\\\"version\\\":1", "\\\"version\\\":2");
    std::string damaged = whole;
    damaged.back() = '\x7f';  // no number in e4m3
    write_file(other, damaged);
    const ProcessResult r = embeddings({"--decompress", other, "-o", s.out});
    CHECK(r.exit == 65);
    CHECK(r.err.find("vector 49") != std::string::npos);
}

TEST_CASE("embeddings: the plan tells the output's bytes, and memory that the run keeps to") {
    const Setting s;
    const std::string in = s.directory.write("big.npy", npy(random_rows(30000, 256, 11)));
    const Json dry = must({in, "-o", s.store, "--pca", "0.5", "--dry-run"});
    CHECK_FALSE(fs::exists(s.store));
    const Json report = must({in, "-o", s.store, "--pca", "0.5"});
    CHECK(number(dry, {"plan", "output_bytes"}) == static_cast<double>(fs::file_size(s.store)));
    const double predicted = number(report, {"plan", "tiers", "ram", "peak_bytes"});
    CHECK(predicted < 40e6);  // the input alone is 31 MB
    const double peak = number(report, {"measured", "peak_rss_bytes"});
    CHECK(std::abs(peak - predicted) < 16e6);
    const ProcessResult r =
        embeddings({in, "-o", s.store, "--pca", "0.5", "--max-memory", "ram=8MiB"});
    CHECK(r.exit == 77);
}
