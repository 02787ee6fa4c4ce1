// SPDX-License-Identifier: Apache-2.0
// Text <-> token ids for byte-level BPE and SentencePiece-style BPE with byte fallback, from GGUF
// metadata or a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_file.h"

namespace thimble {

struct HfTokenizerFiles;  // text/hf_export.h

using Token = std::int32_t;

enum class TokenKind : std::uint8_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
};

struct TextRange {
    std::size_t begin = 0, end = 0;  // bytes
};
struct EncodeText {
    bool add_special = true;  // BOS/EOS as the model's own rules say
    bool parse_special =
        false;  // control-token text in `text` becomes the token (templates), else plain text
    std::span<const TextRange>
        literal{};  // ascending ranges where it stays plain text all the same
};

class Tokenizer {
  public:
    // From the model's GGUF metadata, or tokenizer.json (+ tokenizer_config.json) beside an HF
    // config.
    [[nodiscard]] static std::unique_ptr<Tokenizer> open(const ModelFile& file);
    // Bytes of Purpose::kVocabulary that open() will hold, for plans: exact for GGUF; for a
    // tokenizer.json an upper bound that covers its parsing.
    [[nodiscard]] static std::uint64_t predict_bytes(const ModelFile& file);
    // Bytes of Purpose::kOther that one encode() may hold besides its result, for plans. A word of
    // more than 512 bytes, which is rare, may take more.
    [[nodiscard]] static std::uint64_t scratch_bytes() noexcept;
    virtual ~Tokenizer() = default;

    [[nodiscard]] virtual std::vector<Token> encode(std::string_view text,
                                                    const EncodeText& how) const = 0;
    // Bytes of one token (control tokens: empty unless `render_special`).
    [[nodiscard]] virtual std::string piece(Token token, bool render_special = false) const = 0;
    [[nodiscard]] std::string decode(std::span<const Token> tokens,
                                     bool render_special = false) const;

    [[nodiscard]] virtual std::int64_t size() const noexcept = 0;
    [[nodiscard]] virtual Token bos() const noexcept = 0;  // -1: none
    [[nodiscard]] virtual Token eos() const noexcept = 0;
    [[nodiscard]] virtual bool is_end(Token token) const noexcept = 0;  // EOS, EOT, end of turn ...
    [[nodiscard]] virtual Token find(std::string_view piece) const noexcept = 0;  // -1: none
    // tokenizer.* keys for a GGUF file; equal for GGUF and HF sources of one model.
    virtual void write_vocabulary(Metadata& metadata) const = 0;
    // The files of a Hugging Face directory; read again they give the same tokens. The model takes
    // `context_tokens` at most.
    [[nodiscard]] virtual HfTokenizerFiles hf_files(std::int64_t context_tokens) const = 0;
    // tokenizer.chat_template or ""
    [[nodiscard]] virtual const std::string& chat_template() const noexcept = 0;

  private:
    // encode() puts a space before the text, so decode() takes one away.
    [[nodiscard]] virtual bool drops_first_space() const noexcept { return false; }
};

// The tokens of text that other text precedes: none put around it, and without the space that some
// vocabularies put before a text.
[[nodiscard]] std::vector<Token> encode_rest(const Tokenizer& tokenizer, std::string_view text,
                                             bool parse_special = false);

// Bytes in, whole UTF-8 characters out: for streaming.
class Utf8Stream {
  public:
    [[nodiscard]] std::string push(std::string_view bytes);  // the whole characters available now
    [[nodiscard]] std::string finish();                      // what is left, as it is
  private:
    std::string pending_;
};

struct ChatMessage {
    std::string role, content;
};
// Renders messages as the model's template does, with its BOS text where it has one. Templates are
// never executed: the template's text is recognised as one of the known forms (chatml, gemma,
// llama3, ...); another one is Error(kUsage) naming --chat-template.
[[nodiscard]] std::string render_chat(const Tokenizer& tokenizer,
                                      std::string_view form /* "" = detect */,
                                      std::span<const ChatMessage> messages,
                                      bool add_generation_prompt);
// The tokens of the rendered text, ready for the model (no BOS to add). Special-token text inside a
// message stays plain text, so that a message cannot end its own turn.
[[nodiscard]] std::vector<Token> encode_chat(const Tokenizer& tokenizer, std::string_view form,
                                             std::span<const ChatMessage> messages,
                                             bool add_generation_prompt);
// The same for training, with the place of each of the assistant's turns: its content and the text
// that ends it, without the header before and the line end after. They are encoded apart from what
// stands around them, so that what comes before an answer has the tokens that the model is given to
// answer, whatever the answer begins with. A vocabulary that puts a space before each text encodes
// the whole: a token that reaches over a turn's border is no part of it then, and characters
// outside the vocabulary are Error(kBadData).
struct ChatTurn {
    std::size_t begin = 0, end = 0;  // tokens
};
struct ChatTokens {
    std::vector<Token> tokens;
    std::vector<ChatTurn> turns;  // one for each message, empty for those of others
};
[[nodiscard]] ChatTokens encode_chat_turns(const Tokenizer& tokenizer, std::string_view form,
                                           std::span<const ChatMessage> messages);
// A conversation about one text, the first `cut` bytes of the first message (which begins with no
// space), in pieces that are encoded apart: the text with what stands before it, then up to where
// each answer begins, the one still to come last. So whatever is asked or was answered, the pieces
// before have the same tokens. Messages are the user's and the assistant's in turn.
[[nodiscard]] std::vector<std::vector<Token>> encode_chat_pieces(
    const Tokenizer& tokenizer, std::string_view form, std::span<const ChatMessage> messages,
    std::size_t cut);
[[nodiscard]] std::vector<std::string> chat_forms();

}  // namespace thimble
