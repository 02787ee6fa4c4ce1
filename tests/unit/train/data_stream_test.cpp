// SPDX-License-Identifier: Apache-2.0
#include "train/data/batch_stream.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/ledger.h"
#include "io/sha256.h"
#include "kernels/layout/rng.h"
#include "tests/unit/train/data_support.h"
#include "train/data/order.h"

using namespace thimble;
using namespace thimble::train;
using test::data_tokenizer;
using test::error_of;

namespace {

// Texts "<number>:xxx" of 5 to 4 + `spread` bytes, a line each.
std::string texts(std::int64_t count, std::uint32_t spread = 40) {
    std::string out;
    for (std::int64_t i = 0; i < count; ++i) {
        std::string text = std::to_string(1000 + i) + ":";
        text.append(philox(5, static_cast<std::uint64_t>(i)).v[0] % spread, 'x');
        out += R"({"text": ")" + text + "\"}\n";
    }
    return out;
}

struct Files {
    test::TempDir scratch;
    std::string path = scratch / "d.jsonl";
    std::unique_ptr<Tokenizer> tokenizer = data_tokenizer(test::kChatml);
    DataOptions options;
    explicit Files(const std::string& bytes) {
        test::spew(path, bytes);
        options.train = {path};
        options.context_tokens = 64;
    }
    [[nodiscard]] DataSet open() const { return DataSet(options, options.train, *tokenizer); }
};

std::string text_of(const Tokenizer& tokenizer, const PackedRow& row) {
    std::string out;
    std::size_t at = 0;
    for (const std::int64_t length : row.document_lengths) {
        const auto count = static_cast<std::size_t>(length);
        out += tokenizer.decode(std::span(row.tokens).subspan(at, count), true) + "|";
        at += count;
    }
    return out;
}

// The rows of all steps, a step to a line.
std::vector<std::string> steps_of(BatchStream& stream, const Tokenizer& tokenizer) {
    std::vector<std::string> out;
    TrainingBatch batch;
    while (stream.next(batch)) {
        out.emplace_back();
        for (const PackedRow& row : batch.rows) out.back() += text_of(tokenizer, row) + "/";
    }
    return out;
}

}  // namespace

TEST_CASE("training data: an epoch has each token once, whatever packs it") {
    Files files(texts(101));
    files.options.pack_window = 16;
    for (const char* pack : {"none", "ff", "bfd"}) {
        for (const bool mixed : {false, true}) {
            CAPTURE(pack);
            files.options.pack = pack;
            files.options.shuffle = mixed;
            const DataSet data = files.open();
            BatchStream stream(data, files.options, {.rows_per_step = 7, .epochs = 2});
            std::multiset<std::string> seen;
            std::int64_t tokens = 0, targets = 0, rows = 0, steps = 0;
            TrainingBatch batch;
            while (stream.next(batch)) {
                std::int64_t in_batch = 0, learnt = 0;
                for (const PackedRow& row : batch.rows) {
                    CHECK(std::ssize(row.tokens) <= 64);
                    in_batch += std::ssize(row.tokens);
                    for (const std::int32_t t : row.targets) learnt += t != kNoTarget ? 1 : 0;
                    for (std::size_t at = 0, d = 0; d < row.document_lengths.size(); ++d) {
                        const auto n = static_cast<std::size_t>(row.document_lengths[d]);
                        seen.insert(
                            files.tokenizer->decode(std::span(row.tokens).subspan(at, n), true));
                        at += n;
                    }
                }
                CHECK(batch.global_rows == std::ssize(batch.rows));
                CHECK(batch.global_tokens == in_batch);
                CHECK(batch.global_targets == learnt);
                tokens += in_batch;
                targets += learnt;
                rows += batch.global_rows;
                ++steps;
            }
            CHECK(tokens == 2 * data.counts().tokens);
            CHECK(targets == 2 * data.counts().targets);
            CHECK(rows == stream.count(0).rows + stream.count(1).rows);
            CHECK(steps == stream.count(0).steps + stream.count(1).steps);
            CHECK(seen.size() == 202);
            for (int i = 0; i < 101; ++i) {
                const std::string text = std::to_string(1000 + i) + ":";
                const auto at = seen.lower_bound(text);
                REQUIRE(at != seen.end());
                CHECK(at->starts_with(text));
                CHECK(seen.count(*at) == 2);
            }
        }
    }
}

