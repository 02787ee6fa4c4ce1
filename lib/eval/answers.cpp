// SPDX-License-Identifier: Apache-2.0
#include "eval/answers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>

#include "core/ledger.h"
#include "core/strings.h"
#include "eval/filters.h"

namespace thimble::eval {
namespace {

// Longer texts are cut: a table below grows with the product of two lengths.
constexpr std::size_t kMostWords = 2048;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

using Words = std::vector<std::string>;

Words words_of(std::string_view text, bool (*belongs)(char)) {
    Words out;
    std::string word;
    for (std::size_t i = 0; i <= text.size() && out.size() < kMostWords; ++i) {
        if (i < text.size() && belongs(text[i])) {
            word += text[i];
        } else if (!word.empty()) {
            out.push_back(std::move(word));
            word.clear();
        }
    }
    return out;
}

bool is_no_space(char c) {
    return std::string_view(" \t\n\r\f\v").find(c) == std::string_view::npos;
}

// lengths[i][j]: longest common subsequence of the first i words of a and the first j of b.
class Subsequence {
  public:
    Subsequence(const Words& a, const Words& b)
        : a_(a),
          b_(b),
          stride_(b.size() + 1),
          charge_(Tier::kRam, Purpose::kOther, (a.size() + 1) * stride_ * sizeof(Length)),
          lengths_((a.size() + 1) * stride_) {
        for (std::size_t i = 1; i <= a.size(); ++i) {
            for (std::size_t j = 1; j <= b.size(); ++j) {
                const bool same = a[i - 1] == b[j - 1];
                lengths_[i * stride_ + j] = same ? static_cast<Length>(at(i - 1, j - 1) + 1)
                                                 : std::max(at(i - 1, j), at(i, j - 1));
            }
        }
    }
    using Length = std::uint16_t;
    [[nodiscard]] std::size_t length() const { return lengths_.back(); }
    // Sets the places of a that one longest common subsequence takes.
    void mark(std::vector<bool>& taken) const {
        std::size_t i = a_.size(), j = b_.size();
        while (i > 0 && j > 0) {
            if (a_[i - 1] == b_[j - 1]) {
                taken[--i] = true;
                --j;
            } else if (at(i, j - 1) > at(i - 1, j)) {
                --j;
            } else {
                --i;
            }
        }
    }

