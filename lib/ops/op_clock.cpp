// SPDX-License-Identifier: Apache-2.0
#include "ops/op_clock.h"

#include <algorithm>
#include <string_view>

namespace thimble {
namespace {

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
}

bool same_weights(const OpClock::Weights& a, const OpClock::Weights& b) {
    return a.layout == b.layout && a.coded == b.coded && a.rows == b.rows && a.params == b.params;
}

}  // namespace

std::string OpClock::name_of(const Weights& weights) {
    std::string_view name = layout_info(weights.layout).name;
    if (name.ends_with("_x16")) name.remove_suffix(4);
    std::string out(name);
    if (layout_info(weights.layout).block_bytes == 0 && weights.params.bits > 0)
        out += ":bits=" + std::to_string(weights.params.bits);
    return weights.coded ? out + " coded" : out;
}

std::string OpClock::Row::name() const {
    std::string out = operation;
    std::int64_t rows = 0;
    for (const Weights& w : weights) {
        out += (rows == 0 ? " " : "+") + name_of(w);
        rows += w.rows;
    }
    return rows == 0 ? out : out + " " + std::to_string(rows) + "x" + std::to_string(cols);
}

std::int64_t OpClock::Row::weights_per_call() const noexcept {
    std::int64_t rows = 0;
    for (const Weights& w : weights) rows += w.rows;
    return rows * cols;
}

double OpClock::Total::other_seconds() const noexcept {
    double rest = seconds;
    for (const Row& row : rows) rest -= row.seconds;
    return rest;
}

OpClock::OpClock(Team& team) : team_(team) { team.time_waits(&waits_); }
OpClock::~OpClock() { team_.time_waits(nullptr); }

void OpClock::enter(Phase phase, std::int64_t tokens) {
    const Clock::time_point now = Clock::now();
    Total& before = totals_[static_cast<std::size_t>(phase_)];
    if (phase_ != Phase::kNone) {
        before.seconds += seconds_between(entered_, now);
        before.waits.count += waits_.count - waits_of_phase_.count;
        before.waits.seconds += waits_.seconds - waits_of_phase_.seconds;
    }
    phase_ = phase;
    entered_ = now;
    waits_of_phase_ = waits_;
    totals_[static_cast<std::size_t>(phase)].tokens += tokens;
}

OpClock::Row& OpClock::row_of(const char* operation, std::int64_t cols) {
    std::vector<Row>& rows = totals_[static_cast<std::size_t>(phase_)].rows;
    const auto found = std::find_if(rows.begin(), rows.end(), [&](const Row& row) {
        return row.cols == cols && std::string_view(row.operation) == operation &&
               std::equal(row.weights.begin(), row.weights.end(), weights_.begin(), weights_.end(),
                          same_weights);
    });
    if (found != rows.end()) return *found;
    Row& row = rows.emplace_back();
    row.operation = operation;
    row.cols = cols;
    row.weights = weights_;
    return row;
}

void OpClock::start(Row& row, std::uint64_t bytes) {
    ++row.calls;
    row.bytes += bytes;
    running_ =
        static_cast<std::size_t>(&row - totals_[static_cast<std::size_t>(phase_)].rows.data());
}

void OpClock::begin(const char* operation, std::uint64_t bytes) {
    if (depth_++ > 0 || phase_ == Phase::kNone) return;
    waits_before_ = waits_;
    begun_ = Clock::now();
    weights_.clear();
    start(row_of(operation, 0), bytes);
}

void OpClock::begin(const char* operation, std::span<const ops::Matmul> problems) {
    if (depth_++ > 0 || phase_ == Phase::kNone || problems.empty()) return;
    waits_before_ = waits_;
    begun_ = Clock::now();
    weights_.clear();
    std::uint64_t bytes = 0;
    for (const ops::Matmul& p : problems) {
        const Weights one{p.weight.layout, p.weight.params, p.weight.coded != nullptr,
                          p.weight.shape.rows, p.weight.bytes()};
        bytes += one.bytes;
        const auto same = std::find_if(weights_.begin(), weights_.end(), [&](const Weights& w) {
            return w.layout == one.layout && w.coded == one.coded && w.params == one.params;
        });
        if (same == weights_.end()) {
            weights_.push_back(one);
        } else {
            same->rows += one.rows, same->bytes += one.bytes;
        }
    }
    start(row_of(operation, problems.front().weight.shape.cols), bytes);
}

void OpClock::add_bytes(std::uint64_t bytes) noexcept {
    if (depth_ == 1 && running_ != SIZE_MAX)
        totals_[static_cast<std::size_t>(phase_)].rows[running_].bytes += bytes;
}

void OpClock::end() noexcept {
    if (--depth_ > 0 || running_ == SIZE_MAX) return;
    Row& row = totals_[static_cast<std::size_t>(phase_)].rows[running_];
    row.seconds += seconds_between(begun_, Clock::now());
    row.waiting += waits_.seconds - waits_before_.seconds;
    running_ = SIZE_MAX;
}

void enter_phase(const Exec& exec, OpClock::Phase phase, std::int64_t tokens) {
    if (exec.clock != nullptr) exec.clock->enter(phase, tokens);
}

namespace ops {

Timed::Timed(const Exec& exec, const Attention& problem) : clock_(exec.clock) {
    if (clock_ != nullptr) clock_->begin("attention", bytes_seen(problem));
}

std::uint64_t bytes_seen(const Attention& a) {
    if (a.q_positions.empty()) return 0;
    const auto [low, high] = std::minmax_element(a.q_positions.begin(), a.q_positions.end());
    std::uint64_t bytes = 0;
    for (const AttnSegment& s : a.segments) {
        std::uint64_t slots = 0;
        for (std::int64_t i = 0; i < s.slots; ++i) {
            const std::int64_t p = s.positions != nullptr ? s.positions[i] : s.first_position + i;
            if (p < 0 || p > *high) continue;
            if (a.window == 0 || *low - p < a.window || p < a.sinks) ++slots;
        }
        const auto row_bytes = [&](const AttnRows& rows, std::int64_t dims) {
            const LayoutInfo& info = layout_info(rows.layout);
            if (rows.f64) return static_cast<std::uint64_t>(dims) * sizeof(double);
            return static_cast<std::uint64_t>(dims / info.block_elements) * info.block_bytes;
        };
        const std::int64_t dims = s.channels.empty() ? a.head_dim : std::ssize(s.channels);
        const auto heads = static_cast<std::uint64_t>(s.kv_head < 0 ? a.kv_heads : 1);
        bytes += slots * heads * (row_bytes(s.k, dims) + row_bytes(s.v, a.head_dim));
    }
    return bytes;
}

}  // namespace ops
}  // namespace thimble
