// SPDX-License-Identifier: Apache-2.0
// Attention over segments. Each tile of kAttentionTile slots gives a partial state; a row merges
// the tiles' states one by one, ascending. With many rows a task owns some rows and walks all
// tiles; with few (decode) tasks own tiles, and the partial states, kept in the workspace, are
// merged afterwards in the same order: the same arithmetic, the same bits.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/layout/all.h"
#include "kernels/ref/ref.h"
#include "ops/dispatch.h"
#include "ops/on_cuda.h"
#include "ops/op_clock.h"

namespace thimble::ops {
namespace {

static_assert(kAttentionTile == cpu::kAttentionSlots);
constexpr std::int64_t kFewTokens = 4;  // up to here, tasks own tiles
constexpr std::int64_t kMostRoundTiles = 128;
// Tiles whose partial states are kept at once, for so many tokens.
std::int64_t round_tiles(std::int64_t tokens) { return kMostRoundTiles / tokens; }
constexpr float kLowest = -std::numeric_limits<float>::infinity();

struct Tile {
    const AttnSegment* segment;
    std::int64_t first, slots;  // within the segment
    std::int64_t least, most;   // positions that it holds; least > most: none
    std::int64_t positions[kAttentionTile];
};

std::int64_t position(const AttnSegment& s, std::int64_t slot) {
    return s.positions != nullptr ? s.positions[slot] : s.first_position + slot;
}

Tile make_tile(const AttnSegment& s, std::int64_t first) {
    Tile tile;
    tile.segment = &s, tile.first = first;
    tile.slots = std::min(kAttentionTile, s.slots - first);
    tile.least = std::numeric_limits<std::int64_t>::max(), tile.most = -1;
    for (std::int64_t i = 0; i < tile.slots; ++i) {
        const std::int64_t p = position(s, first + i);
        tile.positions[i] = p;
        if (p < 0) continue;
        tile.least = std::min(tile.least, p);
        tile.most = std::max(tile.most, p);
    }
    return tile;
}

// Whether a query at a position in [low, high] can see a key at one in [least, most].
bool may_see(const Attention& a, std::int64_t least, std::int64_t most, std::int64_t low,
             std::int64_t high) {
    if (least > most || least > high) return false;
    return a.window == 0 || low - most < a.window || least < a.sinks;
}
bool may_see(const Attention& a, const AttnSegment& s, std::int64_t first, std::int64_t low,
             std::int64_t high) {
    if (s.positions == nullptr) {
        const std::int64_t last = std::min(first + kAttentionTile, s.slots) - 1;
        return may_see(a, s.first_position + first, s.first_position + last, low, high);
    }
    const Tile tile = make_tile(s, first);
    return may_see(a, tile.least, tile.most, low, high);
}

// Query rows of one task: `tokens` tokens from `token`, `heads` heads from `head`, one K/V head.
struct Rows {
    std::int64_t token, tokens, head, heads, kv_head;
    [[nodiscard]] std::int64_t count() const { return tokens * heads; }
};

bool rows_see(const Attention& a, const Tile& tile, const Rows& rows) {
    const auto first = a.q_positions.begin() + rows.token;
    const auto [low, high] = std::minmax_element(first, first + rows.tokens);
    return may_see(a, tile.least, tile.most, *low, *high);
}

bool reads(const AttnSegment& s, std::int64_t kv_head) {
    return s.kv_head < 0 || s.kv_head == kv_head;
}

cpu::AttentionTile kernel_tile(const Attention& a, const Tile& tile, const Rows& rows) {
    const AttnSegment& s = *tile.segment;
    require(!s.k.f64 && !s.v.f64, "attention", "f64 rows belong to the reference device");
    const auto rows_at = [&](const AttnRows& r) {
        return r.data + static_cast<std::size_t>(tile.first) * r.token_bytes +
               (s.kv_head < 0 ? static_cast<std::size_t>(rows.kv_head) * r.head_bytes : 0);
    };
    cpu::AttentionTile t{};
    t.q = a.q.row<float>(rows.token) + rows.head * a.head_dim;
    t.tokens = rows.tokens, t.group = rows.heads, t.dim = a.head_dim, t.q_stride = a.q.stride;
    t.q_positions = a.q_positions.data() + rows.token;
    t.k_layout = s.k.layout, t.v_layout = s.v.layout;
    t.k = rows_at(s.k), t.v = rows_at(s.v);
    t.k_slot_bytes = s.k.token_bytes, t.v_slot_bytes = s.v.token_bytes;
    t.slots = tile.slots, t.positions = tile.positions;
    t.scale = static_cast<float>(a.scale), t.softcap = static_cast<float>(a.softcap);
    t.window = a.window, t.sinks = a.sinks;
    t.k_dim = a.head_dim;
    if (!s.channels.empty()) t.k_dim = std::ssize(s.channels), t.channels = s.channels.data();
    if (s.bias != nullptr) t.bias = s.bias + tile.first;
    return t;
}

void run_tile(const Exec& exec, const Attention& a, const Tile& tile, const Rows& rows, float* o,
              float* max, float* sum) {
    kernels(exec.isa).attention_tile(kernel_tile(a, tile, rows), o, max, sum);
}

// Largest number of heads of a group, and of tokens, that one task takes.
struct Split {
    std::int64_t heads, tokens;
};
Split split_of(const Attention& a, std::int64_t group) {
    const std::int64_t rows = std::min(cpu::kAttentionRows, cpu::kAttentionOutputs / a.head_dim);
    const std::int64_t heads = std::min(group, rows);
    return {heads, std::min<std::int64_t>(rows / heads, 16)};
}

// States of finished rows go to out, and to `state` when it is wanted.
void deliver(const Exec& exec, const Attention& a, const AttnState* state, const Rows& rows,
             float* o, const float* max, const float* sum) {
    kernels(exec.isa).attention_finish(o, sum, rows.count(), a.head_dim);
    const View& out = state != nullptr ? state->o : a.out;
    for (std::int64_t r = 0; r < rows.count(); ++r) {
        const std::int64_t t = rows.token + r / rows.heads, h = rows.head + r % rows.heads;
        std::copy_n(o + r * a.head_dim, a.head_dim, out.row<float>(t) + h * a.head_dim);
        if (state == nullptr) continue;
        state->max.row<float>(t)[h] = max[r];
        state->sum.row<float>(t)[h] = sum[r];
    }
}

void run_rows(const Exec& exec, const Attention& a, const AttnState* state) {
    const std::int64_t tokens = a.q.rows, group = a.heads / a.kv_heads;
    const Split split = split_of(a, group);
    const std::int64_t head_parts = (group + split.heads - 1) / split.heads;
    const std::int64_t token_parts = (tokens + split.tokens - 1) / split.tokens;
    const auto one = [&](std::int64_t task) {
        Rows rows{};
        rows.token = task % token_parts * split.tokens;
        rows.tokens = std::min(split.tokens, tokens - rows.token);
        rows.kv_head = task / token_parts / head_parts;
        const std::int64_t head = task / token_parts % head_parts * split.heads;
        rows.head = rows.kv_head * group + head;
        rows.heads = std::min(split.heads, group - head);
        float o[cpu::kAttentionOutputs], max[cpu::kAttentionRows], sum[cpu::kAttentionRows];
        float part_o[cpu::kAttentionOutputs], part_max[cpu::kAttentionRows],
            part_sum[cpu::kAttentionRows];
        std::fill_n(o, rows.count() * a.head_dim, 0.0f);
        std::fill_n(max, rows.count(), kLowest);
        std::fill_n(sum, rows.count(), 0.0f);
        for (const AttnSegment& s : a.segments) {
            if (!reads(s, rows.kv_head)) continue;
            for (std::int64_t first = 0; first < s.slots; first += kAttentionTile) {
                const Tile tile = make_tile(s, first);
                if (!rows_see(a, tile, rows)) continue;
                run_tile(exec, a, tile, rows, part_o, part_max, part_sum);
                kernels(exec.isa).attention_merge(part_o, part_max, part_sum, rows.count(),
                                                  a.head_dim, o, max, sum);
            }
        }
        deliver(exec, a, state, rows, o, max, sum);
    };
    exec.team->run(token_parts * head_parts * a.kv_heads, 1,
                   [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t task = begin; task < end; ++task) one(task);
                   });
}

struct TileRef {
    const AttnSegment* segment;
    std::int64_t first;
};

// The next tiles, at most `most`, that some query may see; false when there are none left.
class TileWalk {
  public:
    explicit TileWalk(const Attention& a) : a_(a) {
        const auto [low, high] = std::minmax_element(a.q_positions.begin(), a.q_positions.end());
        low_ = *low, high_ = *high;
    }
    std::int64_t next(TileRef* tiles, std::int64_t most) {
        std::int64_t n = 0;
        while (n < most && segment_ < a_.segments.size()) {
            const AttnSegment& s = a_.segments[segment_];
            if (first_ >= s.slots) {
                ++segment_, first_ = 0;
                continue;
            }
            if (may_see(a_, s, first_, low_, high_)) tiles[n++] = {&s, first_};
            first_ += kAttentionTile;
        }
        return n;
    }

