// SPDX-License-Identifier: Apache-2.0
#include "kv/layer_state.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/checked.h"
#include "kv/slot_list.h"

namespace thimble {
namespace {

std::size_t index(int i) { return static_cast<std::size_t>(i); }

// Tokens whose rows of logits are at hand at once.
std::int64_t rows_at_once(std::int64_t group) { return std::max<std::int64_t>(16 / group, 1); }

// A head's numbers as floats, whatever the device computes in.
void copy_floats(const View& x, std::int64_t row, std::int64_t first, std::int64_t count,
                 float* out) {
    if (x.dtype == DType::kF32) {
        std::copy_n(x.row<float>(row) + first, count, out);
        return;
    }
    std::transform(x.row<double>(row) + first, x.row<double>(row) + first + count, out,
                   [](double value) { return static_cast<float>(value); });
}

}  // namespace

LayerState::LayerState(const LayerPlan& plan, std::pmr::memory_resource& memory)
    : store(plan, memory), window(&memory), query_sum(&memory), query_products(&memory) {
    for (int head = 0; head < plan.kv_heads; ++head) sums.emplace_back(&memory);
}

std::uint64_t LayerState::list_bytes() const noexcept {
    std::uint64_t sum = window.capacity() * sizeof(float) +
                        (query_sum.capacity() + query_products.capacity()) * sizeof(double) +
                        blocks.committed_bytes();
    for (const auto& head : sums) sum += head.capacity() * sizeof(float);
    return sum;
}

std::span<const float> LayerState::blocks_of(int head) const noexcept {
    return {reinterpret_cast<const float*>(blocks.lane(head)),
            static_cast<std::size_t>(ceil_div(store.slots(head), block_tokens) * block_floats)};
}

void LayerState::fit_blocks(const KvNeeds& needs) {
    const LayerPlan& plan = store.plan();
    if (blocks.data() == nullptr) {
        block_tokens = needs.block_tokens, block_floats = needs.block_vectors * plan.head_dim;
        const std::int64_t most = ceil_div(plan.all_slots(), block_tokens) * block_floats;
        blocks = LaneMemory(plan.kv_heads, static_cast<std::size_t>(most) * sizeof(float));
    }
    fit_blocks();
}

void LayerState::fit_blocks() {
    if (block_tokens == 0) return;
    for (int head = 0; head < store.plan().kv_heads; ++head)
        blocks.resize(head, blocks_of(head).size_bytes());
}

void LayerState::end_prompt() {
    const auto drop = [](auto& list) {
        list.clear();
        list.shrink_to_fit();
    };
    drop(window), drop(query_sum), drop(query_products);
    window_rows = window_next = query_count = 0;
}

void LayerState::cut(std::int64_t tokens) {
    store.cut(tokens);
    for (int head = 0; head < std::ssize(sums); ++head) {
        auto& list = sums[index(head)];
        const auto slots = static_cast<std::size_t>(store.slots(head));
        if (list.size() > slots) list.resize(slots);
        make_room(list, list.size());
    }
    fit_blocks();
    prompt_tokens = std::min(prompt_tokens, tokens);
    if (tokens != 0) return;
    end_prompt();
    floor = 0;
}

std::unique_ptr<LayerState> LayerState::fork() {
    std::pmr::memory_resource& memory = *window.get_allocator().resource();
    auto other = std::make_unique<LayerState>(store.plan(), memory);
    other->store.share(store);
    for (std::size_t head = 0; head < sums.size(); ++head) {
        make_room(other->sums[head], sums[head].size());
        other->sums[head].assign(sums[head].begin(), sums[head].end());
    }
    other->window.assign(window.begin(), window.end());
    other->query_sum.assign(query_sum.begin(), query_sum.end());
    other->query_products.assign(query_products.begin(), query_products.end());
    if (block_tokens > 0) {
        other->fit_blocks(
            {.block_tokens = block_tokens, .block_vectors = block_floats / store.plan().head_dim});
        for (int head = 0; head < store.plan().kv_heads; ++head)
            std::memcpy(other->blocks.lane(head), blocks.lane(head), blocks_of(head).size_bytes());
    }
    other->window_rows = window_rows, other->window_next = window_next;
    other->query_count = query_count;
    other->prompt_tokens = prompt_tokens, other->floor = floor;
    return other;
}

void LayerStatistics::note_raw(const Exec& exec, LayerState& state, std::int64_t first,
                               View q) const {
    if (!chain_.needs().moments) return;
    constexpr std::int64_t kSkipped = 4;  // attention sinks have queries unlike all others
    const std::int64_t dim = spec_.shape.head_dim, heads = spec_.shape.heads;
    if (state.query_sum.empty()) {
        state.query_sum.resize(static_cast<std::size_t>(heads * dim));
        state.query_products.resize(static_cast<std::size_t>(heads * dim * dim));
    }
    const std::int64_t skip = std::clamp<std::int64_t>(kSkipped - first, 0, q.rows);
    exec.team->run(heads, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> row(static_cast<std::size_t>(dim));
        for (std::int64_t h = begin; h < end; ++h) {
            double* sum = state.query_sum.data() + h * dim;
            double* products = state.query_products.data() + h * dim * dim;
            for (std::int64_t t = skip; t < q.rows; ++t) {
                copy_floats(q, t, h * dim, dim, row.data());
                for (std::int64_t i = 0; i < dim; ++i) {
                    const double x = static_cast<double>(row[static_cast<std::size_t>(i)]);
                    sum[i] += x;
                    for (std::int64_t j = 0; j < dim; ++j)
                        products[i * dim + j] +=
                            x * static_cast<double>(row[static_cast<std::size_t>(j)]);
                }
            }
        }
    });
    state.query_count += q.rows - skip;
}