TEST_CASE("training data: targets are the next tokens of the same document") {
    Files files(R"({"prompt": "ab", "completion": "cd"})"
                "\n"
                R"({"prompt": "e", "completion": "f"})"
                "\n");
    files.options.shuffle = false;
    const DataSet data = files.open();
    BatchStream stream(data, files.options, {});
    TrainingBatch batch;
    REQUIRE(stream.next(batch));
    REQUIRE(batch.rows.size() == 1);
    const PackedRow& row = batch.rows[0];
    const Token ab = files.tokenizer->find("ab");
    CHECK(row.tokens == std::vector<Token>{ab, 'c', 'd', 257, 'e', 'f', 257});
    CHECK(row.targets == std::vector<std::int32_t>{'c', 'd', 257, kNoTarget, 'f', 257, kNoTarget});
    CHECK(row.document_lengths == std::vector<std::int64_t>{4, 3});
    CHECK(batch.global_targets == 5);
    CHECK_FALSE(stream.next(batch));
    CHECK(batch.rows.empty());
}

TEST_CASE("training data: from any cursor on the steps are the same as without a break") {
    Files files(texts(60));
    files.options.pack_window = 9;
    for (const std::int64_t rows_per_step : {1, 3, 8}) {
        CAPTURE(rows_per_step);
        const DataSet data = files.open();
        const BatchPlan plan = {.rows_per_step = rows_per_step, .epochs = 2, .seed = 11};
        BatchStream whole(data, files.options, plan);
        const std::vector<std::string> steps = steps_of(whole, *files.tokenizer);
        std::set<std::int64_t> rows_in_window;
        BatchStream stream(data, files.options, plan);
        TrainingBatch batch;
        for (std::size_t done = 0; done <= steps.size(); ++done) {
            rows_in_window.insert(stream.cursor().row);
            BatchStream again(data, files.options, plan);
            again.seek(stream.cursor());
            CHECK(again.cursor() == stream.cursor());
            CHECK(steps_of(again, *files.tokenizer) ==
                  std::vector<std::string>(steps.begin() + static_cast<std::ptrdiff_t>(done),
                                           steps.end()));
            CHECK(stream.next(batch) == (done < steps.size()));
        }
        CHECK(rows_in_window.size() > 1);  // some lay within a window
        CHECK(stream.cursor() == DataCursor{2, 0, 0});
    }
}

TEST_CASE("training data: a cursor of other data is refused") {
    Files files(texts(10));
    files.options.pack_window = 4;
    const DataSet data = files.open();
    BatchStream stream(data, files.options, {.epochs = 2});
    for (const DataCursor cursor :
         {DataCursor{2, 0, 1}, DataCursor{0, 3, 0}, DataCursor{0, 0, 4}, DataCursor{-1, 0, 0},
          DataCursor{0, -1, 0}, DataCursor{0, 0, -1}, DataCursor{3, 0, 0}, DataCursor{1, 1, 99}}) {
        CAPTURE(cursor.epoch);
        CAPTURE(cursor.window);
        CHECK(error_of([&] { stream.seek(cursor); }).find("65: data cursor: epoch ") == 0);
    }
    CHECK(stream.cursor() == DataCursor{});
    BatchStream other(data, files.options, {.epochs = 2});
    CHECK(steps_of(stream, *files.tokenizer) == steps_of(other, *files.tokenizer));
}

TEST_CASE("training data: any number of ranks trains on the same steps") {
    Files files(texts(50));
    files.options.pack_window = 16;
    const DataSet data = files.open();
    for (const std::int64_t rows_per_step : {1, 4, 6}) {
        BatchStream alone(data, files.options, {.rows_per_step = rows_per_step, .seed = 3});
        for (const std::int64_t ranks : {2, 3, 4}) {
            std::vector<BatchStream> streams;
            for (std::int64_t r = 0; r < ranks; ++r)
                streams.emplace_back(
                    data, files.options,
                    BatchPlan{
                        .rows_per_step = rows_per_step, .seed = 3, .rank = r, .ranks = ranks});
            alone.seek({});
            TrainingBatch all, part;
            while (alone.next(all)) {
                std::vector<std::string> expected(all.rows.size()), found(all.rows.size());
                for (std::size_t i = 0; i < all.rows.size(); ++i)
                    expected[i] = text_of(*files.tokenizer, all.rows[i]);
                for (std::size_t r = 0; r < streams.size(); ++r) {
                    REQUIRE(streams[r].next(part));
                    CHECK(part.global_rows == all.global_rows);
                    CHECK(part.global_tokens == all.global_tokens);
                    CHECK(part.global_targets == all.global_targets);
                    CHECK(streams[r].cursor() == alone.cursor());
                    for (std::size_t i = 0; i < part.rows.size(); ++i)
                        found.at(r + i * streams.size()) = text_of(*files.tokenizer, part.rows[i]);
                }
                CHECK(found == expected);
            }
            for (BatchStream& stream : streams) CHECK_FALSE(stream.next(part));
        }
    }
}

