// SPDX-License-Identifier: Apache-2.0
// Trimmed vocabularies are still tokenizers: what stays is still merged to itself, and any text can
// still be written.
#include "prune/vocabulary.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/models.h"
#include "text/bpe.h"

using namespace thimble;
using namespace thimble::prune;
using namespace thimble::test;

namespace {

template <class T>
std::shared_ptr<const MetaArray> list(std::vector<T> values) {
    return std::make_shared<const MetaArray>(MetaArray{std::move(values), false});
}

const std::vector<std::string>& texts(const Metadata& metadata, const char* key) {
    return std::get<std::vector<std::string>>(metadata.find_array(key)->elements);
}

}  // namespace

TEST_CASE("vocabulary: parts are those that merging passes through") {
    Metadata metadata;
    const std::vector<std::string> pieces = {"<s>", "a", "b", "c", "ab", "bc", "abc", "cc", "ac"};
    metadata.set("tokenizer.ggml.tokens", list(pieces));
    metadata.set("tokenizer.ggml.token_type", list<std::int32_t>({3, 1, 1, 1, 1, 1, 1, 1, 1}));
    metadata.set("tokenizer.ggml.merges",
                 list<std::string>({"b c", "a b", "a bc", "ab c", "c c", "a c"}));
    metadata.set("tokenizer.ggml.bos_token_id", std::uint32_t{0});
    metadata.set("tokenizer.ggml.eos_token_id", std::uint32_t{8});
    const Kept always = indispensable_tokens(metadata);
    CHECK(always == Kept{0, 1, 2, 3, 8});
    // "b c" merges first, so "ab" is not on the way.
    Kept wanted = always;
    wanted.push_back(6);
    std::sort(wanted.begin(), wanted.end());
    const Kept kept = with_parts(metadata, wanted);
    CHECK(kept == Kept{0, 1, 2, 3, 5, 6, 8});
    trim_vocabulary(metadata, kept);
    CHECK(texts(metadata, "tokenizer.ggml.tokens") ==
          std::vector<std::string>{"<s>", "a", "b", "c", "bc", "abc", "ac"});
    CHECK(texts(metadata, "tokenizer.ggml.merges") ==
          std::vector<std::string>{"b c", "a bc", "a c"});
    CHECK(metadata.get_int("tokenizer.ggml.bos_token_id", 0, 99) == 0);
    CHECK(metadata.get_int("tokenizer.ggml.eos_token_id", 0, 99) == 6);
    CHECK(std::get<std::vector<std::int32_t>>(
              metadata.find_array("tokenizer.ggml.token_type")->elements)
              .size() == 7);
}

TEST_CASE("vocabulary: real ones keep their tokens and can write anything") {
    for (const char* name : {kSmolLm2, kGemma3}) {
        CAPTURE(name);
        const auto path = real_model(name);
        if (!path) continue;
        const auto file = ModelFile::open(*path);
        Metadata metadata = file->metadata();
        const auto before = tokenizer_from_metadata(metadata);
        Kept wanted = indispensable_tokens(metadata);
        for (std::int64_t t = 0; t < before->size(); t += 61) wanted.push_back(t);
        std::sort(wanted.begin(), wanted.end());
        wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
        const Kept kept = with_parts(metadata, wanted);
        CHECK(std::ssize(kept) < before->size() / 2);
        trim_vocabulary(metadata, kept);
        const auto after = tokenizer_from_metadata(metadata);
        REQUIRE(after->size() == std::ssize(kept));
        const EncodeText plain{.add_special = false};
        std::int64_t same = 0;
        for (const std::int64_t token : wanted) {
            const auto old = static_cast<Token>(token);
            const std::string text = before->piece(old);
            if (text.empty() || encode_rest(*before, text) != std::vector<Token>{old}) continue;
            const auto place = static_cast<Token>(
                std::lower_bound(kept.begin(), kept.end(), token) - kept.begin());
            CAPTURE(text);
            CHECK(encode_rest(*after, text) == std::vector<Token>{place});
            ++same;
        }
        CHECK(same > 500);
        for (const char* text :
             {"The quick brown fox jumps over the lazy dog, 1234567890 times.",
              "Größe, naïveté, 日本語のテキスト, \xf0\x9f\x98\x80\n\tint main() {}"}) {
            const std::vector<Token> tokens = after->encode(text, plain);
            CHECK(after->decode(tokens) == text);
            CHECK(tokens.size() >= before->encode(text, plain).size());
        }
        CHECK(after->piece(after->eos(), true) == before->piece(before->eos(), true));
    }
}
