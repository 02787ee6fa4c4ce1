// SPDX-License-Identifier: Apache-2.0
#include "size_control.h"

#include "core/error.h"
#include "core/log.h"
#include "core/strings.h"
#include "model/stacked_store.h"

namespace thimble::run {
namespace {

constexpr std::string_view kCommand = "/memory";

StorePlan plan_of(const Runner& runner, std::uint64_t weight_bytes) {
    return plan_stacked_store(runner.source(), runner.exec(), {.most_bytes = weight_bytes});
}

}  // namespace

bool SizeControl::take(std::string_view line) {
    if (!line.starts_with(kCommand)) return false;
    line.remove_prefix(kCommand.size());
    if (!line.empty() && line.front() != ' ') return false;
    while (line.starts_with(' ')) line.remove_prefix(1);
    try {
        if (runner_.stacked() == nullptr) {
            throw Error(Exit::kUsage, "/memory", "this model has one size",
                        "compress --method bitstack makes one of any size");
        }
        if (!line.empty()) resize(parse_bytes(line, "/memory"));
        const Json now = state();
        log_info(
            "/memory: " + now.find("blocks")->dump() + " of " + now.find("all_blocks")->dump() +
            " blocks, " +
            format_bytes(static_cast<std::uint64_t>(now.find("peak_bytes")->as_int("peak_bytes"))) +
            " in all");
    } catch (const Error& e) {
        log_warning(e.what());
    }
    return true;
}

void SizeControl::resize(std::uint64_t bytes) {
    if (bytes > limits_.most_bytes) {
        throw Error(Exit::kUsage, "/memory",
                    "--max-memory allows " + format_bytes(limits_.most_bytes) + " at most");
    }
    const std::uint64_t least = plan_of(runner_, 0).resident_bytes + limits_.other_bytes;
    if (bytes < least) {
        throw Error(Exit::kOverBudget, "/memory",
                    "the least that this model runs in is " + format_bytes(least));
    }
    runner_.stacked()->resize(bytes - limits_.other_bytes);
}

Json SizeControl::state() const {
    Json out;
    StackedStore* store = runner_.stacked();
    if (store == nullptr) return out;
    out = Json::object();
    out.set("blocks", store->blocks());
    out.set("all_blocks", std::ssize(store->order().order));
    out.set("peak_bytes", store->held_bytes() + limits_.other_bytes);
    return out;
}

}  // namespace thimble::run
