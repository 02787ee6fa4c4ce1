// SPDX-License-Identifier: Apache-2.0
#include "profile.h"

#include <array>
#include <cstdio>

#include "cli/report.h"
#include "core/cpu.h"
#include "core/error.h"
#include "eval/report.h"
#include "io/atomic_file.h"

namespace thimble::evaluate {
namespace {

std::string number(double value, const char* format) {
    std::array<char, 64> text{};
    std::snprintf(text.data(), text.size(), format, value);
    return text.data();
}

Json json_of(const cost::KernelProfile& one, double weights) {
    Json out = Json::object(), also = Json::array();
    for (const std::string& name : one.also) also.push(name);
    out.set("format", one.format);
    out.set("also", std::move(also));
    if (!one.skipped.empty()) {
        out.set("skipped", one.skipped);
        return out;
    }
    out.set("layout", one.layout);
    out.set("activations", one.activations);
    out.set("bytes_per_weight", one.bytes_per_weight);
    out.set("seconds", one.seconds);
    out.set("bytes_per_second", one.bytes_per_second(weights));
    out.set("waiting_seconds", one.waiting_seconds);
    out.set("read_seconds", one.read_seconds);
    out.set("of_read_limit", one.read_seconds / one.seconds);
    out.set("near_seconds", one.near_seconds);
    out.set("near_seconds_per_weight", one.unpack.seconds_per_weight);
    out.set("plain", one.unpack.plain);
    out.set("plain_seconds_per_weight", one.unpack.plain_seconds_per_weight);
    out.set("dequantisation_share", one.unpack.share());
    out.set("binds", one.binds());
    out.set("prompt_ops_per_second", one.prompt_ops_per_second);
    return out;
}

std::vector<std::string> cells_of(const cost::KernelProfile& one, double weights) {
    return {one.format,
            one.activations,
            number(8 * one.bytes_per_weight, "%.3f"),
            number(one.seconds * 1e6, "%.0f"),
            number(one.bytes_per_second(weights) / 1e9, "%.2f"),
            number(100 * one.read_seconds / one.seconds, "%.0f %%"),
            number(one.waiting_seconds * 1e6, "%.0f"),
            number(one.near_seconds * 1e6, "%.0f"),
            number(100 * one.unpack.share(), "%.0f %%"),
            std::string(one.binds()),
            number(one.prompt_ops_per_second / 1e9, "%.1f")};
}

std::string title(const ProfileOptions& options, const cli::Context& context, double limit) {
    return "a product of one token with a matrix of " + std::to_string(options.kernels.rows) + "x" +
           std::to_string(options.kernels.cols) + ", " + std::to_string(context.team.threads()) +
           " threads, " + std::string(name(context.isa)) + "; prompts of " +
           std::to_string(cost::kPromptTokens) + " tokens; memory is read at " +
           number(limit / 1e9, "%.2f GB/s\n");
}

}  // namespace

void ProfileOptions::visit(OptionVisitor& v) {
    v.group("Profile of weight formats");
    kernels.visit(v);
    v.option({.name = "activations",
              .help = "how quantised weights read their input, as run has it",
              .choices = activation_names()},
             activations);
    v.option({.name = "output",
              .letter = 'o',
              .help = "write the figures as JSON",
              .value = "FILE",
              .changes_output = false,
              .is_output = true},
             output);
}

Plan plan_profile(const ProfileOptions& options) {
    Plan plan;
    cost::add_kernel_profile_to_plan(plan, options.kernels);
    return plan;
}

void run_profile(const ProfileOptions& options, cli::Context& context) {
    if (context.device != Device::kCpu) {
        throw Error(Exit::kUsage, "--profile", "times the CPU's kernels",
                    "leave out --device or give cpu");
    }
    if (!options.output.empty()) check_can_create(options.output);
    Exec exec;
    exec.isa = context.isa, exec.team = &context.team;
    exec.activations = activations_named(options.activations);
    const auto profiles = cost::profile_kernels(
        exec, options.kernels, [&](std::string_view format, auto done, auto total) {
            context.progress(format, done, total);
            return !context.interrupted();
        });
    const double weights =
        static_cast<double>(options.kernels.rows) * static_cast<double>(options.kernels.cols);
    std::vector<std::vector<std::string>> table = {{"format", "input", "bits", "us", "GB/s",
                                                    "of limit", "waiting us", "us in cache",
                                                    "unpacking", "bound by", "prompt Gop/s"}};
    Json list = Json::array();
    std::string notes;
    for (const cost::KernelProfile& one : profiles.formats) {
        if (one.skipped.empty() && one.seconds == 0) continue;  // interrupted before it
        list.push(json_of(one, weights));
        if (one.skipped.empty()) {
            table.push_back(cells_of(one, weights));
        } else {
            notes += "left out: " + one.format + ": " + one.skipped + "\n";
        }
        for (const std::string& other : one.also) notes += other + " is " + one.format + "\n";
    }
    Json out = Json::object();
    out.set("schema", "thimble.kernels.v1");
    out.set("machine", cli::machine_json());
    out.set("isa", name(context.isa));
    out.set("threads", context.team.threads());
    out.set("rows", options.kernels.rows);
    out.set("cols", options.kernels.cols);
    out.set("prompt_tokens", cost::kPromptTokens);
    out.set("read_bytes_per_second", profiles.read_bytes_per_second);
    out.set("formats", std::move(list));
    if (!options.output.empty())
        write_text_file(options.output, out.dump(2) + "\n", IfExists::kReplace);
    context.report.set("profile", std::move(out));
    if (!context.stdout_is_json())
        context.print(title(options, context, profiles.read_bytes_per_second) +
                      eval::text_table(table) + notes);
}

}  // namespace thimble::evaluate