void LayerStatistics::note_rotated(LayerState& state, View q) const {
    const std::int64_t rows = chain_.needs().window_rows, width = q.cols;
    if (rows == 0) return;
    if (state.window.empty()) state.window.resize(static_cast<std::size_t>(rows * width));
    for (std::int64_t t = std::max<std::int64_t>(q.rows - rows, 0); t < q.rows; ++t) {
        copy_floats(q, t, 0, width, state.window.data() + state.window_next * width);
        state.window_next = (state.window_next + 1) % rows;
        state.window_rows = std::min(state.window_rows + 1, rows);
    }
}

void LayerStatistics::note_rows(const Exec& exec, LayerState& state, const ops::Attention& problem,
                                const Phase& phase) const {
    const KvPolicy* scorer = chain_.of(KvPolicy::kScore);
    const KvNeeds& needs = chain_.needs();
    const bool wanted = phase.repeat_end > 0 ? needs.repeat_tokens > 0
                        : phase.prompt       ? needs.prompt_sums
                                             : needs.decode_sums;
    if (scorer == nullptr || !wanted) return;
    const std::int64_t group = problem.heads / problem.kv_heads, at_once = rows_at_once(group);
    for (int head = 0; head < problem.kv_heads; ++head) {
        const std::pmr::vector<std::int32_t> keys = state.store.positions(head);
        LayerStore::Segments segments;
        state.store.add_slots(segments, head, 0, std::ssize(keys));
        auto& sums = state.sums[index(head)];
        make_room(sums, keys.size());
        sums.resize(keys.size());
        for (std::int64_t t = 0; t < problem.q.rows; t += at_once) {
            const WorkspaceScope scope(*exec.workspace);
            const std::int64_t count = std::min(at_once, problem.q.rows - t);
            ops::Attention part = problem;
            part.q = problem.q.slice_rows(t, count);
            part.q_positions = problem.q_positions.subspan(static_cast<std::size_t>(t),
                                                           static_cast<std::size_t>(count));
            part.segments = segments;
            const View logits =
                exec.workspace->take_view(DType::kF32, count * group, std::ssize(keys));
            ops::attention_logits(exec, part, head, logits);
            scorer->accumulate(exec,
                               {.layer = layer_,
                                .kv_head = head,
                                .group = group,
                                .positions = part.q_positions,
                                .keys = keys,
                                .logits = logits,
                                .prompt = phase.prompt,
                                .prompt_tokens = state.prompt_tokens,
                                .repeat_first = phase.repeat_first,
                                .repeat_end = phase.repeat_end,
                                .repeat_prompt = phase.repeat_prompt},
                               sums);
        }
    }
    // What rows have added cannot be taken back.
    if (phase.repeat_end == 0) state.floor = std::max(state.floor, problem.q_positions.back() + 1);
}