  private:
    const Attention& a_;
    std::size_t segment_ = 0;
    std::int64_t first_ = 0, low_ = 0, high_ = 0;
};

void run_tiles(const Exec& exec, const Attention& a, const AttnState* state) {
    const WorkspaceScope scope(*exec.workspace);
    const std::int64_t tokens = a.q.rows, group = a.heads / a.kv_heads, dim = a.head_dim;
    const std::int64_t all_rows = tokens * a.heads;
    // Rows of a partial state are ordered [head part, token, head in the part].
    const auto floats = [&](std::int64_t n) {
        return exec.workspace->take_view(DType::kF32, 1, n).row<float>(0);
    };
    float* o = floats(all_rows * dim);
    float* stats = floats(2 * all_rows);
    const std::int64_t round = round_tiles(tokens);
    float* part_o = floats(round * all_rows * dim);
    float* part_stats = floats(2 * round * all_rows);
    std::fill_n(o, all_rows * dim, 0.0f);
    std::fill_n(stats, all_rows, kLowest);
    std::fill_n(stats + all_rows, all_rows, 0.0f);

    Split split = split_of(a, group);
    split.tokens = std::min(split.tokens, tokens);
    const std::int64_t head_parts = (group + split.heads - 1) / split.heads;
    const std::int64_t token_parts = (tokens + split.tokens - 1) / split.tokens;
    const std::int64_t parts = a.kv_heads * head_parts * token_parts;
    const auto rows_of = [&](std::int64_t part, std::int64_t* first_row) {
        const std::int64_t token = part % token_parts * split.tokens;
        const std::int64_t kv_head = part / token_parts / head_parts;
        const std::int64_t head = part / token_parts % head_parts * split.heads;
        const Rows rows{token, std::min(split.tokens, tokens - token), kv_head * group + head,
                        std::min(split.heads, group - head), kv_head};
        *first_row = rows.head * tokens + token * rows.heads;
        return rows;
    };
    TileRef tiles[kMostRoundTiles];
    TileWalk walk(a);
    // A thread takes all heads of a tile, one after the other: their rows lie side by side.
    for (std::int64_t n; (n = walk.next(tiles, round)) > 0;) {
        const std::int64_t grain = n < 2 * exec.team->threads() ? 1 : parts;
        exec.team->run(n * parts, grain, [&](std::int64_t begin, std::int64_t end) {
            Tile tile{};
            for (std::int64_t task = begin; task < end; ++task) {
                std::int64_t row = 0;
                const Rows rows = rows_of(task % parts, &row);
                const std::int64_t at = task / parts * all_rows + row;
                const TileRef& ref = tiles[task / parts];
                if (!reads(*ref.segment, rows.kv_head)) {  // merges as nothing
                    std::fill_n(part_stats + at, rows.count(), kLowest);
                    continue;
                }
                if (tile.segment != ref.segment || tile.first != ref.first)
                    tile = make_tile(*ref.segment, ref.first);
                run_tile(exec, a, tile, rows, part_o + at * dim, part_stats + at,
                         part_stats + round * all_rows + at);
            }
        });
        const auto merge_rows = [&](std::int64_t row, std::int64_t end) {
            for (std::int64_t i = 0; i < n; ++i) {
                const std::int64_t at = i * all_rows + row;
                kernels(exec.isa).attention_merge(
                    part_o + at * dim, part_stats + at, part_stats + round * all_rows + at,
                    end - row, dim, o + row * dim, stats + row, stats + all_rows + row);
            }
        };
        if (n * all_rows * dim < kWorthSharing) {
            merge_rows(0, all_rows);
        } else {
            const std::int64_t threads = exec.team->threads();
            exec.team->run(all_rows, (all_rows + threads - 1) / threads, merge_rows);
        }
    }
    for (std::int64_t part = 0; part < parts; ++part) {
        std::int64_t row = 0;
        const Rows rows = rows_of(part, &row);
        deliver(exec, a, state, rows, o + row * dim, stats + row, stats + all_rows + row);
    }
}

// --- reference device ---

// `kv_head`: among those of the segment.
void load_ref(const AttnRows& rows, std::int64_t slot, std::int64_t kv_head, std::int64_t dim,
              double* out) {
    const std::byte* row = rows.data + static_cast<std::size_t>(slot) * rows.token_bytes +
                           static_cast<std::size_t>(kv_head) * rows.head_bytes;
    if (rows.f64) {
        std::copy_n(reinterpret_cast<const double*>(row), dim, out);
        return;
    }
    with_layout(rows.layout, [&](auto layout) {
        using L = decltype(layout);
        const auto* blocks = reinterpret_cast<const typename L::Block*>(row);
        for (std::int64_t d = 0; d < dim; d += L::kElements)
            L::unpack(blocks[d / L::kElements], out + d);
    });
}

struct RefSlot {
    const AttnSegment* segment;
    std::int64_t slot, position;
};
std::vector<RefSlot> ref_slots(const Attention& a) {
    std::vector<RefSlot> slots;
    for (const AttnSegment& s : a.segments) {
        for (std::int64_t i = 0; i < s.slots; ++i) slots.push_back({&s, i, position(s, i)});
    }
    return slots;
}

// The logit of query head h of token t with a slot; `row` is room for head_dim numbers.
double ref_logit(const Attention& a, const RefSlot& at, std::int64_t t, std::int64_t h,
                 std::vector<double>& row) {
    const AttnSegment& s = *at.segment;
    const std::int64_t kv = h * a.kv_heads / a.heads,
                       query = a.q_positions[static_cast<std::size_t>(t)];
    const std::int64_t key = at.position;
    const double hidden = -std::numeric_limits<double>::infinity();
    if (key < 0 || key > query || !reads(s, kv)) return hidden;
    if (a.window != 0 && query - key >= a.window && key >= a.sinks) return hidden;
    const double* q = a.q.row<double>(t) + h * a.head_dim;
    double dot = 0;
    if (s.channels.empty()) {
        load_ref(s.k, at.slot, s.kv_head < 0 ? kv : 0, a.head_dim, row.data());
        dot = ref::dot(q, row.data(), a.head_dim);
    } else {
        load_ref(s.k, at.slot, 0, std::ssize(s.channels), row.data());
        for (std::size_t c = 0; c < s.channels.size(); ++c) dot += q[s.channels[c]] * row[c];
    }
    const double x = a.scale * dot;
    return (a.softcap > 0 ? a.softcap * std::tanh(x / a.softcap) : x) +
           (s.bias != nullptr ? static_cast<double>(s.bias[at.slot]) : 0.0);
}

void run_ref(const Exec& exec, const Attention& a, const AttnState* state) {
    const std::vector<RefSlot> slots = ref_slots(a);
    exec.team->run(a.q.rows * a.heads, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> row(static_cast<std::size_t>(a.head_dim)), logits(slots.size());
        for (std::int64_t i = begin; i < end; ++i) {
            const std::int64_t t = i / a.heads, h = i % a.heads, kv = h * a.kv_heads / a.heads;
            for (std::size_t s = 0; s < slots.size(); ++s)
                logits[s] = ref_logit(a, slots[s], t, h, row);
            const auto score = [&](std::int64_t s) { return logits[static_cast<std::size_t>(s)]; };
            const auto value = [&](std::int64_t s) {
                const RefSlot& slot = slots[static_cast<std::size_t>(s)];
                load_ref(slot.segment->v, slot.slot, slot.segment->kv_head < 0 ? kv : 0, a.head_dim,
                         row.data());
                return row.data();
            };
            const View& out = state != nullptr ? state->o : a.out;
            double max = 0, sum = 0;
            ref::attend(std::ssize(slots), static_cast<std::int64_t>(a.head_dim), score, value,
                        out.row<double>(t) + h * a.head_dim, &max, &sum);
            if (state != nullptr)
                state->max.row<double>(t)[h] = max, state->sum.row<double>(t)[h] = sum;
        }
    });
}

