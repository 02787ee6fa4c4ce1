// SPDX-License-Identifier: Apache-2.0
#include "train/data/records.h"

#include <doctest/doctest.h>

#include "io/lines.h"
#include "tests/unit/train/data_support.h"

using namespace thimble;
using namespace thimble::train;
using test::error_of;

namespace {

struct Seen {
    std::string text;
    std::int64_t line = 0;
    bool ends = true;
    bool operator==(const Seen&) const = default;
};

// Each record, after a look at whether its place in the file holds its text.
std::vector<Seen> records_of(const std::string& bytes, const RecordRules& rules) {
    test::TempDir scratch;
    const std::string path = scratch / "f";
    test::spew(path, bytes);
    std::vector<Seen> out;
    for_each_record(path, rules, [&](const Record& r) {
        CHECK(bytes.substr(r.offset, r.text.size()) == r.text);
        out.push_back({std::string(r.text), r.line, r.ends_document});
    });
    return out;
}

RecordRules text_rules(TextSplit split, std::string separator = {}) {
    RecordRules rules;
    rules.form = DataForm::kText;
    rules.split = split;
    rules.separator = std::move(separator);
    return rules;
}

}  // namespace

TEST_CASE("training data: JSON lines keep their place and number, blank ones are passed over") {
    CHECK(records_of("\xef\xbb\xbf{1}\n\n \r\n{2}\r\n{3}", {}) ==
          std::vector<Seen>{{"{1}", 1}, {"{2}\r", 4}, {"{3}", 5}});
    CHECK(records_of("", {}).empty());
    CHECK(records_of("\n\n", {}).empty());
}

TEST_CASE("training data: a text is one document, its paragraphs, its lines, or as marked") {
    const std::string text = "\xef\xbb\xbf one\ntwo\n\n \nthree\r\n\n---\nfour\n";
    CHECK(records_of(text, text_rules(TextSplit::kNone)) ==
          std::vector<Seen>{{" one\ntwo\n\n \nthree\r\n\n---\nfour", 1}});
    CHECK(records_of(text, text_rules(TextSplit::kSeparator)) ==
          std::vector<Seen>{{" one\ntwo", 1}, {"three", 5}, {"---\nfour", 7}});
    CHECK(records_of(text, text_rules(TextSplit::kSeparator, "---")) ==
          std::vector<Seen>{{" one\ntwo\n\n \nthree\r\n", 1}, {"four", 8}});
    CHECK(records_of("a\n---", text_rules(TextSplit::kSeparator, "---")) ==
          std::vector<Seen>{{"a", 1}});
    CHECK(records_of(text, text_rules(TextSplit::kLines)) ==
          std::vector<Seen>{{" one", 1}, {"two", 2}, {"three", 5}, {"---", 7}, {"four", 8}});
}

TEST_CASE("training data: a long document comes in blocks that are the document together") {
    RecordRules rules = text_rules(TextSplit::kNone);
    rules.block_bytes = 16;
    CHECK(records_of("aaaa aaaa\nbbbb bbbb\ncccc cccc\nd", rules) ==
          std::vector<Seen>{
              {"aaaa aaaa\n", 1, false}, {"bbbb bbbb\n", 2, false}, {"cccc cccc\nd", 3, true}});
    // Without lines before words, and without words between characters.
    CHECK(records_of("aaaa aaaa bbbb bbbb", rules) ==
          std::vector<Seen>{{"aaaa aaaa bbbb", 1, false}, {" bbbb", 1, true}});
    const std::string thin = "\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4";
    const auto blocks = records_of(thin, rules);
    REQUIRE(blocks.size() == 2);
    CHECK(blocks[0].text + blocks[1].text == thin);
    for (const TextSplit split : {TextSplit::kNone, TextSplit::kLines}) {
        rules.split = split;
        for (std::size_t length = 0; length < 70; ++length) {
            std::string text, joined;
            for (std::size_t i = 0; i < length; ++i) text += i % 9 == 8 ? ' ' : 'x';
            std::size_t ends = 0;
            for (const Seen& seen : records_of(text + "\n", rules)) {
                CHECK(seen.text.size() <= 17);
                joined += seen.text;
                ends += seen.ends ? 1 : 0;
            }
            CHECK(joined == text);
            CHECK(ends == (length > 0 ? 1u : 0u));
        }
    }
}

TEST_CASE("training data: text that is not UTF-8 is refused with its line") {
    test::TempDir scratch;
    const std::string path = scratch / "f.txt";
    for (const std::string bad : {"\xff", "\xc3", "\xed\xa0\x80", "\xe2\x82"}) {
        test::spew(path, "fine\n\nnot " + bad + "\n");
        CHECK(error_of([&] {
                  for_each_record(path, text_rules(TextSplit::kSeparator), [](const Record&) {});
              }) == "65: " + path + ":3: is not UTF-8 text (convert the file: iconv -t UTF-8)");
    }
}

TEST_CASE("training data: what a file holds is told by its name") {
    CHECK(data_form("a/b.jsonl") == DataForm::kJsonLines);
    CHECK(data_form("B.NDJSON") == DataForm::kJsonLines);
    CHECK(data_form("text.txt") == DataForm::kText);
    CHECK(data_form("README") == DataForm::kText);
    CHECK(error_of([] { (void)data_form("x/alpaca.json"); }) ==
          "2: x/alpaca.json: is neither JSON lines nor plain text (make JSON lines of it: jq -c "
          "'.[]' IN > OUT.jsonl)");
    CHECK(error_of([] { (void)data_form("x.parquet"); }).find("2: x.parquet: ") == 0);
}

TEST_CASE("lines: a part of a line is as long as asked, and the rest follows") {
    test::TempDir scratch;
    const std::string path = scratch / "t";
    for (const std::size_t length : {0u, 1u, 4u, 5u, 8u, 65535u, 65536u, 65537u}) {
        for (const std::size_t most : {1u, 4u, 65536u, 100000u}) {
            if (length / most > 1000) continue;
            const std::string line(length, 'x');
            test::spew(path, line + "\nlast");
            LineReader lines(path);
            std::string part, whole;
            do {
                REQUIRE(lines.next_part(part, most));
                CHECK(part.size() <= most);
                CHECK((part.size() == most || lines.terminated()));
                CHECK(lines.line_number() == 1);
                whole += part;
            } while (!lines.terminated());
            CHECK(whole == line);
            CHECK(lines.consumed_bytes() == length + 1);
            std::string rest;
            while (lines.next_part(part, most)) rest += part;
            CHECK(rest == "last");
            CHECK(lines.line_number() == 2);
        }
    }
}
