// SPDX-License-Identifier: Apache-2.0
// The real models' tokenizers against the ids of the Hugging Face library (golden/text, made by
// scripts/make_golden_text.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <tuple>

#include "core/ledger.h"
#include "tests/support/models.h"
#include "tests/support/temp_dir.h"
#include "text/bpe.h"

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

bool equal(const MetaValue& a, const MetaValue& b) {
    using Array = std::shared_ptr<const MetaArray>;
    if (!std::holds_alternative<Array>(a) || !std::holds_alternative<Array>(b)) return a == b;
    return std::get<Array>(a)->elements == std::get<Array>(b)->elements;
}

// Scores matter by their order alone.
bool same_order(const MetaValue& a, const MetaValue& b) {
    using Array = std::shared_ptr<const MetaArray>;
    const auto& x = std::get<std::vector<float>>(std::get<Array>(a)->elements);
    const auto& y = std::get<std::vector<float>>(std::get<Array>(b)->elements);
    if (x.size() != y.size()) return false;
    std::vector<std::size_t> order(x.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto by = [&](const std::vector<float>& scores) {
        std::vector<std::size_t> sorted = order;
        std::stable_sort(sorted.begin(), sorted.end(),
                         [&](std::size_t i, std::size_t j) { return scores[i] > scores[j]; });
        return sorted;
    };
    return by(x) == by(y);
}

// A directory with tokenizer files and nothing else.
class ExportedModel final : public ModelFile {
  public:
    explicit ExportedModel(std::string path) : path_(std::move(path)) {}
    [[nodiscard]] Container container() const noexcept override { return Container::kHuggingFace; }
    [[nodiscard]] const std::string& path() const noexcept override { return path_; }
    [[nodiscard]] const Metadata& metadata() const noexcept override { return metadata_; }
    [[nodiscard]] const Json& config() const noexcept override { return config_; }
    [[nodiscard]] const std::vector<TensorEntry>& tensors() const noexcept override {
        return tensors_;
    }
    [[nodiscard]] const TensorEntry* find(std::string_view) const noexcept override {
        return nullptr;
    }
    [[nodiscard]] std::vector<std::string> files() const override { return {}; }
    [[nodiscard]] std::uint64_t file_bytes() const noexcept override { return 0; }
    void read(const TensorEntry&, std::uint64_t, std::span<std::byte>) const override {}
    [[nodiscard]] std::span<const std::byte> map(const TensorEntry&) override { return {}; }
    void drop_pages(const TensorEntry&) noexcept override {}

  private:
    std::string path_;
    Metadata metadata_;
    Json config_;
    std::vector<TensorEntry> tensors_;
};

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

TEST_CASE("tokenizer golden: a tokenizer written to metadata cuts as before") {
    for (const auto& [name, golden] :
         {std::pair{test::kSmolLm2, "smollm2.fnv"}, std::pair{test::kGemma3, "gemma3.fnv"}}) {
        const auto path = test::real_model(name);
        if (!path) return;
        const auto file = ModelFile::open(*path);
        Metadata written("written.gguf");
        Tokenizer::open(*file)->write_vocabulary(written);
        for (const auto& [key, value] : file->metadata().entries()) {
            if (!key.starts_with("tokenizer.")) continue;
            const MetaValue* other = written.find(key);
            REQUIRE_MESSAGE(other != nullptr, key);
            CHECK_MESSAGE(equal(value, *other), key);
        }
        check_golden(*tokenizer_from_metadata(written), golden);
    }
}

// THIMBLE_HF_TOKENIZERS: a directory that make_golden_text.py --export has written.
TEST_CASE("tokenizer golden: tokenizer.json equals the reference and converts to the GGUF's keys") {
    const char* exported = std::getenv("THIMBLE_HF_TOKENIZERS");
    if (exported == nullptr) {
        MESSAGE("SKIPPED: THIMBLE_HF_TOKENIZERS is not set");
        return;
    }
    for (const auto& [directory, name, golden] :
         {std::tuple{"smollm2", test::kSmolLm2, "smollm2.fnv"},
          std::tuple{"gemma3", test::kGemma3, "gemma3.fnv"}}) {
        const auto path = test::real_model(name);
        if (!path) return;
        Ledger& ledger = Ledger::process();
        ledger.reset_peaks();
        const std::uint64_t before = ledger.current_bytes(Tier::kRam, Purpose::kVocabulary);
        const ExportedModel model(std::string(exported) + "/" + directory);
        const auto tokenizer = Tokenizer::open(model);
        const std::uint64_t peak = ledger.peak_bytes(Tier::kRam, Purpose::kVocabulary) - before;
        CHECK(peak == Tokenizer::predict_bytes(model));
        check_golden(*tokenizer, golden);
        Metadata written("written.gguf");
        tokenizer->write_vocabulary(written);
        check_golden(*tokenizer_from_metadata(written), golden);
        const auto original = ModelFile::open(*path);
        for (const auto& [key, value] : original->metadata().entries()) {
            if (!key.starts_with("tokenizer.")) continue;
            const MetaValue* other = written.find(key);
            // Keys that say what their absence says, or that tokenizer.json has no word for.
            if (other == nullptr &&
                (key.ends_with("add_sep_token") || key.ends_with("add_space_prefix"))) {
                CHECK_FALSE(original->metadata().find_bool(key).value());
                continue;
            }
            REQUIRE_MESSAGE(other != nullptr, key);
            const bool same =
                key.ends_with("scores") ? same_order(value, *other) : equal(value, *other);
            CHECK_MESSAGE(same, key);
        }
    }
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

TEST_CASE("tokenizer golden: written as tokenizer.json and read again, both equal the reference") {
    for (const auto& [model, golden] :
         {std::pair{test::kSmolLm2, "smollm2.fnv"}, std::pair{test::kGemma3, "gemma3.fnv"}}) {
        CAPTURE(model);
        const auto path = test::real_model(model);
        if (!path) continue;
        const auto tokenizer = Tokenizer::open(*ModelFile::open(*path));
        const test::TempDir directory;
        const HfTokenizerFiles files = tokenizer->hf_files(512);
        for (const SideFile& file : files.files) {
            std::string text;
            file.write([&](std::string_view piece) { text += piece; });
            CHECK(text.size() == file.bytes);
            test::spew(directory / file.name, text);
        }
        const auto again = Tokenizer::open(ExportedModel(directory.path()));
        check_golden(*again, golden);
        CHECK(again->bos() == tokenizer->bos());
        CHECK(again->eos() == tokenizer->eos());
        CHECK(again->chat_template() == tokenizer->chat_template());
        CHECK(again->encode("a b", {}) == tokenizer->encode("a b", {}));  // BOS and prefix alike
    }
}