void run(const Exec& exec, const Attention& a, const AttnState* state) {
    const Timed timed(exec, a);
    const std::int64_t tokens = a.q.rows;
    require(a.heads > 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0 && a.head_dim > 0 &&
                a.head_dim <= cpu::kMaxHeadDim,
            "attention", "heads must be a multiple of kv_heads, head_dim at most 1024");
    require(std::ssize(a.q_positions) == tokens, "attention", "one position per token is needed");
    const std::int64_t width = static_cast<std::int64_t>(a.heads) * a.head_dim;
    require_view(exec, a.q, tokens, width, "attention");
    require_view(exec, state != nullptr ? state->o : a.out, tokens, width, "attention");
    if (tokens == 0) return;
    if (exec.dry) {  // as much as any count of rows up to these may take
        std::int64_t slots = 0;
        for (const AttnSegment& segment : a.segments) slots += segment.slots;
        const WorkspaceScope scope(*exec.workspace);
        (void)exec.workspace->take(
            attention_workspace_bytes(tokens, a.heads, a.head_dim, slots, exec.device));
        return;
    }
    if (is_ref(exec)) return run_ref(exec, a, state);
    if (is_cuda(exec)) return on_cuda::attention(exec, a, state);
    if (tokens <= kFewTokens) return run_tiles(exec, a, state);
    run_rows(exec, a, state);
}

}  // namespace

