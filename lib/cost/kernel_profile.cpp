// SPDX-License-Identifier: Apache-2.0
#include "cost/kernel_profile.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "cost/probe.h"
#include "cost/probe_matrix.h"
#include "cost/timing.h"

namespace thimble::cost {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::int64_t kNearWeights = 1 << 16;  // as floats they fit a core's second cache
constexpr double kFarSecondsPerByte = 2e-9;  // for products from memory: several times reading it
constexpr std::int64_t kPromptRows = 1024;
constexpr std::int64_t kProbeRepeats = 3;
constexpr double kBoundByMemory = 1.2;

// Of one product with one token by one thread, over and over.
double near_seconds_of(const Exec& like, const PackedView& weight) {
    Team alone(1);
    Exec exec = like;
    exec.team = &alone, exec.clock = nullptr;
    const ProbeInput probe(exec, weight.shape, 1);
    ops::MatmulInput input(probe.exec(), probe.x());
    const ops::Matmul product = {weight, probe.y(), {}, false};
    return least_seconds([&] { ops::matmul(probe.exec(), input, product); });
}

double weights_of(Shape2 shape) {
    return static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
}

// Products one after the other, as a model has them, over so many matrices that no cache holds
// them.
struct FarSeconds {
    double all = 0, waiting = 0;
};
FarSeconds far_seconds_of(const Exec& exec, const ProbeMatrix& matrix, std::int64_t rows) {
    const ProbeInput probe(exec, {rows, matrix.view.shape.cols}, 1);
    const double most = kFarSecondsPerByte * static_cast<double>(matrix.view.bytes());
    std::vector<FarSeconds> seconds;
    double sum = 0;
    std::int64_t first = 0;
    constexpr std::size_t kLeastProducts = 5;
    while (sum < most || seconds.size() < kLeastProducts) {
        const PackedView piece = matrix.view.slice_rows({first, rows});
        TeamWaits waits;
        exec.team->time_waits(&waits);
        const double all = seconds_of([&] {
            ops::MatmulInput input(probe.exec(), probe.x());
            ops::matmul(probe.exec(), input, {piece, probe.y(), {}, false});
        });
        exec.team->time_waits(nullptr);
        seconds.push_back({all, waits.seconds});
        sum += all;
        first = (first + rows) % matrix.view.shape.rows;
    }
    const auto tenth = seconds.begin() + std::ssize(seconds) / 10;
    std::nth_element(seconds.begin(), tenth, seconds.end(),
                     [](const FarSeconds& a, const FarSeconds& b) { return a.all < b.all; });
    return *tenth;
}

// Rows of a matrix, so that there are `bytes` of them in memory, whole matrices all.
std::int64_t far_rows(const WeightFormat& format, const KernelProfileOptions& options,
                      std::size_t bytes) {
    const Shape2 some = {ops::kRepackRows, options.cols};
    const PackedForm form = form_of(format, some);
    std::size_t part = form.bytes(some.rows);
    if (const auto layout = ops::resident_layout(form.layout, form.params))
        part = ops::packed_bytes(*layout, some, form.params);
    const auto parts = static_cast<std::int64_t>(bytes / part);
    return std::max<std::int64_t>(parts * some.rows / options.rows, 1) * options.rows;
}

// Each format once, by the first of its names.
std::vector<KernelProfile> formats_of(const KernelProfileOptions& options) {
    std::vector<std::string> names = options.formats;
    if (names.empty()) {
        names = weight_formats().names();
        for (const FormatAlias& alias : format_aliases()) names.emplace_back(alias.name);
    }
    std::vector<KernelProfile> out;
    std::vector<std::string> specs;
    for (const std::string& name : names) {
        specs.push_back(spec_of(*make_format(name, "--format")));
        const auto same = std::find(specs.begin(), specs.end() - 1, specs.back()) - specs.begin();
        if (static_cast<std::size_t>(same) + 1 < specs.size()) {
            out[static_cast<std::size_t>(same)].also.push_back(name);
            specs.pop_back();
        } else {
            out.emplace_back().format = name;
        }
    }
    return out;
}

void measure(const Exec& exec, const KernelProfileOptions& options, std::size_t far_bytes,
             KernelProfile& out) {
    const SharedFormat format = make_format(out.format, "--format");
    const Shape2 shape = {far_rows(*format, options, far_bytes), options.cols};
    const ProbeMatrix matrix = make_matrix(exec, *format, shape);

    const double weights = weights_of({options.rows, options.cols});
    out.layout = layout_info(matrix.view.layout).name;
    out.activations = activation_names()[static_cast<std::size_t>(
        ops::activations_for(matrix.view.layout, exec))];
    out.bytes_per_weight = static_cast<double>(matrix.view.bytes()) / weights_of(matrix.view.shape);
    const FarSeconds far = far_seconds_of(exec, matrix, options.rows);
    out.seconds = far.all, out.waiting_seconds = far.waiting;
    out.unpack = unpack_cost(exec, matrix.view);
    out.near_seconds = weights * out.unpack.seconds_per_weight / exec.team->threads();
    const Shape2 prompt = {std::min(options.rows, kPromptRows), options.cols};
    const ProbeMatrix part = {{}, matrix.view.slice_rows({0, prompt.rows})};
    out.prompt_ops_per_second = ops_of(prompt, kPromptTokens) /
                                seconds_of_products(exec, part, prompt.rows, kPromptTokens, 3);
}

}  // namespace