  private:
    [[nodiscard]] Length at(std::size_t i, std::size_t j) const {
        return lengths_[i * stride_ + j];
    }
    const Words &a_, &b_;
    std::size_t stride_;
    Charge charge_;
    std::vector<Length> lengths_;
};

double f1(double common, double of_text, double of_reference) {
    if (common <= 0) return 0;
    const double precision = common / of_text, recall = common / of_reference;
    return 2 * precision * recall / (precision + recall);
}

// Without spaces and punctuation, that of Chinese texts included; characters of other kinds stay.
std::vector<std::string> characters_of(std::string_view text) {
    static constexpr std::array<std::string_view, 24> kPunctuation = {
        "，", "。", "！", "？", "；", "：", "、", "“",  "”",  "‘", "’", "（",
        "）", "《", "》", "【", "】", "「", "」", "『", "』", "…", "—", "　"};
    std::vector<std::string> out;
    const std::string lower = to_lower(text);
    for (std::string_view rest = lower; !rest.empty();) {
        const std::size_t bytes = std::max<std::size_t>(utf8_length(rest), 1);
        const std::string_view one = rest.substr(0, bytes);
        rest.remove_prefix(bytes);
        if (bytes == 1 && !is_word(one[0]) && static_cast<unsigned char>(one[0]) < 0x80) continue;
        if (std::find(kPunctuation.begin(), kPunctuation.end(), one) == kPunctuation.end())
            out.emplace_back(one);
    }
    return out;
}

// The first number in the text, "" if there is none.
std::string first_number(std::string_view text, bool with_point) {
    const auto begin = std::find_if(text.begin(), text.end(), is_digit);
    std::string out;
    bool point = !with_point;
    for (auto c = begin; c != text.end(); ++c) {
        if (*c == '.' && !point && c + 1 != text.end() && is_digit(c[1])) {
            point = true;
        } else if (!is_digit(*c)) {
            break;
        }
        out += *c;
    }
    return out;
}

// A whole answer takes a text's whole part, as the harness compares them.
bool same_number(const std::string& found, const std::string& answer) {
    if (found.empty() || answer.empty()) return false;
    const double value = std::strtod(found.c_str(), nullptr);
    const bool whole = answer.find('.') == std::string::npos;
    return (whole ? std::trunc(value) : value) == std::strtod(answer.c_str(), nullptr);
}

bool is_letter_choice(std::string_view word) {
    return word.size() == 1 && word[0] >= 'A' && word[0] <= 'D';
}

// The letter that the text chooses; "" if none.
std::string chosen_letter(const std::string& text) {
    const std::string answer = strip(text);
    if (!answer.empty() && is_letter_choice(answer.substr(0, 1))) return answer.substr(0, 1);
    std::string plain;
    for (const char c : answer) {
        const bool drop = std::string_view("\n\"'.,?!{}()*").find(c) != std::string_view::npos;
        if (!drop || (!plain.empty() && plain.back() != ' ')) plain += drop ? ' ' : c;
    }
    const std::string lower = to_lower(plain);
    for (const char* mark : {"answer is:", "answer:", "answer is", "option is"}) {
        const std::size_t at = lower.find(mark);
        if (at == std::string::npos) continue;
        const std::string rest =
            strip(std::string_view(plain).substr(at + std::string(mark).size()));
        return is_letter_choice(rest.substr(0, 1)) ? rest.substr(0, 1) : std::string{};
    }
    for (const std::string& word : split(plain, ' '))
        if (is_letter_choice(word)) return word;
    return {};
}

double similarity(const std::string& text, const std::string& candidate) {
    const Words a = words_of(text, is_no_space), b = words_of(candidate, is_no_space);
    return f1(static_cast<double>(Subsequence(a, b).length()), static_cast<double>(a.size()),
              static_cast<double>(b.size()));
}

// The code block of a text that has one, else all of it.
std::string code_of(const std::string& text) {
    const std::size_t open = text.find("```");
    const std::size_t line = open == std::string::npos ? open : text.find('\n', open);
    if (line == std::string::npos) return text;
    return text.substr(line + 1, text.find("```", line) - line - 1);
}

// differs: RepoQA compares by BLEU; here by the longest common subsequence of words.
bool is_best_match(const std::string& text, const Gold& gold) {
    const std::string code = code_of(text);
    const double own = similarity(code, gold.answers.front());
    return own > 0 && std::all_of(gold.candidates.begin(), gold.candidates.end(),
                                  [&](const std::string& other) {
                                      return other == gold.answers.front() ||
                                             similarity(code, other) < own;
                                  });
}

double words_in_order(const std::string& text, const std::string& answer) {
    const Words gold = words_of(answer, is_no_space);
    if (gold.empty()) return 0;
    return static_cast<double>(Subsequence(gold, words_of(text, is_no_space)).length()) /
           static_cast<double>(gold.size());
}

double share_found(const std::string& text, const std::vector<std::string>& answers) {
    const std::string lower = to_lower(text);
    const auto found = std::count_if(answers.begin(), answers.end(), [&](const std::string& a) {
        return lower.find(to_lower(a)) != std::string::npos;
    });
    return static_cast<double>(found) / static_cast<double>(answers.size());
}

}  // namespace

double rouge_lsum(std::string_view text, std::string_view reference) {
    std::vector<Words> lines;
    std::map<std::string, std::int64_t> in_text, in_reference;
    std::size_t text_words = 0, reference_words = 0;
    for (const std::string& line : split(to_lower(text), '\n')) {
        lines.push_back(words_of(line, is_word));
        text_words += lines.back().size();
        for (const std::string& word : lines.back()) ++in_text[word];
    }
    double common = 0;
    std::vector<Words> wanted;
    for (const std::string& line : split(to_lower(reference), '\n')) {
        wanted.push_back(words_of(line, is_word));
        reference_words += wanted.back().size();
        for (const std::string& word : wanted.back()) ++in_reference[word];
    }
    for (const Words& line : wanted) {
        std::vector<bool> taken(line.size());
        for (const Words& other : lines) Subsequence(line, other).mark(taken);
        for (std::size_t i = 0; i < line.size(); ++i) {
            if (!taken[i] || in_text[line[i]] == 0 || in_reference[line[i]] == 0) continue;
            --in_text[line[i]];
            --in_reference[line[i]];
            ++common;
        }
    }
    return f1(common, static_cast<double>(text_words), static_cast<double>(reference_words));
}

double character_f1(std::string_view text, std::string_view reference) {
    const auto a = characters_of(text), b = characters_of(reference);
    std::map<std::string, std::int64_t> counts;
    for (const std::string& c : b) ++counts[c];
    double common = 0;
    for (const std::string& c : a)
        if (const auto found = counts.find(c); found != counts.end() && found->second-- > 0)
            ++common;
    return f1(common, static_cast<double>(a.size()), static_cast<double>(b.size()));
}

std::uint64_t answer_scratch_bytes(Measure measure) noexcept {
    const bool compares_words = measure == Measure::kRougeLsum || measure == Measure::kBestMatch ||
                                measure == Measure::kWordsInOrder;
    return compares_words ? (kMostWords + 1) * (kMostWords + 1) * sizeof(Subsequence::Length) : 0;
}

double score_answer(Measure measure, const std::string& text, const Gold& gold) {
    const std::vector<std::string>& answers = gold.answers;
    const auto any = [&](auto&& holds) {
        return std::any_of(answers.begin(), answers.end(), holds) ? 1.0 : 0.0;
    };
    switch (measure) {
        case Measure::kContains:
            return any([&](const std::string& a) { return text.find(a) != std::string::npos; });
        case Measure::kContainsUpper:
            return any([lower = to_lower(text)](const std::string& a) {
                return lower.find(to_lower(a)) != std::string::npos;
            });
        case Measure::kShareFound:
            return share_found(text, answers);
        case Measure::kFirstNumber:
            return same_number(first_number(text, true), answers.front()) ? 1 : 0;
        case Measure::kFirstDigits:
            return first_number(text, false) == answers.front() ? 1 : 0;
        case Measure::kChoice:
            return any([letter = chosen_letter(text)](const std::string& a) {
                return !letter.empty() && a.substr(0, 1) == letter;
            });
        case Measure::kCharacterF1: {
            double best = 0;
            for (const std::string& a : answers) best = std::max(best, character_f1(text, a));
            return best;
        }
        case Measure::kRougeLsum:
            return rouge_lsum(text, answers.front());
        case Measure::kBestMatch:
            return is_best_match(text, gold) ? 1 : 0;
        case Measure::kWordsInOrder:
            return words_in_order(text, answers.front());
    }
    return 0;
}

}  // namespace thimble::eval