void attention(const Exec& exec, const Attention& problem) { run(exec, problem, nullptr); }

void attention_state(const Exec& exec, const Attention& problem, AttnState out) {
    require_view(exec, out.max, problem.q.rows, problem.heads, "attention_state");
    require_view(exec, out.sum, problem.q.rows, problem.heads, "attention_state");
    run(exec, problem, &out);
}

void attention_logits(const Exec& exec, const Attention& a, int kv_head, View out) {
    const Timed timed(exec, "attention_logits");
    const std::int64_t group = a.heads / a.kv_heads;
    std::int64_t columns = 0;
    for (const AttnSegment& s : a.segments) columns += reads(s, kv_head) ? s.slots : 0;
    require(out.dtype == DType::kF32 && out.rows == a.q.rows * group && out.cols == columns,
            "attention_logits", "the shapes do not agree");
    require(!is_cuda(exec), "attention_logits", "logits are taken on a host device");
    if (is_ref(exec)) {
        const std::vector<RefSlot> slots = ref_slots(a);
        exec.team->run(out.rows, 1, [&](std::int64_t begin, std::int64_t end) {
            std::vector<double> row(static_cast<std::size_t>(a.head_dim));
            for (std::int64_t r = begin; r < end; ++r) {
                float* to = out.row<float>(r);
                for (const RefSlot& slot : slots) {
                    if (!reads(*slot.segment, kv_head)) continue;
                    *to++ = static_cast<float>(
                        ref_logit(a, slot, r / group, kv_head * group + r % group, row));
                }
            }
        });
        return;
    }
    const Split split = split_of(a, group);
    const std::int64_t head_parts = (group + split.heads - 1) / split.heads;
    const std::int64_t token_parts = (a.q.rows + split.tokens - 1) / split.tokens;
    std::int64_t column = 0;
    for (const AttnSegment& s : a.segments) {
        if (!reads(s, kv_head)) continue;
        const std::int64_t tiles = (s.slots + kAttentionTile - 1) / kAttentionTile;
        exec.team->run(
            tiles * head_parts * token_parts, 1, [&](std::int64_t begin, std::int64_t end) {
                float scores[cpu::kAttentionRows * cpu::kAttentionSlots];
                for (std::int64_t task = begin; task < end; ++task) {
                    const std::int64_t part = task / tiles,
                                       token = part % token_parts * split.tokens;
                    const std::int64_t head = part / token_parts * split.heads;
                    const Rows rows{token, std::min(split.tokens, a.q.rows - token),
                                    kv_head * group + head, std::min(split.heads, group - head),
                                    kv_head};
                    const Tile tile = make_tile(s, task % tiles * kAttentionTile);
                    kernels(exec.isa).attention_scores(kernel_tile(a, tile, rows), scores);
                    for (std::int64_t r = 0; r < rows.count(); ++r) {
                        const std::int64_t row =
                            (token + r / rows.heads) * group + head + r % rows.heads;
                        std::copy_n(scores + r * cpu::kAttentionSlots, tile.slots,
                                    out.row<float>(row) + column + tile.first);
                    }
                }
            });
        column += s.slots;
    }
}

