// SPDX-License-Identifier: Apache-2.0
#include "prune/vocabulary.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "core/strings.h"
#include "text/tokenizer.h"

namespace thimble::prune {
namespace {

constexpr std::string_view kPrefix = "tokenizer.ggml.", kIdSuffix = "_token_id";

std::string key_of(std::string_view name) { return std::string(kPrefix) + std::string(name); }

template <class T>
const std::vector<T>* array_of(const Metadata& metadata, std::string_view name) {
    const MetaArray* array = metadata.find_array(key_of(name));
    return array ? std::get_if<std::vector<T>>(&array->elements) : nullptr;
}

const std::vector<std::string>& pieces_of(const Metadata& metadata) {
    if (const auto* pieces = array_of<std::string>(metadata, "tokens")) return *pieces;
    throw Error(Exit::kBadData, escaped(metadata.file(), 1024),
                "key '" + key_of("tokens") + "' is missing or no list of texts");
}

// Merges a piece's characters as the tokenizer would, and hears of every piece on the way.
class Parts {
  public:
    explicit Parts(const Metadata& metadata)
        : pieces_(pieces_of(metadata)), scores_(array_of<float>(metadata, "scores")) {
        for (std::size_t i = 0; i < pieces_.size(); ++i)
            places_.emplace(pieces_[i], static_cast<std::int64_t>(i));
        const auto* merges = array_of<std::string>(metadata, "merges");
        if (merges == nullptr) return;
        by_rank_ = true;
        for (std::size_t i = 0; i < merges->size(); ++i)
            ranks_.emplace((*merges)[i], static_cast<double>(i));
    }

    template <class Fn>
    void visit(std::int64_t token, Fn&& fn) const {
        std::vector<std::string> parts = characters(pieces_[static_cast<std::size_t>(token)]);
        for (const std::string& part : parts) found(part, fn);
        while (parts.size() > 1) {
            std::size_t best = parts.size();
            double least = std::numeric_limits<double>::infinity();
            for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
                const double order = order_of(parts[i], parts[i + 1]);
                if (order < least) least = order, best = i;
            }
            if (best == parts.size()) return;
            parts[best] += parts[best + 1];
            parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
            found(parts[best], fn);
        }
    }

  private:
    static std::vector<std::string> characters(std::string_view text) {
        std::vector<std::string> out;
        while (!text.empty()) {
            const std::size_t bytes = std::max<std::size_t>(utf8_length(text), 1);
            out.emplace_back(text.substr(0, bytes));
            text.remove_prefix(bytes);
        }
        return out;
    }
    // What merges first is least; infinite: they do not merge.
    [[nodiscard]] double order_of(const std::string& left, const std::string& right) const {
        if (by_rank_) {
            const auto rank = ranks_.find(left + ' ' + right);
            return rank == ranks_.end() ? std::numeric_limits<double>::infinity() : rank->second;
        }
        const auto place = places_.find(left + right);
        if (place == places_.end()) return std::numeric_limits<double>::infinity();
        return scores_ ? -static_cast<double>((*scores_)[static_cast<std::size_t>(place->second)])
                       : 0;
    }
    template <class Fn>
    void found(const std::string& piece, Fn&& fn) const {
        const auto place = places_.find(piece);
        if (place != places_.end()) fn(place->second);
    }

