// SPDX-License-Identifier: Apache-2.0
// The real models' tokenizers against the ids of the Hugging Face library (golden/text, made by
// scripts/make_golden_text.py).
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "core/ledger.h"
#include "tests/support/models.h"
#include "text/tokenizer.h"

using namespace thimble;

namespace {

std::string read_golden(const std::string& name) {
    std::ifstream in(std::string(THIMBLE_TESTS_DIR) + "/golden/text/" + name, std::ios::binary);
    REQUIRE(in.good());
    return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> golden_lines() {
    std::vector<std::string> lines(1);
    const std::string text = read_golden("lines.txt");
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\n') {
            lines.emplace_back();
        } else if (text[i] == '\\') {
            const char c = text[++i];
            lines.back() += c == 'n' ? '\n' : c == 'r' ? '\r' : c == '0' ? '\0' : c;
        } else {
            lines.back() += text[i];
        }
    }
    lines.pop_back();
    return lines;
}

std::uint64_t fnv1a(std::span<const Token> tokens, std::uint64_t state) {
    for (const Token token : tokens) {
        for (int shift = 0; shift < 32; shift += 8) {
            const auto byte = static_cast<std::uint32_t>(token) >> shift & 0xff;
            state = (state ^ byte) * 0x100000001b3u;
        }
    }
    return state;
}

std::string show(std::span<const Token> tokens) {
    std::string out;
    for (const Token token : tokens) out += std::to_string(token) + ' ';
    return out;
}

// Both ways of reading special-token text, on every line.
void check_golden(const Tokenizer& tokenizer, const std::string& golden) {
    const std::vector<std::string> lines = golden_lines();
    const std::string hashes = read_golden(golden);
    REQUIRE(lines.size() == 5000);
    REQUIRE(hashes.size() == 8 * lines.size());
    int wrong = 0;
    for (std::size_t i = 0; i < lines.size(); ++i) {
        std::vector<Token> plain =
            tokenizer.encode(lines[i], {.add_special = false, .parse_special = false});
        const std::vector<Token> special =
            tokenizer.encode(lines[i], {.add_special = false, .parse_special = true});
        plain.push_back(-1);
        std::uint64_t expected = 0;
        std::memcpy(&expected, hashes.data() + 8 * i, 8);
        const std::uint64_t got = fnv1a(special, fnv1a(plain, 0xcbf29ce484222325u));
        if (got != expected && ++wrong <= 3) {
            FAIL_CHECK("line ", i + 1, " '", lines[i], "'\n  plain: ", show(plain),
                       "\n  special: ", show(special));
        }
    }
    CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("tokenizer golden: SmolLM2 from GGUF equals the reference on 5,000 lines") {
    const auto path = test::real_model(test::kSmolLm2);
    if (!path) return;
    const auto file = ModelFile::open(*path);
    const auto tokenizer = Tokenizer::open(*file);
    CHECK(tokenizer->size() == 49152);
    check_golden(*tokenizer, "smollm2.fnv");
}

TEST_CASE("tokenizer golden: Gemma 3 from GGUF equals the reference on 5,000 lines") {
    const auto path = test::real_model(test::kGemma3);
    if (!path) return;
    const auto file = ModelFile::open(*path);
    const auto tokenizer = Tokenizer::open(*file);
    CHECK(tokenizer->size() == 262144);
    check_golden(*tokenizer, "gemma3.fnv");
}

TEST_CASE("tokenizer: the ledger holds exactly the predicted vocabulary bytes") {
    for (const char* name : {test::kSmolLm2, test::kGemma3}) {
        const auto path = test::real_model(name);
        if (!path) return;
        const auto file = ModelFile::open(*path);
        Ledger& ledger = Ledger::process();
        const std::uint64_t before = ledger.current_bytes(Tier::kRam, Purpose::kVocabulary);
        const auto tokenizer = Tokenizer::open(*file);
        const std::uint64_t held = ledger.current_bytes(Tier::kRam, Purpose::kVocabulary) - before;
        CHECK(held == Tokenizer::predict_bytes(*file));
    }
}