double UnpackCost::seconds_of_unpacking() const noexcept {
    return plain.empty() ? 0 : std::max(seconds_per_weight - plain_seconds_per_weight, 0.0);
}

double UnpackCost::share() const noexcept {
    return seconds_per_weight > 0 ? seconds_of_unpacking() / seconds_per_weight : 0;
}

UnpackCost unpack_cost(const Exec& exec, const PackedView& weight) {
    // Coded weights are not multiplied in parts.
    const std::int64_t groups = std::max<std::int64_t>(kNearWeights / weight.shape.cols / 16, 1);
    const std::int64_t rows = std::min(groups * 16, weight.shape.rows);
    const PackedView part = weight.coded == nullptr ? weight.slice_rows({0, rows}) : weight;
    UnpackCost out;
    out.seconds_per_weight = near_seconds_of(exec, part) / weights_of(part.shape);
    const Activations reads = ops::activations_for(weight.layout, exec);
    if (plane_bits(reads) != 0) return out;
    const bool codes = reads == Activations::kI8 || reads == Activations::kI8Token;
    out.plain = codes ? "q8_0" : "f32";
    const std::int64_t whole = (rows + ops::kRepackRows - 1) / ops::kRepackRows * ops::kRepackRows;
    const Shape2 shape = {whole, weight.shape.cols};
    const ProbeMatrix ready = make_matrix(exec, weight_formats().get(out.plain, "probe"), shape);
    if (ready.view.layout == weight.layout && weight.coded == nullptr) {
        out.plain_seconds_per_weight = out.seconds_per_weight;
        return out;
    }
    const PackedView same = ready.view.slice_rows({0, rows});
    out.plain_seconds_per_weight = near_seconds_of(exec, same) / weights_of(same.shape);
    return out;
}

void KernelProfileOptions::visit(OptionVisitor& v) {
    v.option({.name = "format",
              .help = "format to measure, with options as quantize --format takes it; may be "
                      "repeated. Without it all of them",
              .value = "NAME"},
             formats);
    v.option({.name = "rows",
              .help = "of a matrix, a multiple of 64",
              .value = "N",
              .least = 64,
              .most = 1 << 20},
             rows);
    v.option({.name = "cols",
              .help = "of a matrix; formats that do not take rows of so many are left out",
              .value = "N",
              .least = 32,
              .most = 1 << 20},
             cols);
    v.option({.name = "profile-memory",
              .help = "MiB of weights of a format, and of memory that is read beside them; several "
                      "times the last cache level",
              .value = "MIB",
              .least = 16,
              .most = 1 << 20},
             memory_mib);
}

double KernelProfile::bytes_per_second(double weights) const noexcept {
    return seconds > 0 ? weights * bytes_per_weight / seconds : 0;
}

std::string_view KernelProfile::binds() const noexcept {
    const double most = std::max(near_seconds, waiting_seconds);
    if (read_seconds >= most || seconds <= kBoundByMemory * read_seconds) return "memory";
    if (waiting_seconds >= near_seconds) return "threads";
    return unpack.share() > 0.5 ? "dequantisation" : "arithmetic";
}

KernelProfiles profile_kernels(const Exec& exec, const KernelProfileOptions& options,
                               const KernelProgress& progress) {
    if (options.rows % ops::kRepackRows != 0) {
        throw Error(Exit::kUsage, "--rows",
                    std::to_string(options.rows) + " is no multiple of " +
                        std::to_string(ops::kRepackRows));
    }
    KernelProfiles out = {.formats = formats_of(options)};
    Buffer memory(static_cast<std::size_t>(options.memory_mib) * kMiB, Purpose::kOther);
    std::memset(memory.data(), 1, memory.bytes());
    std::vector<double> rates = {read_bandwidth(*exec.team, memory, kProbeRepeats)};
    const double weights = weights_of({options.rows, options.cols});
    std::int64_t done = 0;
    for (KernelProfile& one : out.formats) {
        if (progress && !progress(one.format, done++, std::ssize(out.formats))) break;
        try {
            measure(exec, options, memory.bytes(), one);
        } catch (const Error& e) {
            if (e.exit() != Exit::kUsage || !options.formats.empty()) throw;
            one.skipped = e.what();
            continue;
        }
        const double before = rates.back();
        rates.push_back(read_bandwidth(*exec.team, memory, kProbeRepeats));
        one.read_seconds = weights * one.bytes_per_weight / std::max(before, rates.back());
    }
    out.read_bytes_per_second = median(std::move(rates));
    return out;
}

void add_kernel_profile_to_plan(Plan& plan, const KernelProfileOptions& options) {
    // One matrix at least, of up to eight bytes a weight; a few of its rows as floats and as files
    // have them; input and output of a prompt.
    const auto bytes = [](std::int64_t elements, std::size_t each) {
        return Buffer::charged_bytes(static_cast<std::size_t>(elements) * each);
    };
    const std::size_t mib = static_cast<std::size_t>(options.memory_mib) * kMiB;
    const auto matrix = static_cast<std::size_t>(options.rows * options.cols) * sizeof(double);
    plan.at(Tier::kRam, Purpose::kOther) +=
        Buffer::charged_bytes(mib) + Buffer::charged_bytes(std::max(mib, matrix)) +
        bytes(ops::kRepackRows * options.cols, sizeof(float) + sizeof(double)) +
        bytes(kPromptTokens * (options.cols + kPromptRows), sizeof(float));
    plan.at(Tier::kRam, Purpose::kActivations) +=
        bytes(kPromptTokens * options.cols, sizeof(float));
}

}  // namespace thimble::cost