TEST_CASE("training data: epochs and seeds differ in their order, equal ones do not") {
    Files files(texts(200));
    files.options.pack = "none";
    files.options.pack_window = 32;
    const DataSet data = files.open();
    const auto order = [&](std::uint64_t seed, std::int64_t epoch) {
        BatchStream stream(data, files.options, {.epochs = 3, .seed = seed});
        stream.seek({epoch, 0, 0});
        std::vector<std::string> steps = steps_of(stream, *files.tokenizer);
        steps.resize(200);
        return steps;
    };
    const auto first = order(1, 0);
    CHECK(order(1, 0) == first);
    for (const auto& other : {order(1, 1), order(2, 0), order(1, 2)}) {
        int same = 0;
        for (std::size_t i = 0; i < first.size(); ++i) same += other[i] == first[i] ? 1 : 0;
        CHECK(same < 10);  // one is expected
        CHECK(std::set(other.begin(), other.end()) == std::set(first.begin(), first.end()));
    }
    files.options.shuffle = false;
    const auto plain = order(1, 1);
    CHECK(std::is_sorted(plain.begin(), plain.end()));
}

TEST_CASE("training data: shuffled, the rows of a window do not begin with the longest") {
    std::string bytes;
    for (std::size_t i = 0; i < 30; ++i)
        bytes += R"({"text": ")" + std::string(33 + i, 'x') + "\"}\n";
    Files files(bytes);
    for (const bool mixed : {false, true}) {
        files.options.shuffle = mixed;
        const DataSet data = files.open();
        BatchStream stream(data, files.options, {});
        std::vector<std::int64_t> lengths;
        for (TrainingBatch batch; stream.next(batch);) lengths.push_back(batch.global_tokens);
        CHECK(lengths.size() == 30);
        CHECK(std::is_sorted(lengths.rbegin(), lengths.rend()) == !mixed);
    }
}

TEST_CASE("training data: shuffled, every order of a few samples is about equally likely") {
    std::map<std::vector<int>, int> counts;
    constexpr int kTrials = 24 * 500;
    for (std::uint64_t seed = 0; seed < kTrials; ++seed) {
        std::vector<int> items = {0, 1, 2, 3};
        shuffle(std::span(items), seed, OrderOf::kSamples, 0);
        ++counts[items];
    }
    CHECK(counts.size() == 24);
    double chi2 = 0;
    for (const auto& [items, n] : counts) chi2 += (n - 500.0) * (n - 500.0) / 500.0;
    CHECK(chi2 < 49.7);  // 23 degrees of freedom, p = 0.001
}

TEST_CASE("training data: a sample that is too long becomes pieces, its beginning, or none") {
    const std::string digits = "0123456789";
    Files files(R"({"text": ")" + digits + digits + digits + "\"}\n{\"text\": \"abc\"}\n");
    files.options.context_tokens = 8;
    files.options.shuffle = false;
    files.options.pack = "none";
    const auto pieces = [&] {
        const DataSet data = files.open();
        std::vector<std::string> out;
        for (std::int64_t i = 0; i < data.size(); ++i)
            out.push_back(files.tokenizer->decode(data.read(i).tokens, true));
        return out;
    };
    CHECK(pieces() ==
          std::vector<std::string>{"01234567", "89012345", "67890123", "456789</s>", "abc</s>"});
    CHECK(files.open().counts().split == 1);
    files.options.too_long = "truncate";
    CHECK(pieces() == std::vector<std::string>{"01234567", "abc</s>"});
    CHECK(files.open().counts().truncated == 1);
    files.options.too_long = "drop";
    CHECK(pieces() == std::vector<std::string>{"abc</s>"});
    CHECK(files.open().counts().dropped == 1);
    files.options.too_long = "error";
    CHECK(error_of(pieces) == "65: " + files.path +
                                  ":1: has 31 tokens, a row has 8 (a larger --ctx-size, or --long "
                                  "split, truncate or drop)");
    // Where the model begins texts with BOS, so does each piece; every other token is there once.
    files.options.too_long = "split";
    files.tokenizer = data_tokenizer(test::kChatml, true);
    CHECK(pieces() == std::vector<std::string>{"<s>0123456", "<s>7890123", "<s>4567890",
                                               "<s>1234567", "<s>89</s>", "<s>abc</s>"});
    CHECK(files.open().counts().targets == 31 + 3);  // ab is one token
}