void LayerStatistics::describe_blocks(const Exec& exec, LayerState& state,
                                      std::int64_t first_slot) const {
    const KvPolicy* reader = chain_.of(KvPolicy::kBlocks);
    if (reader == nullptr) return;
    const std::int64_t known = state.blocks.data() == nullptr ? 0 : first_slot;
    state.fit_blocks(chain_.needs());
    const std::int64_t block = state.block_tokens, dim = spec_.shape.head_dim;
    exec.team->run(spec_.shape.kv_heads, 1, [&](std::int64_t begin, std::int64_t end) {
        std::vector<float> memory(static_cast<std::size_t>(block * dim));
        for (std::int64_t head = begin; head < end; ++head) {
            const std::int64_t slots = state.store.slots(static_cast<int>(head));
            auto* list = reinterpret_cast<float*>(state.blocks.lane(static_cast<int>(head)));
            for (std::int64_t b = known / block; b * block < slots; ++b) {
                const std::int64_t count = std::min(block, slots - b * block);
                const View keys = {memory.data(), DType::kF32, count, dim, dim};
                state.store.read(exec, true, static_cast<int>(head), b * block, keys);
                reader->describe(keys, list + b * state.block_floats);
            }
        }
    });
}

std::size_t LayerStatistics::workspace_bytes(const KvNeeds& needs, const AttentionLayer& shape,
                                             std::int64_t slots) {
    if (!needs.prompt_sums && !needs.decode_sums && needs.repeat_tokens == 0) return 0;
    const std::int64_t group = shape.heads / shape.kv_heads;
    const auto floats = static_cast<std::size_t>(rows_at_once(group) * group * slots);
    return (floats * sizeof(float) + 63) & ~std::size_t{63};
}

std::uint64_t LayerStatistics::list_bytes(const KvNeeds& needs, const AttentionLayer& shape,
                                          std::int64_t slots, bool in_prompt) {
    const auto heads = static_cast<std::uint64_t>(shape.heads);
    const auto kv_heads = static_cast<std::uint64_t>(shape.kv_heads);
    const auto dim = static_cast<std::uint64_t>(shape.head_dim);
    std::uint64_t bytes = 0;
    if (needs.prompt_sums || needs.decode_sums || needs.repeat_tokens > 0)
        bytes += kv_heads * static_cast<std::uint64_t>(slot_list_room(slots)) * sizeof(float);
    if (needs.block_tokens > 0) {
        const std::int64_t blocks = (slots + needs.block_tokens - 1) / needs.block_tokens;
        const auto vectors = static_cast<std::size_t>(blocks * needs.block_vectors);
        bytes += kv_heads * LaneMemory::committed_lane_bytes(vectors * dim * sizeof(float));
    }
    if (!in_prompt) return bytes;
    bytes += static_cast<std::uint64_t>(needs.window_rows) * heads * dim * sizeof(float);
    if (needs.moments) bytes += heads * dim * (dim + 1) * sizeof(double);
    return bytes;
}

LayerView::LayerView(const Exec& exec, const ModelInfo& model, const AttentionSpec& spec, int layer,
                     LayerState& state, std::int64_t seen, bool prompt,
                     std::pmr::memory_resource& memory)
    : exec_(exec),
      model_(model),
      spec_(spec),
      layer_(layer),
      state_(state),
      seen_(seen),
      prompt_(prompt),
      memory_(memory) {
    for (int head = 0; head < spec.shape.kv_heads; ++head)
        positions_.push_back(state.store.positions(head));
}

