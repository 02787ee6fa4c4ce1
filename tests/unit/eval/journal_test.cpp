// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <filesystem>

#include "core/error.h"
#include "eval/journal.h"
#include "io/lines.h"
#include "tests/support/temp_dir.h"

using namespace thimble;
using namespace thimble::eval;

namespace {

Json about(int n) {
    Json json = Json::object();
    json.set("model", n);
    return json;
}

struct Seen {
    std::vector<std::string> samples;
    std::int64_t refuse_from = 1000;
    Journal::Take take() {
        return [this](std::string_view task, std::int64_t sample, const Json& outcome,
                      std::string_view where) {
            if (std::ssize(samples) >= refuse_from)
                throw Error(Exit::kBadData, std::string(where), "not mine");
            samples.push_back(std::string(task) + std::to_string(sample) + outcome.dump());
        };
    }
};

const std::vector<std::string> kThree = {"a0{\"x\":0.1}", "a1[]", "b0null"};

void write_three(const std::string& path, bool keep = true) {
    Journal journal(path, about(1));
    Seen none;
    CHECK(journal.replay(none.take()) == 0);
    Json first = Json::object();
    first.set("x", 0.1);
    journal.append("a", 0, first);
    journal.append("a", 1, Json::array());
    journal.append("b", 0, Json());
    if (!keep) journal.remove();
}

}  // namespace

TEST_CASE("eval journal: samples come back in order, and more can follow") {
    test::TempDir scratch;
    const std::string path = scratch / "j";
    write_three(path);
    {
        Journal journal(path, about(1));
        Seen seen;
        CHECK(journal.replay(seen.take()) == 3);
        CHECK(seen.samples == kThree);
        journal.append("b", 1, Json(7));
    }
    Seen seen;
    Journal journal(path, about(1));
    CHECK(journal.replay(seen.take()) == 4);
    CHECK(seen.samples.back() == "b17");
    journal.keep_as(scratch / "kept");
    CHECK(std::filesystem::exists(scratch / "kept"));
    CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("eval journal: cut at any byte, whole lines are what counts") {
    test::TempDir scratch;
    const std::string path = scratch / "j";
    write_three(path);
    const std::string whole = test::slurp(path);
    std::size_t header = whole.find('\n') + 1;
    for (std::size_t length = 0; length <= whole.size(); ++length) {
        test::spew(path, whole.substr(0, length));
        Seen seen;
        std::int64_t lines = 0;
        for (std::size_t i = header; i < length; ++i) lines += whole[i] == '\n' ? 1 : 0;
        Journal journal(path, about(1));
        const std::int64_t taken = journal.replay(seen.take());
        REQUIRE(taken == lines);
        journal.append("z", 9, Json());
        const std::string now = test::slurp(path);
        REQUIRE(now.starts_with(whole.substr(0, header)));
        REQUIRE(std::count(now.begin(), now.end(), '\n') == lines + 2);
    }
}

TEST_CASE("eval journal: another evaluation's samples are not used") {
    test::TempDir scratch;
    const std::string path = scratch / "j";
    write_three(path);
    Journal journal(path, about(2));
    Seen seen;
    CHECK(journal.replay(seen.take()) == 0);
    CHECK(seen.samples.empty());
    CHECK(LineReader(path).where() == path + ": line 0");
}

TEST_CASE("eval journal: from a bad sample on, all are dropped") {
    test::TempDir scratch;
    const std::string path = scratch / "j";
    write_three(path);
    {
        Journal journal(path, about(1));
        Seen seen{{}, 1};
        CHECK(journal.replay(seen.take()) == 1);
    }
    Journal journal(path, about(1));
    Seen seen;
    CHECK(journal.replay(seen.take()) == 1);
}

TEST_CASE("eval journal: two writers are told apart, empty ones leave nothing") {
    test::TempDir scratch;
    const std::string path = scratch / "j";
    write_three(path);
    {
        const Journal first(path, about(1));
        try {
            const Journal second(path, about(1));
            FAIL("opened twice");
        } catch (const Error& error) {
            CHECK(error.exit() == Exit::kCannotCreate);
        }
    }
    std::filesystem::remove(path);
    { const Journal nothing(path, about(1)); }
    CHECK_FALSE(std::filesystem::exists(path));
    write_three(path, false);
    CHECK_FALSE(std::filesystem::exists(path));
    std::filesystem::create_directory(scratch / "d");
    CHECK_THROWS_AS(Journal(scratch / "d", about(1)), Error);
}

TEST_CASE("eval lines: every line once, with or without a last newline, over buffer borders") {
    test::TempDir scratch;
    for (const std::size_t length : {0u, 1u, 65534u, 65535u, 65536u, 65537u, 200000u}) {
        for (const bool newline : {false, true}) {
            CAPTURE(length);
            const std::string line(length, 'x');
            const std::string path = scratch / "t";
            test::spew(path, "first\n" + line + (newline ? "\n" : ""));
            LineReader lines(path);
            std::string out;
            REQUIRE(lines.next(out));
            CHECK(out == "first");
            CHECK(lines.next(out) == (length > 0 || newline));
            CHECK(out == line);
            CHECK((length == 0 && !newline) != (lines.terminated() == newline));
            CHECK_FALSE(lines.next(out));
            CHECK(lines.consumed_bytes() == 6 + length + (newline ? 1 : 0));
        }
    }
}
