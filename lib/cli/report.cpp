// SPDX-License-Identifier: Apache-2.0
#include "cli/report.h"

#include <cstdio>
#include <ctime>

#include "core/cpu.h"
#include "core/strings.h"

namespace thimble::cli {
namespace {

template <class Fn>
void each_tier(Fn&& fn) {
    for (int t = 0; t < kTiers; ++t) fn(static_cast<Tier>(t));
}
template <class Fn>
void each_purpose(Fn&& fn) {
    for (int p = 0; p < kPurposes; ++p) fn(static_cast<Purpose>(p));
}

std::uint64_t planned(const Plan& plan, Tier t, Purpose p) {
    return plan.bytes[static_cast<std::size_t>(t)][static_cast<std::size_t>(p)];
}

std::string row(std::string_view label, std::string_view a, std::string_view b) {
    char text[96];
    std::snprintf(text, sizeof(text), "  %-18.*s %12.*s %12.*s\n", static_cast<int>(label.size()),
                  label.data(), static_cast<int>(a.size()), a.data(), static_cast<int>(b.size()),
                  b.data());
    return text;
}

std::string label(Tier t, Purpose p) { return std::string(name(t)) + " " + std::string(name(p)); }

}  // namespace

std::string plan_text(const Plan& plan, const Budget& budget) {
    std::string out = row("plan", "predicted", "budget");
    each_tier([&](Tier t) {
        const auto& limit = budget.limit_bytes[static_cast<std::size_t>(t)];
        if (plan.total_bytes(t) == 0 && !limit) return;
        each_purpose([&](Purpose p) {
            const std::uint64_t bytes = planned(plan, t, p);
            if (bytes != 0) out += row(label(t, p), format_bytes(bytes), "");
        });
        out += row(std::string(name(t)) + " peak", format_bytes(plan.total_bytes(t)),
                   limit ? format_bytes(*limit) : "none");
    });
    if (plan.output_bytes != 0) out += row("output", format_bytes(plan.output_bytes), "");
    if (plan.seconds > 0) {
        char text[32];
        std::snprintf(text, sizeof(text), "%.1f s", plan.seconds);
        out += row("time", text, "");
    }
    if (!plan.time_basis.empty()) out += "  time from: " + plan.time_basis + "\n";
    for (const std::string& note : plan.notes) out += "  " + note + "\n";
    return out;
}

Json plan_json(const Plan& plan, const Budget& budget) {
    Json json = Json::object(), tiers = Json::object();
    each_tier([&](Tier t) {
        Json tier = Json::object(), parts = Json::object();
        each_purpose([&](Purpose p) {
            if (planned(plan, t, p) != 0) parts.set(std::string(name(p)), planned(plan, t, p));
        });
        const auto& limit = budget.limit_bytes[static_cast<std::size_t>(t)];
        tier.set("peak_bytes", plan.total_bytes(t));
        tier.set("by_purpose", parts);
        tier.set("budget_bytes", limit ? Json(*limit) : Json());
        tiers.set(std::string(name(t)), tier);
    });
    json.set("tiers", tiers);
    json.set("output_bytes", plan.output_bytes);
    json.set("seconds", plan.seconds > 0 ? Json(plan.seconds) : Json());
    json.set("time_basis", plan.time_basis);
    json.set("cheapest_change", plan.cheapest_change);
    Json notes = Json::array();
    for (const std::string& note : plan.notes) notes.push(note);
    json.set("notes", notes);
    return json;
}

Json measured_json() {
    const Ledger& ledger = Ledger::process();
    Json json = Json::object();
    json.set("peak_rss_bytes", process_memory().peak_resident_bytes);
    each_tier([&](Tier t) {
        if (ledger.peak_bytes(t) == 0) return;
        Json parts = Json::object();
        each_purpose([&](Purpose p) {
            if (ledger.peak_bytes(t, p) != 0)
                parts.set(std::string(name(p)), ledger.peak_bytes(t, p));
        });
        Json tier = Json::object();
        tier.set("peak_bytes", ledger.peak_bytes(t));
        tier.set("by_purpose", parts);
        json.set(std::string(name(t)), tier);
    });
    return json;
}

std::string memory_text(const Plan& plan) {
    const Ledger& ledger = Ledger::process();
    std::string out = row("memory", "predicted", "measured");
    each_tier([&](Tier t) {
        if (plan.total_bytes(t) == 0 && ledger.peak_bytes(t) == 0) return;
        each_purpose([&](Purpose p) {
            const std::uint64_t predicted = planned(plan, t, p), measured = ledger.peak_bytes(t, p);
            if (predicted != 0 || measured != 0)
                out += row(label(t, p), format_bytes(predicted), format_bytes(measured));
        });
        out += row(std::string(name(t)) + " ledger peak", format_bytes(plan.total_bytes(t)),
                   format_bytes(ledger.peak_bytes(t)));
    });
    out += row("ram VmHWM", format_bytes(plan.total_bytes(Tier::kRam)),
               format_bytes(process_memory().peak_resident_bytes));
    return out;
}

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm parts = {};
    gmtime_r(&now, &parts);
    char text[32];
    std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
}

Json machine_json() {
    Json json = Json::object();
    json.set("cpu", cpu_model_name());
    json.set("best_isa", name(best_isa()));
    json.set("memory_bytes", machine_memory_bytes());
    return json;
}

}  // namespace thimble::cli