std::span<float> LayerView::sums(int kv_head) const {
    auto& list = state_.sums[index(kv_head)];
    make_room(list, positions_[index(kv_head)].size());
    list.resize(positions_[index(kv_head)].size());
    return list;
}

View LayerView::window_queries(std::int64_t rows, std::pmr::vector<float>& memory) const {
    const std::int64_t width = std::int64_t{spec_.shape.heads} * spec_.shape.head_dim;
    rows = std::min(rows, state_.window_rows);
    memory.resize(static_cast<std::size_t>(rows * width));
    const std::int64_t ring = state_.window_rows > 0 ? std::ssize(state_.window) / width : 1;
    for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t from = (state_.window_next + ring - rows + r) % ring;
        std::copy_n(state_.window.data() + from * width, width, memory.data() + r * width);
    }
    return {memory.data(), DType::kF32, rows, width, width};
}

View LayerView::window_logits(int kv_head, std::int64_t rows,
                              std::pmr::vector<float>& memory) const {
    std::pmr::vector<float> floats(&memory_);
    View q = window_queries(rows, floats);
    std::vector<double> wide;
    if (exec_.dtype() == DType::kF64) {
        wide.assign(floats.begin(), floats.end());
        q.data = wide.data(), q.dtype = DType::kF64;
    }
    std::vector<std::int64_t> positions(static_cast<std::size_t>(q.rows));
    std::iota(positions.begin(), positions.end(), seen_ - q.rows);
    const std::int64_t n = std::ssize(positions_[index(kv_head)]);
    LayerStore::Segments segments;
    state_.store.add_slots(segments, kv_head, 0, n);
    const std::int64_t group = spec_.shape.heads / spec_.shape.kv_heads;
    memory.resize(static_cast<std::size_t>(q.rows * group * n));
    const View out = {memory.data(), DType::kF32, q.rows * group, n, n};
    ops::attention_logits(exec_,
                          {.q = q,
                           .out = {},
                           .segments = segments,
                           .q_positions = positions,
                           .heads = spec_.shape.heads,
                           .kv_heads = spec_.shape.kv_heads,
                           .head_dim = spec_.shape.head_dim,
                           .scale = spec_.scale,
                           .softcap = spec_.softcap},
                          kv_head, out);
    return out;
}

View LayerView::rows_of(bool keys, int kv_head, std::pmr::vector<float>& memory) const {
    const std::int64_t n = std::ssize(positions_[index(kv_head)]), dim = spec_.shape.head_dim;
    memory.resize(static_cast<std::size_t>(n * dim));
    const View out = {memory.data(), DType::kF32, n, dim, dim};
    state_.store.read(exec_, keys, kv_head, 0, out);
    return out;
}

View LayerView::keys(int kv_head, std::pmr::vector<float>& memory) const {
    return rows_of(true, kv_head, memory);
}
View LayerView::values(int kv_head, std::pmr::vector<float>& memory) const {
    return rows_of(false, kv_head, memory);
}

KvMoments LayerView::moments(int head) const {
    const auto dim = static_cast<std::size_t>(spec_.shape.head_dim);
    const auto count = static_cast<double>(std::max<std::int64_t>(state_.query_count, 1));
    mean_.assign(dim, 0), covariance_.assign(dim * dim, 0);
    if (state_.query_count > 0) {
        const double* sum = state_.query_sum.data() + index(head) * dim;
        const double* products = state_.query_products.data() + index(head) * dim * dim;
        for (std::size_t i = 0; i < dim; ++i) mean_[i] = sum[i] / count;
        for (std::size_t i = 0; i < dim * dim; ++i)
            covariance_[i] = products[i] / count - mean_[i / dim] * mean_[i % dim];
    }
    return {state_.query_count, mean_, covariance_};
}

}  // namespace thimble
