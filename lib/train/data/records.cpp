// SPDX-License-Identifier: Apache-2.0
#include "train/data/records.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/ledger.h"
#include "core/strings.h"
#include "io/lines.h"

namespace thimble::train {
namespace {

constexpr std::string_view kBom = "\xef\xbb\xbf";
constexpr std::string_view kSpaces = " \t\r\n";

bool is_space(char c) { return kSpaces.find(c) != std::string_view::npos; }
bool is_blank(std::string_view text) {
    return text.find_first_not_of(kSpaces) == std::string_view::npos;
}

// Where to cut a block so that the halves lose little: before a line, else before a space, else
// between two characters. More than 0 and less than all.
std::size_t cut_of(std::string_view block) {
    for (std::size_t at = block.size() - 1; at > block.size() / 2; --at) {
        if (block[at - 1] == '\n' && !is_space(block[at])) return at;
    }
    for (std::size_t at = block.size() - 1; at > block.size() / 2; --at) {
        if (is_space(block[at]) && !is_space(block[at - 1])) return at;
    }
    std::size_t at = block.size() - 1;
    while (at > block.size() - 4 && (static_cast<unsigned char>(block[at]) & 0xc0) == 0x80) --at;
    return at;
}

// Gathers lines, or parts of lines, into documents.
class TextReader {
  public:
    TextReader(const std::string& path, const RecordRules& rules,
               const std::function<void(const Record&)>& take)
        : path_(path),
          rules_(rules),
          take_(take),
          lines_(path),
          charge_(Tier::kRam, Purpose::kIo, 4 * rules.block_bytes) {}

    void read() {
        std::string part;
        for (bool begins = true; lines_.next_part(part, rules_.block_bytes);) {
            const bool ends = lines_.terminated() || part.size() < rules_.block_bytes;
            const bool whole = begins && ends;
            begins = lines_.terminated();
            std::uint64_t at = lines_.consumed_bytes() - part.size() - (begins ? 1 : 0);
            std::string_view text = part;
            if (at == 0 && text.starts_with(kBom)) {
                text.remove_prefix(kBom.size());
                at += kBom.size();
            }
            if (whole && divides(text)) {
                finish();
                continue;
            }
            if (block_.empty()) {
                place_.offset = at;
                place_.line = lines_.line_number();
            }
            block_ += text;
            if (lines_.terminated()) block_ += '\n';
            while (block_.size() > rules_.block_bytes)
                move_out(cut_of(std::string_view(block_).substr(0, rules_.block_bytes + 1)));
            if (rules_.split == TextSplit::kLines && lines_.terminated()) finish();
        }
        finish();
    }

  private:
    [[nodiscard]] bool divides(std::string_view line) const {
        if (rules_.split != TextSplit::kSeparator) return false;
        if (rules_.separator.empty()) return is_blank(line);
        if (line.ends_with('\r')) line.remove_suffix(1);
        return line == rules_.separator;
    }

    // The end of a document: its last line end is no part of it.
    void finish() {
        std::string_view text = block_;
        if (text.ends_with('\n')) text.remove_suffix(1);
        if (text.ends_with('\r')) text.remove_suffix(1);
        if (!text.empty()) move_out(text.size());
        give(true);
        block_.clear();
    }

    // The block's first `count` bytes. They wait until it is known whether more of their document
    // follows.
    void move_out(std::size_t count) {
        const std::string_view text = std::string_view(block_).substr(0, count);
        if (!is_utf8(text)) {
            throw Error(Exit::kBadData, where_in(path_, place_.line), "is not UTF-8 text",
                        "convert the file: iconv -t UTF-8");
        }
        if (!is_blank(text)) {
            const bool goes_on = !waiting_text_.empty();
            give(false);
            waiting_text_ = text;
            waiting_ = place_;
            waiting_.begins_document = !goes_on;
        }
        place_.line += std::count(text.begin(), text.end(), '\n');
        place_.offset += count;
        block_.erase(0, count);
    }

    void give(bool ends_document) {
        if (waiting_text_.empty()) return;
        waiting_.text = waiting_text_;
        waiting_.ends_document = ends_document;
        take_(waiting_);
        waiting_text_.clear();
    }

    const std::string& path_;
    const RecordRules& rules_;
    const std::function<void(const Record&)>& take_;
    LineReader lines_;
    std::string block_;  // of the document that is being read
    Record place_;       // of the block
    std::string waiting_text_;
    Record waiting_;
    Charge charge_;  // of the texts, which grow by doubling
};

void read_json_lines(const std::string& path, const std::function<void(const Record&)>& take) {
    LineReader lines(path);
    std::string line;
    while (lines.next(line)) {
        std::uint64_t at = lines.consumed_bytes() - line.size() - (lines.terminated() ? 1 : 0);
        std::string_view text = line;
        if (at == 0 && text.starts_with(kBom)) {
            text.remove_prefix(kBom.size());
            at += kBom.size();
        }
        if (!is_blank(text)) take({at, text, lines.line_number()});
    }
}

}  // namespace

std::string where_in(const std::string& path, std::int64_t line) {
    return escaped(path, 1024) + ":" + std::to_string(line);
}

DataForm data_form(const std::string& path) {
    const std::string name = to_lower(path);
    if (name.ends_with(".jsonl") || name.ends_with(".ndjson")) return DataForm::kJsonLines;
    static constexpr std::array<std::array<const char*, 2>, 7> kOthers = {{
        {".json", "make JSON lines of it: jq -c '.[]' IN > OUT.jsonl"},
        {".parquet", "write JSON lines from the program that reads it"},
        {".arrow", "write JSON lines from the program that reads it"},
        {".csv", "write JSON lines from the program that reads it"},
        {".gz", "unpack it first"},
        {".zst", "unpack it first"},
        {".bz2", "unpack it first"},
    }};
    for (const auto& [suffix, remedy] : kOthers) {
        if (name.ends_with(suffix)) {
            throw Error(Exit::kUsage, escaped(path, 1024), "is neither JSON lines nor plain text",
                        remedy);
        }
    }
    return DataForm::kText;
}

void for_each_record(const std::string& path, const RecordRules& rules,
                     const std::function<void(const Record&)>& take) {
    if (rules.form == DataForm::kJsonLines) return read_json_lines(path, take);
    TextReader(path, rules, take).read();
}

}  // namespace thimble::train
