// SPDX-License-Identifier: Apache-2.0
// The two tokenizers over one Vocabulary. Both cut text at added tokens, then into words whose
// merges cannot reach each other, then merge within the word.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "text/hf_export.h"
#include "text/merge.h"
#include "text/pretokenize.h"
#include "text/vocabulary.h"
#include "text/word_cache.h"

namespace thimble {

// What a file says beside the pieces; an absent optional means that it does not say.
struct TokenizerRules {
    std::string pre;                                 // tokenizer.ggml.pre
    std::vector<std::pair<std::string, Token>> ids;  // "bos" -> tokenizer.ggml.bos_token_id
    std::optional<bool> add_bos, add_eos, add_sep, add_space_prefix;
    bool prefix_first_only =
        false;  // the space prefix only before the text, not after added tokens
    std::string chat_template;
    [[nodiscard]] Token id(std::string_view name) const noexcept;  // -1: none
};

// What tokenizer.json says about text before and after the merges.
struct HfSteps {
    Json normalizer, pre_tokenizer, decoder;
    bool byte_fallback = false, ignore_merges = false;
};

class BpeTokenizer : public Tokenizer {
  public:
    BpeTokenizer(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules, bool add_bos,
                 bool add_eos);

    [[nodiscard]] std::vector<Token> encode(std::string_view text,
                                            const EncodeText& how) const override;
    [[nodiscard]] std::int64_t size() const noexcept override;
    [[nodiscard]] Token bos() const noexcept override { return bos_; }
    [[nodiscard]] Token eos() const noexcept override { return eos_; }
    [[nodiscard]] bool is_end(Token token) const noexcept override;
    [[nodiscard]] Token find(std::string_view piece) const noexcept override;
    [[nodiscard]] const std::string& chat_template() const noexcept override {
        return rules_.chat_template;
    }
    void write_vocabulary(Metadata& metadata) const override;
    [[nodiscard]] HfTokenizerFiles hf_files(std::int64_t context_tokens) const override;

    // Two pieces that merge; lower (key, result) first, as Merger has it.
    struct MergePair {
        std::uint64_t key = 0;
        Token result = -1, left = -1, right = -1;
    };

  protected:
    // Scratch of one encode call.
    struct Work {
        explicit Work(std::size_t text_bytes);
        CountingResource memory;
        Merger merger;
        WordCache cache;
        std::string word;
        std::vector<Token>* out = nullptr;
        bool at_start = true;  // nothing stands before this stretch
    };
    // Appends the tokens of a stretch of text between added tokens.
    virtual void encode_plain(std::string_view text, Work& work) const = 0;
    [[nodiscard]] virtual std::string_view model_name() const noexcept = 0;  // tokenizer.ggml.model
    [[nodiscard]] virtual HfSteps hf_steps() const = 0;
    // All merges that encode() may make, as a list that gives the same tokens.
    [[nodiscard]] virtual std::vector<MergePair> merge_list() const;

    std::unique_ptr<Vocabulary> vocabulary_;
    TokenizerRules rules_;

  private:
    void write_tokenizer_json(const std::vector<MergePair>& merges, const TextSink& sink) const;
    void write_added_tokens(const TextSink& sink) const;
    [[nodiscard]] Json post_processor() const;
    [[nodiscard]] Json special_tokens() const;
    Token bos_, eos_;
    bool add_bos_, add_eos_;
    std::vector<Token> ends_;
};

// GPT-2 style: words from a pre-tokenizer, bytes spelled as printable characters, ranked merges.
// A byte whose character is no piece is dropped, as the reference implementation does.
class ByteBpe final : public BpeTokenizer {
  public:
    ByteBpe(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules,
            const PreTokenizerName& pre);
    [[nodiscard]] std::string piece(Token token, bool render_special) const override;

  private:
    void encode_plain(std::string_view text, Work& work) const override;
    [[nodiscard]] std::string_view model_name() const noexcept override { return "gpt2"; }
    [[nodiscard]] HfSteps hf_steps() const override;
    void encode_word(std::string_view word, Work& work) const;
    PreTokenizerName pre_;
    std::array<Token, 256> byte_tokens_{};
};

// SentencePiece style: spaces written as U+2581, merges by the score of the result (or by an
// explicit list, where the file has one), characters outside the vocabulary as byte tokens.
class ScoreBpe final : public BpeTokenizer {
  public:
    ScoreBpe(std::unique_ptr<Vocabulary> vocabulary, TokenizerRules rules);
    [[nodiscard]] std::string piece(Token token, bool render_special) const override;

  private:
    void encode_plain(std::string_view text, Work& work) const override;
    [[nodiscard]] std::string_view model_name() const noexcept override { return "llama"; }
    [[nodiscard]] HfSteps hf_steps() const override;
    [[nodiscard]] std::vector<MergePair> merge_list() const override;
    [[nodiscard]] bool drops_first_space() const noexcept override { return space_prefix_; }
    [[nodiscard]] std::size_t word_end(std::string_view text, std::size_t at) const noexcept;
    void encode_word(Work& work) const;
    void push_unknown(std::string_view bytes, bool after_unknown, std::vector<Token>& out) const;
    bool space_prefix_, prefix_first_only_;
    Token unknown_;
    std::array<Token, 256> byte_tokens_{};
    std::array<Token, 128> ascii_{};  // piece of one ASCII character
    std::array<bool, 256>
        joins_space_{};  // last byte of a character that a piece has before a space
};

// Throws kBadData for a key that is missing, of the wrong kind or out of range.
[[nodiscard]] std::unique_ptr<Tokenizer> tokenizer_from_metadata(const Metadata& metadata);
[[nodiscard]] std::uint64_t predict_vocabulary_bytes(const Metadata& metadata);

// The printable characters that stand for bytes in byte-level vocabularies.
[[nodiscard]] char32_t spell_byte(std::uint8_t byte) noexcept;
void append_spelled(std::string& out, std::string_view bytes);
// The bytes that a spelled piece stands for; nullopt when a character stands for none.
[[nodiscard]] std::optional<std::string> unspell(std::string_view piece);
// "<0x0A>" -> 10, strictly; -1 for anything else.
[[nodiscard]] int parse_byte_piece(std::string_view piece) noexcept;

// One or more spaces and nothing else. SentencePiece vocabularies in GGUF files spell user-defined
// runs of U+2581 like that.
[[nodiscard]] bool is_space_run(std::string_view text) noexcept;
// Throws kBadData when `rules.pre` is not known.
[[nodiscard]] std::unique_ptr<Tokenizer> make_tokenizer(std::unique_ptr<Vocabulary> vocabulary,
                                                        TokenizerRules rules, bool byte_level);

inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

}  // namespace thimble