    const std::vector<std::string>& pieces_;
    const std::vector<float>* scores_;
    bool by_rank_ = false;
    std::unordered_map<std::string, std::int64_t> places_;
    std::unordered_map<std::string, double> ranks_;
};

Kept marked(const std::vector<bool>& marks) {
    Kept out;
    for (std::size_t i = 0; i < marks.size(); ++i)
        if (marks[i]) out.push_back(static_cast<std::int64_t>(i));
    return out;
}

bool is_id(std::string_view key) { return key.starts_with(kPrefix) && key.ends_with(kIdSuffix); }

template <class T>
void keep(std::vector<T>& values, const Kept& tokens) {
    std::vector<T> out;
    out.reserve(tokens.size());
    for (const std::int64_t token : tokens) out.push_back(values[static_cast<std::size_t>(token)]);
    values = std::move(out);
}

// Those whose parts and result are there.
std::vector<std::string> merges_among(const std::vector<std::string>& merges,
                                      const std::vector<std::string>& pieces) {
    std::unordered_map<std::string_view, bool> there;
    for (const std::string& piece : pieces) there.emplace(piece, true);
    std::vector<std::string> out;
    for (const std::string& merge : merges) {
        const std::size_t space = merge.find(' ', 1);
        if (space == std::string::npos) continue;
        const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
        if (there.count(left) > 0 && there.count(right) > 0 && there.count(left + right) > 0)
            out.push_back(merge);
    }
    return out;
}

}  // namespace

Kept indispensable_tokens(const Metadata& metadata) {
    const std::vector<std::string>& pieces = pieces_of(metadata);
    const auto* kinds = array_of<std::int32_t>(metadata, "token_type");
    std::vector<bool> marks(pieces.size());
    const bool byte_level = array_of<std::string>(metadata, "merges") != nullptr;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        const auto kind = kinds ? static_cast<TokenKind>((*kinds)[i]) : TokenKind::kNormal;
        const bool plain = kind == TokenKind::kNormal || kind == TokenKind::kUnused;
        const bool character = byte_level && utf8_length(pieces[i]) == pieces[i].size();
        marks[i] = !plain || character;
    }
    for (const auto& [key, value] : metadata.entries()) {
        if (!is_id(key)) continue;
        const auto token = metadata.find_int(key);
        if (token && *token >= 0 && *token < std::ssize(pieces))
            marks[static_cast<std::size_t>(*token)] = true;
    }
    return marked(marks);
}

Kept with_parts(const Metadata& metadata, const Kept& tokens) {
    const Parts parts(metadata);
    std::vector<bool> marks(pieces_of(metadata).size());
    for (const std::int64_t token : tokens) {
        marks[static_cast<std::size_t>(token)] = true;
        parts.visit(token,
                    [&](std::int64_t part) { marks[static_cast<std::size_t>(part)] = true; });
    }
    return marked(marks);
}

void trim_vocabulary(Metadata& metadata, const Kept& tokens) {
    const std::size_t before = pieces_of(metadata).size();
    std::vector<std::int64_t> place(before, -1);
    for (std::size_t i = 0; i < tokens.size(); ++i)
        place[static_cast<std::size_t>(tokens[i])] = static_cast<std::int64_t>(i);
    std::vector<std::pair<std::string, std::int64_t>> ids;
    for (const auto& [key, value] : metadata.entries()) {
        if (!is_id(key)) continue;
        const auto token = metadata.find_int(key);
        if (token && *token >= 0 && *token < std::ssize(place))
            ids.emplace_back(key, place[static_cast<std::size_t>(*token)]);
    }
    for (const auto& [key, token] : ids) {
        if (token < 0) {
            metadata.erase(key);
        } else {
            metadata.set(key, static_cast<std::uint32_t>(token));
        }
    }
    for (const char* name : {"tokens", "scores", "token_type"}) {
        const MetaArray* array = metadata.find_array(key_of(name));
        if (array == nullptr) continue;
        auto changed = std::make_shared<MetaArray>(*array);
        std::visit(
            [&](auto& values) {
                if (values.size() == before) keep(values, tokens);
            },
            changed->elements);
        metadata.set(key_of(name), std::shared_ptr<const MetaArray>(std::move(changed)));
    }
    if (const auto* merges = array_of<std::string>(metadata, "merges")) {
        MetaArray left{merges_among(*merges, pieces_of(metadata)), false};
        metadata.set(key_of("merges"), std::make_shared<const MetaArray>(std::move(left)));
    }
}

}  // namespace thimble::prune
