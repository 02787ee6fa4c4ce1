// SPDX-License-Identifier: Apache-2.0
#include "profile.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>

#include "cli/console.h"
#include "cost/kernel_profile.h"
#include "cost/probe.h"
#include "eval/report.h"

namespace thimble::run {
namespace {

std::string number(double value, const char* format) {
    std::array<char, 128> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

double per(double amount, double of) { return of > 0 ? amount / of : 0; }

// What one layout of the model's weights costs to unpack.
struct Unpacking {
    OpClock::Weights weights;
    cost::UnpackCost cost;
};

bool same_layout(const OpClock::Weights& a, const OpClock::Weights& b) {
    return a.layout == b.layout && a.params == b.params && a.coded == b.coded;
}

std::vector<Unpacking> measure_unpacking(Runner& runner, const OpClock& clock) {
    std::vector<OpClock::Weights> wanted;
    for (const auto phase : {OpClock::Phase::kPrompt, OpClock::Phase::kDecode}) {
        for (const OpClock::Row& row : clock.total(phase).rows)
            wanted.insert(wanted.end(), row.weights.begin(), row.weights.end());
    }
    std::vector<Unpacking> out;
    if (wanted.empty() || runner.exec().device != Device::kCpu) return out;
    runner.each_matrix([&](const PackedView& matrix) {
        const OpClock::Weights weights{matrix.layout, matrix.params, matrix.coded != nullptr, 0, 0};
        const auto is_this = [&](const auto& w) { return same_layout(w, weights); };
        if (std::none_of(wanted.begin(), wanted.end(), is_this)) return true;
        out.push_back({weights, cost::unpack_cost(runner.exec(), matrix)});
        std::erase_if(wanted, is_this);
        return !wanted.empty();
    });
    return out;
}

// One phase's figures, as text and JSON.
class PhaseReport {
  public:
    PhaseReport(const OpClock::Total& total, double read_limit, int threads,
                std::span<const Unpacking> unpacking)
        : total_(total), limit_(read_limit), threads_(threads), unpacking_(unpacking) {
        tokens_ = static_cast<double>(std::max<std::int64_t>(total.tokens, 1));
        for (const OpClock::Row& row : total.rows) order_.push_back(&row);
        std::stable_sort(order_.begin(), order_.end(),
                         [](const auto* a, const auto* b) { return a->seconds > b->seconds; });
    }

    // Of a row's products with one token each; weights of unknown cost cost nothing.
    [[nodiscard]] double unpacking_seconds(const OpClock::Row& row) const {
        double seconds = 0;
        for (const OpClock::Weights& w : row.weights) {
            const auto found =
                std::find_if(unpacking_.begin(), unpacking_.end(),
                             [&](const Unpacking& u) { return same_layout(u.weights, w); });
            if (found == unpacking_.end()) continue;
            seconds += static_cast<double>(w.rows * row.cols * row.calls) *
                       found->cost.seconds_of_unpacking() / threads_;
        }
        return std::min(seconds, row.seconds);
    }

    [[nodiscard]] std::string text(const std::string& title, bool single_tokens) const {
        std::vector<std::vector<std::string>> table = {
            {"operation", "calls", "us", "share", "waiting us", "MB", "GB/s", "of limit"}};
        if (single_tokens) table.front().emplace_back("unpacking us");
        std::uint64_t bytes = 0;
        for (const OpClock::Row* row : order_) {
            table.push_back(cells(row->name(), row->calls, row->seconds, row->waiting, row->bytes));
            if (single_tokens)
                table.back().push_back(
                    row->weights.empty() ? "" : microseconds(unpacking_seconds(*row)));
            bytes += row->bytes;
        }
        table.push_back(cells("other", 0, total_.other_seconds(), 0, 0));
        table.push_back(cells("all", 0, total_.seconds, total_.waits.seconds, bytes));
        if (single_tokens) {
            table[table.size() - 2].emplace_back();
            table.back().push_back(microseconds(all_unpacking()));
        }
        return title + ", " + std::to_string(total_.tokens) + " tokens; of each token:\n" +
               eval::text_table(table) + "barriers: " +
               number(static_cast<double>(total_.waits.count) / tokens_, "%.1f per token, ") +
               number(total_.waits.seconds / tokens_ * 1e6, "%.1f us of waiting (") +
               number(100 * per(total_.waits.seconds, total_.seconds),
                      "%.1f %%), part of the rows\n");
    }

    [[nodiscard]] Json json(bool single_tokens) const {
        Json rows = Json::array();
        for (const OpClock::Row* row : order_) {
            Json one = Json::object();
            one.set("operation", row->name());
            one.set("calls", row->calls);
            one.set("seconds", row->seconds);
            one.set("share", per(row->seconds, total_.seconds));
            one.set("waiting_seconds", row->waiting);
            one.set("bytes", row->bytes);
            const double rate = per(static_cast<double>(row->bytes), row->seconds);
            one.set("bytes_per_second", rate);
            one.set("of_read_limit", per(rate, limit_));
            if (!row->weights.empty()) {
                one.set("weights", row->weights_per_call());
                if (single_tokens) one.set("dequantisation_seconds", unpacking_seconds(*row));
            }
            rows.push(std::move(one));
        }
        Json barriers = Json::object();
        barriers.set("count", total_.waits.count);
        barriers.set("seconds", total_.waits.seconds);
        barriers.set("per_token", static_cast<double>(total_.waits.count) / tokens_);
        barriers.set("seconds_per_token", total_.waits.seconds / tokens_);
        Json out = Json::object();
        out.set("tokens", total_.tokens);
        out.set("seconds", total_.seconds);
        out.set("seconds_per_token", total_.seconds / tokens_);
        out.set("operations", std::move(rows));
        out.set("other_seconds", total_.other_seconds());
        out.set("barriers", std::move(barriers));
        if (single_tokens) {
            out.set("dequantisation_seconds", all_unpacking());
            out.set("dequantisation_share", per(all_unpacking(), total_.seconds));
        }
        return out;
    }

    [[nodiscard]] double all_unpacking() const {
        double seconds = 0;
        for (const OpClock::Row* row : order_) seconds += unpacking_seconds(*row);
        return seconds;
    }

  private:
    [[nodiscard]] std::string microseconds(double seconds) const {
        return number(seconds / tokens_ * 1e6, "%.1f");
    }
    [[nodiscard]] std::vector<std::string> cells(const std::string& name, std::int64_t calls,
                                                 double seconds, double waiting,
                                                 std::uint64_t bytes) const {
        const double rate = per(static_cast<double>(bytes), seconds);
        const bool reads = bytes > 0;
        return {name,
                calls > 0 ? number(static_cast<double>(calls) / tokens_, "%.4g") : "",
                microseconds(seconds),
                number(100 * per(seconds, total_.seconds), "%.1f %%"),
                waiting > 0 ? microseconds(waiting) : "",
                reads ? number(static_cast<double>(bytes) / tokens_ / 1e6, "%.3f") : "",
                reads ? number(rate / 1e9, "%.2f") : "",
                reads ? number(100 * per(rate, limit_), "%.0f %%") : ""};
    }

    const OpClock::Total& total_;
    double limit_, tokens_ = 1;
    int threads_;
    std::span<const Unpacking> unpacking_;
    std::vector<const OpClock::Row*> order_;
};

std::string unpacking_text(std::span<const Unpacking> unpacking) {
    std::string out;
    for (const Unpacking& u : unpacking) {
        const cost::UnpackCost& c = u.cost;
        out += "dequantisation of " + OpClock::name_of(u.weights) + ": " +
               number(100 * c.share(), "%.0f %% of the kernel's time in cache, ") +
               number(c.seconds_per_weight * 1e9, "%.4f ns a weight and thread");
        out += c.plain.empty()
                   ? "; its codes are multiplied as they are\n"
                   : ", " + c.plain + number(c.plain_seconds_per_weight * 1e9, " %.4f ns\n");
    }
    return out;
}

Json unpacking_json(std::span<const Unpacking> unpacking) {
    Json list = Json::array();
    for (const Unpacking& u : unpacking) {
        Json one = Json::object();
        one.set("weights", OpClock::name_of(u.weights));
        one.set("share", u.cost.share());
        one.set("seconds_per_weight", u.cost.seconds_per_weight);
        one.set("plain", u.cost.plain);
        one.set("plain_seconds_per_weight", u.cost.plain_seconds_per_weight);
        list.push(std::move(one));
    }
    return list;
}

}  // namespace

StepProfile::StepProfile(Runner& runner, Team& team) : runner_(runner), team_(team), clock_(team) {
    runner_.set_clock(&clock_);
}

StepProfile::~StepProfile() { runner_.set_clock(nullptr); }

void StepProfile::finish(cli::Context& context) {
    runner_.set_clock(nullptr);
    double limit = 0;
    {
        Buffer memory(kMemoryBytes, Purpose::kOther);
        std::memset(memory.data(), 1, memory.bytes());
        limit = cost::read_bandwidth(team_, memory, 5);
    }
    const std::vector<Unpacking> unpacking = measure_unpacking(runner_, clock_);
    const auto report = [&](OpClock::Phase phase) {
        return PhaseReport(clock_.total(phase), limit, team_.threads(), unpacking);
    };
    const PhaseReport prompt = report(OpClock::Phase::kPrompt);
    const PhaseReport decode = report(OpClock::Phase::kDecode);
    Json json = Json::object();
    json.set("threads", team_.threads());
    json.set("read_bytes_per_second", limit);
    json.set("prompt", prompt.json(false));
    json.set("decode", decode.json(true));
    json.set("dequantisation", unpacking_json(unpacking));
    context.report.set("profile", std::move(json));
    if (context.console.quiet()) return;
    context.console.err("profile: memory is read at " + number(limit / 1e9, "%.2f GB/s") + " by " +
                        std::to_string(team_.threads()) + " threads\n" +
                        prompt.text("prompt", false) + decode.text("decoding", true) +
                        unpacking_text(unpacking));
}

}  // namespace thimble::run