TEST_CASE("training data: pieces without anything to learn are left out and counted") {
    Files files(R"({"prompt": "0123456789abcdefghij", "completion": "klm"})"
                "\n");
    files.options.context_tokens = 8;
    const DataSet data = files.open();
    CHECK(data.size() == 1);
    CHECK(data.counts().without_targets == 2);
    CHECK(data.counts().records == 1);
    CHECK(files.tokenizer->decode(data.read(0).tokens, true) == "hijklm</s>");
    files.options.too_long = "truncate";
    CHECK(error_of([&] { (void)files.open(); }) ==
          "65: " + files.path + ": has no samples to learn from");
}

TEST_CASE("training data: forms mixed in one file are refused with the line, files may differ") {
    Files files("{\"text\": \"abc\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    CHECK(error_of([&] { (void)files.open(); }) ==
          "65: " + files.path +
              ":2: is a record of prompt and completion in a file of text (give each form a file "
              "of its own)");
    const std::string other = files.scratch / "e.jsonl", plain = files.scratch / "p.txt";
    test::spew(files.path, "{\"text\": \"abc\"}\n");
    test::spew(other, "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    test::spew(plain, "x\ny\n");
    files.options.train = {files.path, other, plain};
    files.options.text_split = "line";
    const DataSet data = files.open();
    CHECK(data.size() == 4);
    REQUIRE(data.files().size() == 3);
    CHECK(data.files()[0].form == "text");
    CHECK(data.files()[1].form == "prompt and completion");
    CHECK(data.files()[2].form == "plain text");
    CHECK(data.files()[2].records == 2);
    CHECK(data.files()[2].sha256 == sha256_of("x\ny\n"));
    CHECK(files.tokenizer->decode(data.read(3).tokens, true) == "y</s>");
}

TEST_CASE("training data: a bad line is named with file and number") {
    Files files("");
    const auto fault = [&](const std::string& bytes) {
        test::spew(files.path, bytes);
        return error_of([&] { (void)files.open(); });
    };
    CHECK(fault("") == "65: " + files.path + ": has no samples to learn from");
    CHECK(fault("{\"text\": \"abc\"}\n{\"text\": \n").find("65: " + files.path + ":2") == 0);
    CHECK(fault("{\"text\": \"a\xff\"}\n").find("65: " + files.path + ":1") == 0);
    CHECK(fault("{\"text\": \"a\", \"text\": \"b\"}\n").find("65: " + files.path + ":1") == 0);
    CHECK(fault("[" + std::string(100, '[') + "\n").find("65: " + files.path + ":1") == 0);
    files.options.train = {files.scratch / "none.jsonl"};
    CHECK(error_of([&] { (void)files.open(); }).find("66: ") == 0);
}

TEST_CASE("training data: a file that changes while it is used is noticed") {
    Files files("{\"text\": \"abcd\"}\n");
    const DataSet data = files.open();
    test::spew(files.path, "{\"text\": \"a\"}   \n");
    CHECK(error_of([&] { (void)data.read(0); }) ==
          "65: " + files.path + ":1: has changed since it was read first");
    test::spew(files.path, "{}");
    CHECK(error_of([&] { (void)data.read(0); }).find("74: ") == 0);
}

TEST_CASE("training data: a part is split off for validation, whole records, by the seed") {
    std::string bytes = texts(40);
    bytes += R"({"text": ")" + std::string(200, 'y') + "\"}\n";  // four pieces
    Files files(bytes);
    std::set<std::string> choices;
    const auto samples_of = [&](const DataSet& data) {
        std::multiset<std::string> out;
        for (std::int64_t i = 0; i < data.size(); ++i)
            out.insert(files.tokenizer->decode(data.read(i).tokens, true));
        return out;
    };
    const std::multiset<std::string> whole = samples_of(files.open());
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
        DataSet train = files.open();
        const DataSet validation = train.split_off(0.25, seed);
        CHECK(validation.counts().records == 10);
        CHECK(train.counts().records == 31);
        std::multiset<std::string> both = samples_of(train);
        const std::multiset<std::string> chosen = samples_of(validation);
        const auto pieces = std::count_if(chosen.begin(), chosen.end(),
                                          [](const std::string& t) { return t.starts_with("y"); });
        CHECK((pieces == 0 || pieces == 4));
        both.insert(chosen.begin(), chosen.end());
        CHECK(both == whole);
        DataSet again = files.open();
        CHECK(samples_of(again.split_off(0.25, seed)) == chosen);
        std::string text;
        for (const std::string& t : chosen) text += t + "|";
        choices.insert(text);
    }
    CHECK(choices.size() == 20);
    DataSet small = files.open();
    CHECK(small.split_off(1e-9, 0).counts().records == 1);
    CHECK(small.split_off(1, 0).counts().records == 39);
    CHECK(error_of([&] { (void)small.split_off(0.5, 0); }).find("2: --validation-split: ") == 0);
}

