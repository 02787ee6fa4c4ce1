// SPDX-License-Identifier: Apache-2.0
#include "eval/report_join.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "core/error.h"
#include "core/strings.h"
#include "eval/gate.h"

namespace thimble::eval {
namespace {

constexpr const char* kReportSchema = "thimble.report/1";

bool is_text(const Json* json, std::string_view value) {
    return json != nullptr && json->is_string() && json->as_string("") == value;
}

bool same_model(const Record& a, const Record& b) {
    const auto& x = a.model.adapters;
    const auto& y = b.model.adapters;
    return a.model.sha256 == b.model.sha256 && a.model.file == b.model.file &&
           std::equal(x.begin(), x.end(), y.begin(), y.end(), [](const auto& l, const auto& r) {
               return l.sha256 == r.sha256 && l.scale == r.scale;
           });
}

bool same_machine(const Settings& a, const Settings& b) {
    return a.activations == b.activations && a.device == b.device && a.isa == b.isa &&
           a.cpu == b.cpu && a.threads == b.threads;
}

bool only_speed(const Record& r) { return r.speed && r.tasks.empty() && !r.text; }

bool joins(const Record& a, const Record& b) {
    return same_model(a, b) && same_machine(a.settings, b.settings) &&
           ((only_speed(a) && !b.speed) || (only_speed(b) && !a.speed));
}

// Memory is that of the speed: nothing but the model was there.
void join(Record& to, Record from) {
    if (only_speed(to)) std::swap(to, from);
    to.speed = from.speed;
    to.peak = from.peak;
}

}  // namespace

void ReportJoin::add(const Json& json, const std::string& where) {
    if (is_text(json.find("schema"), kReportSchema) && is_text(json.find("tool"), "quantize")) {
        const auto number = [&](const char* key) {
            const Json* value = json.find(key);
            return value == nullptr ? std::numeric_limits<double>::quiet_NaN()
                                    : value->as_double(where + ": " + key);
        };
        const Json* output = json.find("output");
        if (output == nullptr) {
            throw Error(Exit::kBadData, where, "key 'output' is missing",
                        "is it the report of a --dry-run?");
        }
        const std::filesystem::path path = output->as_string(where + ": output");
        made_.push_back(
            {where, path.filename().string(), {number("seconds"), number("relative_rmse")}});
        return;
    }
    Record record = record_from_json(json, where);
    const auto found = std::find_if(records_.begin(), records_.end(),
                                    [&](const Record& r) { return joins(r, record); });
    if (found == records_.end()) {
        records_.push_back(std::move(record));
    } else {
        join(*found, std::move(record));
    }
}

std::vector<Record> ReportJoin::records() && {
    for (const Made& made : made_) {
        bool found = false;
        for (Record& record : records_) {
            if (record.model.file != made.file) continue;
            record.encoding = made.encoding;
            found = true;
        }
        if (!found) {
            throw Error(Exit::kBadData, made.where,
                        "no result is of the file that it made, '" + escaped(made.file) + "'");
        }
    }
    return std::move(records_);
}

void sort_records(std::vector<Record>& records, const std::string& figure,
                  const std::string& where) {
    std::vector<std::string> known;
    const auto value = [&](const Record& record) {
        for (const Figure& f : figures_of(record)) {
            if (f.name == figure && !std::isnan(f.value)) return f.value;
            known.push_back(f.name);
        }
        return std::numeric_limits<double>::infinity();
    };
    std::vector<std::pair<double, std::size_t>> order;
    for (const Record& record : records) order.emplace_back(value(record), order.size());
    if (std::ranges::none_of(order, [](const auto& o) { return std::isfinite(o.first); })) {
        throw Error(Exit::kUsage, where, "no result has a figure '" + escaped(figure) + "'",
                    did_you_mean(figure, known));
    }
    std::ranges::stable_sort(order);
    std::vector<Record> sorted;
    for (const auto& [unused, at] : order) sorted.push_back(std::move(records[at]));
    records = std::move(sorted);
}

}  // namespace thimble::eval
