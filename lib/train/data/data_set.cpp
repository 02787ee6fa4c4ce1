// SPDX-License-Identifier: Apache-2.0
#include "train/data/data_set.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/ledger.h"
#include "io/sha256.h"
#include "train/data/order.h"

namespace thimble::train {
namespace {

// A line of JSON is one record: more values than that are no conversation.
constexpr JsonLimits kLimits = {
    .max_bytes = std::size_t{16} << 20, .max_depth = 16, .max_values = std::size_t{1} << 18};
// A record while it is read: its text, the same as JSON, and a token of five bytes at most a byte.
constexpr std::uint64_t kBytesPerByte = 8;
constexpr std::int64_t kBlockBytesPerToken = 16;  // a block of a long text fills about four rows

DataForm form_of(const DataOptions& options, const std::string& path) {
    if (options.format == "auto") return data_form(path);
    return options.format == "jsonl" ? DataForm::kJsonLines : DataForm::kText;
}

RecordRules rules_of(const DataOptions& options, DataForm form) {
    RecordRules rules;
    rules.form = form;
    rules.separator = options.document_separator;
    if (!rules.separator.empty() || options.text_split == "paragraph")
        rules.split = TextSplit::kSeparator;
    if (options.text_split == "line") rules.split = TextSplit::kLines;
    const std::int64_t block = kBlockBytesPerToken * options.context_tokens;
    rules.block_bytes = std::clamp<std::size_t>(static_cast<std::size_t>(block), rules.block_bytes,
                                                std::size_t{16} << 20);
    return rules;
}

std::string expanded(const std::string& path, const char* file) {
    return std::filesystem::is_directory(path) ? path + "/" + file : path;
}

}  // namespace

std::pmr::memory_resource& data_memory() noexcept {
    static CountingResource memory(Purpose::kIo);
    return memory;
}

DataSet::DataSet(const DataOptions& options, std::span<const std::string> paths,
                 const Tokenizer& tokenizer)
    : source_(std::make_shared<Source>(Source{
          .files = {}, .open = {}, .forms = {}, .encoder = SampleEncoder(options, tokenizer)})) {
    if (paths.size() > std::numeric_limits<std::uint16_t>::max())
        throw Error(Exit::kUsage, "--data", "names more than 65535 files");
    for (const std::string& path : paths) add_file(options, path);
    count();
}

void DataSet::add_file(const DataOptions& options, const std::string& path) {
    const DataForm form = form_of(options, path);
    Source& source = *source_;
    source.open.emplace_back(path);
    source.files.push_back({.path = path,
                            .sha256 = sha256_of_file(path),
                            .bytes = source.open.back().bytes(),
                            .form = "plain text"});
    source.forms.emplace_back();
    const std::size_t before = items_.size();
    for_each_record(path, rules_of(options, form),
                    [&](const Record& record) { add_record(options, form, record); });
    if (items_.size() == before) {
        throw Error(Exit::kBadData, escaped(path, 1024), "has no samples to learn from",
                    counts_.dropped > 0 ? "a larger --ctx-size keeps long ones" : "");
    }
}

void DataSet::add_record(const DataOptions& options, DataForm form, const Record& record) {
    Source& source = *source_;
    const std::size_t file = source.files.size() - 1;
    const std::string where = where_in(source.files[file].path, record.line);
    const Charge charge(Tier::kRam, Purpose::kIo, kBytesPerByte * record.text.size());
    TrainingSample sample;
    if (form == DataForm::kText) {
        sample = source.encoder.encode_text(record.text, record.ends_document);
    } else {
        const Json json = parse_json(record.text, where, kLimits);
        const SampleForm found = sample_form(json, where);
        std::optional<SampleForm>& known = source.forms[file];
        if (known && *known != found) {
            throw Error(Exit::kBadData, where,
                        "is a record of " + std::string(name(found)) + " in a file of " +
                            std::string(name(*known)),
                        "give each form a file of its own");
        }
        known = found;
        source.files[file].form = name(found);
        sample = source.encoder.encode(json, found, where);
    }
    ++source.files[file].records;
    source.largest_record_bytes = std::max(source.largest_record_bytes, record.text.size());
    add_pieces(options, record, sample);
}

void DataSet::add_pieces(const DataOptions& options, const Record& record,
                         const TrainingSample& sample) {
    const std::size_t file = source_->files.size() - 1;
    const auto row = static_cast<std::size_t>(options.context_tokens);
    const bool whole = record.begins_document && record.ends_document;
    const bool truncate = options.too_long == "truncate";
    if (sample.tokens.size() > row || !whole) {
        if (options.too_long == "error") {
            throw Error(Exit::kBadData, where_in(source_->files[file].path, record.line),
                        "has " + std::to_string(sample.tokens.size()) +
                            (record.ends_document ? "" : " or more") + " tokens, a row has " +
                            std::to_string(row),
                        "a larger --ctx-size, or --long split, truncate or drop");
        }
        const bool drop = options.too_long == "drop";
        if (record.begins_document)
            ++(drop ? counts_.dropped : truncate ? counts_.truncated : counts_.split);
        if (drop || (truncate && !record.begins_document)) return;
    }
    Item item;
    item.offset = record.offset;
    item.bytes = static_cast<std::uint32_t>(record.text.size());
    item.line = static_cast<std::uint32_t>(std::min<std::int64_t>(record.line, UINT32_MAX));
    item.file = static_cast<std::uint16_t>(file);
    item.ends_document = record.ends_document;
    item.first = true;
    for (std::size_t begin = 0; begin < sample.tokens.size();) {
        const TrainingSample part = source_->piece(sample, begin, row);
        item.begin = static_cast<std::uint32_t>(begin);
        item.tokens = static_cast<std::uint32_t>(part.tokens.size());
        item.targets = static_cast<std::uint32_t>(part.targets());
        if (item.targets > 0) {
            items_.push_back(item);
            item.first = false;
        } else {
            ++counts_.without_targets;
        }
        if (truncate) break;
        begin += part.tokens.size() - source_->marks(sample, begin);
    }
}

// Tokens put before the piece that begins there.
std::size_t DataSet::Source::marks(const TrainingSample& sample, std::size_t begin) const {
    return begin > 0 && encoder.bos() >= 0 && sample.tokens[0] == encoder.bos() ? 1 : 0;
}

TrainingSample DataSet::Source::piece(const TrainingSample& sample, std::size_t begin,
                                      std::size_t most) const {
    TrainingSample part;
    const std::size_t before = marks(sample, begin);
    part.tokens.assign(before, encoder.bos());
    part.is_target.assign(before, 0);
    const std::size_t count = std::min(most - before, sample.tokens.size() - begin);
    const auto from = static_cast<std::ptrdiff_t>(begin);
    const auto to = static_cast<std::ptrdiff_t>(begin + count);
    part.tokens.insert(part.tokens.end(), sample.tokens.begin() + from, sample.tokens.begin() + to);
    part.is_target.insert(part.is_target.end(), sample.is_target.begin() + from,
                          sample.is_target.begin() + to);
    return part;
}

void DataSet::count() {
    counts_.records = counts_.tokens = counts_.targets = 0;
    counts_.samples = std::ssize(items_);
    for (const Item& item : items_) {
        counts_.records += item.first ? 1 : 0;
        counts_.tokens += item.tokens;
        counts_.targets += item.targets;
    }
}

TrainingSample DataSet::read(std::int64_t sample) const {
    const Item& item = items_[static_cast<std::size_t>(sample)];
    const Source& source = *source_;
    const DataFile& file = source.files[item.file];
    const std::string where = where_in(file.path, item.line);
    const Charge charge(Tier::kRam, Purpose::kIo, kBytesPerByte * item.bytes);
    std::string text(item.bytes, '\0');
    source.open[item.file].check_unchanged();
    source.open[item.file].read(item.offset, std::as_writable_bytes(std::span(text)));
    const std::optional<SampleForm> form = source.forms[item.file];
    const TrainingSample whole =
        form ? source.encoder.encode(parse_json(text, where, kLimits), *form, where)
             : source.encoder.encode_text(text, item.ends_document);
    if (item.begin < whole.tokens.size()) {
        TrainingSample part = source.piece(whole, item.begin, item.tokens);
        if (part.tokens.size() == item.tokens && part.targets() == item.targets) return part;
    }
    throw Error(Exit::kBadData, where, "has changed since it was read first");
}

DataSet DataSet::split_off(double fraction, std::uint64_t seed) {
    const std::int64_t records = counts_.records;
    if (records < 2) {
        throw Error(Exit::kUsage, "--validation-split", "one record cannot be divided",
                    "name samples with --validation");
    }
    const auto wanted = static_cast<std::int64_t>(std::llround(fraction * double(records)));
    const auto taken = static_cast<std::size_t>(std::clamp<std::int64_t>(wanted, 1, records - 1));
    std::pmr::vector<std::uint32_t> order(static_cast<std::size_t>(records), &data_memory());
    std::iota(order.begin(), order.end(), 0u);
    shuffle(std::span(order), seed, OrderOf::kValidation, 0);
    order.resize(taken);
    std::sort(order.begin(), order.end());
    DataSet out;
    out.source_ = source_;
    std::pmr::deque<Item> kept(&data_memory());
    std::uint32_t record = 0;
    for (bool take = false; !items_.empty(); items_.pop_front()) {
        const Item& item = items_.front();
        if (item.first) take = std::binary_search(order.begin(), order.end(), record++);
        (take ? out.items_ : kept).push_back(item);
    }
    items_.swap(kept);
    count();
    out.count();
    return out;
}

std::uint64_t DataSet::most_bytes() const noexcept {
    // A deque's blocks and its list of them, which grows by doubling.
    return static_cast<std::uint64_t>(size()) * (sizeof(Item) + 4) + 4096;
}

std::uint64_t DataSet::reading_bytes() const noexcept {
    return kBytesPerByte * source_->largest_record_bytes;
}

TrainingData open_training_data(const DataOptions& options, const Tokenizer& tokenizer,
                                std::uint64_t seed) {
    options.check();
    std::vector<std::string> train, validation;
    for (const std::string& path : options.train) {
        train.push_back(expanded(path, "train.jsonl"));
        const std::string beside = expanded(path, "valid.jsonl");
        if (beside != path && options.validation.empty() && options.validation_split == 0 &&
            std::filesystem::exists(beside))
            validation.push_back(beside);
    }
    for (const std::string& path : options.validation)
        validation.push_back(expanded(path, "valid.jsonl"));
    TrainingData data{DataSet(options, train, tokenizer), {}};
    if (!validation.empty()) data.validation.emplace(DataSet(options, validation, tokenizer));
    if (options.validation_split > 0)
        data.validation.emplace(data.train.split_off(options.validation_split, seed));
    return data;
}

}  // namespace thimble::train