void softmax_rows(const Exec& exec, View x, std::span<float> log_sums) {
    const Timed timed(exec, "softmax_rows");
    require(x.dtype == DType::kF32 && (log_sums.empty() || std::ssize(log_sums) == x.rows),
            "softmax_rows", "rows of F32 are needed");
    for_rows(exec, x.rows, x.cols, [&](std::int64_t r) {
        float sum = 0;
        kernels(exec.isa).softmax_row(x.row<float>(r), x.cols, &sum);
        if (!log_sums.empty()) log_sums[static_cast<std::size_t>(r)] = sum;
    });
}

std::size_t attention_workspace_bytes(std::int64_t tokens, int heads, int head_dim,
                                      std::int64_t slots, Device device) {
    if (device == Device::kRef) return 0;
    if (device == Device::kCuda)
        return on_cuda::attention_workspace_bytes(tokens, heads, head_dim, slots);
    const std::int64_t rows = std::min(tokens, kFewTokens) * heads;
    const auto floats = [](std::int64_t n) {
        return (static_cast<std::size_t>(n) * sizeof(float) + 63) & ~std::size_t{63};
    };
    const std::int64_t parts = kMostRoundTiles * heads;
    return floats(rows * head_dim) + floats(2 * rows) + floats(parts * head_dim) +
           floats(2 * parts);
}