TEST_CASE("training data: a directory stands for its train.jsonl and valid.jsonl") {
    Files files(texts(4));
    test::spew(files.scratch / "train.jsonl", texts(3));
    test::spew(files.scratch / "valid.jsonl", texts(2));
    files.options.train = {files.scratch.path()};
    {
        const TrainingData data = open_training_data(files.options, *files.tokenizer, 0);
        CHECK(data.train.counts().records == 3);
        REQUIRE(data.validation);
        CHECK(data.validation->counts().records == 2);
    }
    files.options.validation = {files.path};
    CHECK(open_training_data(files.options, *files.tokenizer, 0).validation->size() == 4);
    files.options.validation_split = 0.5;
    CHECK(error_of([&] {
              (void)open_training_data(files.options, *files.tokenizer, 0);
          }).find("2: --validation-split: excludes --validation") == 0);
    files.options.validation.clear();
    CHECK(open_training_data(files.options, *files.tokenizer, 0).validation->size() == 2);
    files.options.validation_split = 0;
    files.options.train = {files.path};
    CHECK_FALSE(open_training_data(files.options, *files.tokenizer, 0).validation);
}

TEST_CASE("training data: memory grows with the number of samples, not with their text") {
    Ledger& ledger = Ledger::process();
    const std::uint64_t before = ledger.current_bytes(Tier::kRam, Purpose::kIo);
    for (const char* pack : {"bfd", "ff"}) {
        Files files(texts(5000, 2000));
        ledger.reset_peaks();
        files.options.context_tokens = 512;
        files.options.pack = pack;
        const DataSet data = files.open();
        const std::uint64_t index = ledger.current_bytes(Tier::kRam, Purpose::kIo) - before;
        CHECK(data.counts().tokens > 5000 * 900);
        CHECK(index <= data.most_bytes());
        CHECK(index >= data.most_bytes() * 8 / 10);
        CHECK(data.reading_bytes() <= 8 * 2100);
        // While it was opened, a buffer of the hash or of the lines, and a record.
        CHECK(ledger.peak_bytes(Tier::kRam, Purpose::kIo) - before <= index + (2 << 20));
        ledger.reset_peaks();
        const BatchPlan plan = {.rows_per_step = 4};
        {
            BatchStream stream(data, files.options, plan);
            TrainingBatch batch;
            for (int i = 0; i < 20; ++i) REQUIRE(stream.next(batch));
            const std::uint64_t peak = ledger.peak_bytes(Tier::kRam, Purpose::kIo) - before - index;
            const std::uint64_t most = BatchStream::most_bytes(files.options, data.size()) +
                                       BatchStream::batch_bytes(data, files.options, plan);
            CHECK(peak <= most);
            CHECK(peak >= most / 2);
        }
        CHECK(ledger.current_bytes(Tier::kRam, Purpose::kIo) == before + index);
    }
    CHECK(ledger.current_bytes(Tier::kRam, Purpose::kIo) == before);
}

TEST_CASE("training data: a text longer than a block is one long sample, too") {
    std::string text;
    for (int i = 0; i < 20000; ++i) text += std::to_string(i) + "\n";
    Files files(text);
    files.options.format = "text";
    files.options.shuffle = false;
    files.options.context_tokens = 1000;
    {
        const DataSet data = files.open();
        CHECK(data.counts().split == 1);
        CHECK(data.counts().records == 7);  // blocks of 16000 bytes at most
        std::string joined;
        for (std::int64_t i = 0; i < data.size(); ++i)
            joined += files.tokenizer->decode(data.read(i).tokens, true);
        text.pop_back();
        CHECK(joined == text + "</s>");
    }
    files.options.too_long = "truncate";
    const DataSet data = files.open();
    CHECK(data.size() == 1);
    CHECK(data.counts().truncated == 1);
    CHECK(files.tokenizer->decode(data.read(0).tokens, true) == text.substr(0, 1000));
    files.options.too_long = "drop";
    CHECK(error_of([&] { (void)files.open(); }) ==
          "65: " + files.path +
              ": has no samples to learn from (a larger --ctx-size keeps long ones)");
    files.options.too_long = "error";
    CHECK(error_of([&] { (void)files.open(); }).find(":1: has ") != std::string::npos);
}
