// SPDX-License-Identifier: Apache-2.0
#include "cost/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "core/cpu.h"
#include "core/error.h"
#include "ops/gradients.h"

namespace thimble::cost {
namespace {

constexpr std::string_view kSchema = "thimble.machine.v1";
constexpr std::size_t kMostRates = 4096;

struct RateField {
    const char* key;
    double RateAtThreads::*value;
};
constexpr std::array<RateField, 11> kRateFields = {{
    {"read_bytes_per_second", &RateAtThreads::read_bytes_per_second},
    {"copy_bytes_per_second", &RateAtThreads::copy_bytes_per_second},
    {"f32_ops_per_second", &RateAtThreads::f32_ops_per_second},
    {"i8_ops_per_second", &RateAtThreads::i8_ops_per_second},
    {"dense_f32_ops_per_second", &RateAtThreads::dense_f32_ops_per_second},
    {"dense_bf16_ops_per_second", &RateAtThreads::dense_bf16_ops_per_second},
    // Optional.
    {"attention_ops_per_second", &RateAtThreads::attention_ops_per_second},
    {"attention_bytes_per_second", &RateAtThreads::attention_bytes_per_second},
    {"attention_calls_per_second", &RateAtThreads::attention_calls_per_second},
    {"calls_per_second", &RateAtThreads::calls_per_second},
    {"elementwise_bytes_per_second", &RateAtThreads::elementwise_bytes_per_second},
}};
constexpr std::size_t kRequiredRates = 4;

struct LayoutField {
    const char* key;
    double LayoutRate::*value;
};
constexpr std::array<LayoutField, 4> kLayoutFields = {{
    {"wide_ops_per_second", &LayoutRate::wide_ops_per_second},
    {"narrow_ops_per_second", &LayoutRate::narrow_ops_per_second},
    {"wide_read_bytes_per_second", &LayoutRate::wide_read_bytes_per_second},
    {"narrow_read_bytes_per_second", &LayoutRate::narrow_read_bytes_per_second},
}};

const Json& member(const Json& json, const char* key, std::string_view where) {
    if (const Json* found = json.find(key)) return *found;
    throw Error(Exit::kBadData, std::string(where), std::string("key '") + key + "' is missing",
                "write a profile with run --probe FILE");
}

double rate(const Json& json, const char* key, std::string_view where) {
    const double value = member(json, key, where).as_double(std::string(where) + ": " + key);
    if (!(value > 0) || !std::isfinite(value)) {
        throw Error(Exit::kBadData, std::string(where) + ": " + key,
                    "expected a rate above 0, not " + json.find(key)->dump());
    }
    return value;
}

// Dense products as a server's core of 2023 makes them, by instruction set.
RateAtThreads built_in_rates(std::int64_t threads, double bytes_per_second, double ops_per_second) {
    const Isa isa = best_isa();
    const double dense = isa == Isa::kPortable ? 5e9 : isa == Isa::kAvx2 ? 4e10 : 8e10;
    const double bf16 = ops::has_bf16_products(isa) ? 2.2 * dense : dense;
    const auto n = static_cast<double>(threads);
    return {threads,   bytes_per_second, bytes_per_second, ops_per_second, 2 * ops_per_second,
            n * dense, n * bf16};
}

Json rate_json(const RateAtThreads& r) {
    Json out = Json::object();
    out.set("threads", r.threads);
    for (const RateField& f : kRateFields)
        if (r.*f.value > 0) out.set(f.key, std::round(r.*f.value));
    if (r.layouts.empty()) return out;
    Json layouts = Json::object();
    for (const LayoutRate& layout : r.layouts) {
        Json one = Json::object();
        for (const LayoutField& f : kLayoutFields) one.set(f.key, std::round(layout.*f.value));
        layouts.set(layout.layout, std::move(one));
    }
    out.set("layouts", std::move(layouts));
    return out;
}

RateAtThreads rate_from_json(const Json& json, std::string_view where) {
    RateAtThreads r;
    r.threads = member(json, "threads", where).as_int(std::string(where) + ": threads");
    for (std::size_t i = 0; i < kRateFields.size(); ++i) {
        const RateField& f = kRateFields[i];
        const bool dense = std::string_view(f.key).starts_with("dense");
        if (dense) r.*f.value = r.f32_ops_per_second;  // in older files
        if (i < kRequiredRates || json.find(f.key) != nullptr)
            r.*f.value = rate(json, f.key, where);
    }
    if (const Json* layouts = json.find("layouts")) {
        for (const auto& [name, one] : layouts->as_members(std::string(where) + ": layouts")) {
            LayoutRate& layout = r.layouts.emplace_back();
            layout.layout = name;
            for (const LayoutField& f : kLayoutFields) layout.*f.value = rate(one, f.key, where);
        }
    }
    return r;
}

}  // namespace

const LayoutRate* RateAtThreads::find(std::string_view layout) const noexcept {
    const auto found = std::find_if(layouts.begin(), layouts.end(),
                                    [&](const LayoutRate& rate) { return rate.layout == layout; });
    return found == layouts.end() ? nullptr : &*found;
}

RateAtThreads MachineProfile::at(std::int64_t threads) const {
    const auto above =
        std::lower_bound(rates.begin(), rates.end(), threads,
                         [](const RateAtThreads& r, std::int64_t t) { return r.threads < t; });
    RateAtThreads out = above == rates.end() ? rates.back() : *above;
    if (above != rates.end() && above != rates.begin()) {
        const RateAtThreads& low = *(above - 1);
        const double part = static_cast<double>(threads - low.threads) /
                            static_cast<double>(above->threads - low.threads);
        for (const RateField& f : kRateFields)
            out.*f.value = low.*f.value + part * ((*above).*f.value - low.*f.value);
    }
    out.threads = threads;
    return out;
}

const MachineProfile& built_in_profile() {
    // About half of what a laptop of 2018 reaches, so that predicted times are upper ends.
    static const MachineProfile profile = {
        "built-in",
        "any",
        "any",
        {built_in_rates(1, 8e9, 1.5e10), built_in_rates(2, 12e9, 3e10),
         built_in_rates(4, 16e9, 6e10)},
        2e8,
        1e8};
    return profile;
}

MachineProfile find_profile(const std::string& path) {
    std::string file = path;
    if (file.empty()) {
        const char* named = std::getenv("THIMBLE_MACHINE");
        if (named == nullptr || *named == '\0') return built_in_profile();
        file = named;
    }
    MachineProfile profile = profile_from_json(read_json_file(file), file);
    profile.name = file.substr(file.rfind('/') + 1);
    return profile;
}

Json to_json(const MachineProfile& profile) {
    Json rates = Json::array();
    for (const RateAtThreads& r : profile.rates) rates.push(rate_json(r));
    Json disk = Json::object();
    disk.set("read_bytes_per_second", std::round(profile.disk_read_bytes_per_second));
    disk.set("write_bytes_per_second", std::round(profile.disk_write_bytes_per_second));
    Json out = Json::object();
    out.set("schema", kSchema);
    out.set("cpu", profile.cpu);
    out.set("isa", profile.isa);
    out.set("rates", std::move(rates));
    out.set("disk", std::move(disk));
    return out;
}

MachineProfile profile_from_json(const Json& json, std::string_view where) {
    const Json* schema = json.find("schema");
    if (schema == nullptr || !schema->is_string() || schema->as_string(where) != kSchema) {
        throw Error(Exit::kBadData, std::string(where), "is not a machine profile",
                    "write one with run --probe FILE");
    }
    MachineProfile profile;
    profile.name = where;
    profile.cpu = member(json, "cpu", where).as_string(where);
    profile.isa = member(json, "isa", where).as_string(where);
    const JsonArray& rates = member(json, "rates", where).as_array(std::string(where) + ": rates");
    if (rates.empty() || rates.size() > kMostRates) {
        throw Error(Exit::kBadData, std::string(where) + ": rates",
                    "expected 1 to " + std::to_string(kMostRates) + " entries");
    }
    for (const Json& entry : rates) {
        RateAtThreads r = rate_from_json(entry, where);
        if (r.threads <= (profile.rates.empty() ? 0 : profile.rates.back().threads)) {
            throw Error(Exit::kBadData, std::string(where) + ": threads",
                        "expected positive counts in ascending order");
        }
        profile.rates.push_back(std::move(r));
    }
    const Json& disk = member(json, "disk", where);
    profile.disk_read_bytes_per_second = rate(disk, "read_bytes_per_second", where);
    profile.disk_write_bytes_per_second = rate(disk, "write_bytes_per_second", where);
    return profile;
}

std::string describe(const MachineProfile& profile) {
    std::string out = profile.cpu + ", " + profile.isa + "\n";
    std::array<char, 224> line{};
    for (const RateAtThreads& r : profile.rates) {
        std::snprintf(
            line.data(), line.size(),
            "threads %2lld   read %6.1f GB/s   copy %6.1f GB/s   matmul f32 %7.1f Gop/s   "
            "i8 %7.1f Gop/s   dense f32 %7.1f Gop/s   bf16 %7.1f Gop/s\n",
            static_cast<long long>(r.threads), r.read_bytes_per_second / 1e9,
            r.copy_bytes_per_second / 1e9, r.f32_ops_per_second / 1e9, r.i8_ops_per_second / 1e9,
            r.dense_f32_ops_per_second / 1e9, r.dense_bf16_ops_per_second / 1e9);
        out += line.data();
    }
    std::snprintf(line.data(), line.size(), "disk         read %6.2f GB/s   write %5.2f GB/s\n",
                  profile.disk_read_bytes_per_second / 1e9,
                  profile.disk_write_bytes_per_second / 1e9);
    return out + line.data();
}

}  // namespace thimble::cost