namespace {

template <class Real>
void merge_rows(const AttnState& part, const AttnState& into, std::int64_t dim) {
    const std::int64_t heads = into.max.cols;
    for (std::int64_t i = 0; i < into.max.rows * heads; ++i) {
        const std::int64_t t = i / heads, h = i % heads;
        const Real part_max = part.max.row<Real>(t)[h], part_sum = part.sum.row<Real>(t)[h];
        Real& max = into.max.row<Real>(t)[h];
        Real& sum = into.sum.row<Real>(t)[h];
        if (part_sum == 0) continue;
        const Real top = std::max(max, part_max);
        const Real old_sum = sum == 0 ? Real{0} : sum * std::exp(max - top);
        const Real new_sum = part_sum * std::exp(part_max - top);
        max = top;
        sum = old_sum + new_sum;
        for (std::int64_t d = h * dim; d < (h + 1) * dim; ++d) {
            Real& o = into.o.row<Real>(t)[d];
            o = (o * old_sum + part.o.row<Real>(t)[d] * new_sum) / sum;
        }
    }
}

}  // namespace

void merge(const Exec& exec, const AttnState& part, AttnState into, int head_dim) {
    const Timed timed(exec, "merge");
    require_view(exec, part.o, into.o.rows, into.o.cols, "merge");
    require_view(exec, part.max, into.max.rows, into.max.cols, "merge");
    require_view(exec, part.sum, into.sum.rows, into.max.cols, "merge");
    require(into.o.cols == into.max.cols * head_dim, "merge", "the shapes do not agree");
    if (is_cuda(exec)) return on_cuda::merge(exec, part, into, head_dim);
    if (is_ref(exec)) return merge_rows<double>(part, into, head_dim);
    merge_rows<float>(part, into, head_dim);
}

void encode_kv(const Exec& exec, View x, int head_dim, LayoutId layout, std::byte* out,
               std::size_t token_bytes, std::size_t head_bytes) {
    const Timed timed(exec, "encode_kv");
    require_view(exec, x, x.rows, x.cols, "encode_kv");
    require(x.cols % head_dim == 0 && head_dim % layout_info(layout).block_elements == 0,
            "encode_kv", "a head must hold whole blocks");
    require(layout == LayoutId::k_f32 || layout == LayoutId::k_f16 || layout == LayoutId::k_bf16 ||
                layout == LayoutId::k_q8_0,
            "encode_kv", "keys and values are stored as f32, f16, bf16 or q8_0");
    if (is_cuda(exec))
        return on_cuda::encode_kv(exec, x, head_dim, layout, out, token_bytes, head_bytes);
    for_rows(exec, x.rows, x.cols, [&](std::int64_t t) {
        std::vector<float> narrow;
        for (std::int64_t h = 0; h < x.cols / head_dim; ++h) {
            std::byte* to = out + static_cast<std::size_t>(t) * token_bytes +
                            static_cast<std::size_t>(h) * head_bytes;
            if (!is_ref(exec)) {
                kernels(exec.isa).encode_kv_row(layout, x.row<float>(t) + h * head_dim, head_dim,
                                                to);
                continue;
            }
            const double* from = x.row<double>(t) + h * head_dim;
            narrow.assign(from, from + head_dim);
            kernels(Isa::kPortable).encode_kv_row(layout, narrow.data(), head_dim, to);
        }
    });
}

}  // namespace thimble::ops
