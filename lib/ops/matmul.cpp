// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/layout/interleaved.h"
#include "kernels/ref/ref.h"
#include "ops/dense.h"
#include "ops/dispatch.h"
#include "ops/exponents.h"
#include "ops/on_cuda.h"
#include "ops/op_clock.h"
#include "ops/read_ahead.h"

namespace thimble::ops {
namespace {

void matmul_ref(const Exec& exec, View x, const Matmul& p) {
    const std::int64_t cols = p.weight.shape.cols;
    exec.team->run(p.weight.shape.rows, 8, [&](std::int64_t begin, std::int64_t end) {
        std::vector<double> row(static_cast<std::size_t>(cols));
        for (std::int64_t r = begin; r < end; ++r) {
            decode_rows(exec, p.weight, {r, 1}, {row.data(), DType::kF64, 1, cols, cols});
            for (std::int64_t t = 0; t < x.rows; ++t) {
                double sum = ref::dot(x.row<double>(t), row.data(), cols);
                if (p.bias) sum += p.bias->row<double>(0)[r];
                double& out = p.out.row<double>(t)[r];
                out = p.accumulate ? out + sum : sum;
            }
        }
    });
}

// Rows of work for one task of the generic path: small enough to balance, large enough to pay for
// the hand-over.
std::int64_t grain_rows(std::int64_t rows, std::int64_t cols) {
    const std::int64_t wanted = std::max<std::int64_t>(16, (std::int64_t{1} << 17) / cols);
    return std::min(rows, (wanted + 15) & ~std::int64_t{15});
}

void matmul_dense(const Exec& exec, const MatmulInput& x, const Matmul& p) {
    if (p.out.rows == 0) return;
    dense::for_panels(exec, p.weight, [&](RowRange rows, View w) {
        dense::Product product;
        product.a = x.dense(), product.b = w, product.b_transposed = true;
        product.c = p.out.slice_cols(rows.first, rows.count);
        product.accumulate = p.accumulate;
        product.bias = p.bias ? p.bias->row<float>(0) + rows.first : nullptr;
        dense::multiply_tiled(exec, product);
    });
}

void matmul_stored(const Exec& exec, View in, const Matmul& p) {
    const Shape2 shape = p.weight.shape;
    const auto& table = kernels(exec.isa);
    exec.team->run(
        shape.rows, grain_rows(shape.rows, shape.cols), [&](std::int64_t begin, std::int64_t end) {
            cpu::MatmulRows task{};
            task.layout = p.weight.layout, task.params = p.weight.params;
            for (int i = 0; i < p.weight.n_planes; ++i) {
                task.planes[i] = p.weight.row(begin, i);
                task.row_bytes[i] = p.weight.planes[static_cast<std::size_t>(i)].row_bytes;
            }
            task.rows = end - begin, task.cols = shape.cols;
            task.x = in.row<float>(0), task.tokens = in.rows, task.x_stride = in.stride;
            task.out = p.out.row<float>(0) + begin, task.out_stride = p.out.stride;
            task.bias = p.bias ? p.bias->row<float>(0) + begin : nullptr;
            task.accumulate = p.accumulate;
            table.matmul_rows(task);
        });
}

bool is_dense(const Exec& exec) { return !is_ref(exec) && exec.products == Products::kDense; }

bool is_interleaved(LayoutId layout) { return layout_info(layout).block_rows == kGroupRows; }

std::int64_t groups_of(const Matmul& p) {
    return (p.weight.shape.rows + kGroupRows - 1) / kGroupRows;
}

// Groups [begin, end) of one interleaved matrix, which lie at `weights`.
void run_groups(const Exec& exec, MatmulInput& x, const Matmul& p, std::int64_t begin,
                std::int64_t end, const std::byte* weights) {
    const View in = x.view();
    const Shape2 shape = p.weight.shape;
    const std::int64_t row = begin * kGroupRows;
    cpu::MatmulGroups task{};
    task.layout = p.weight.coded ? LayoutId::k_bf16_x16 : p.weight.layout;
    task.params = p.weight.params;
    task.weights = weights;
    task.group_bytes = kGroupRows * p.weight.planes[0].row_bytes;
    task.rows = std::min(end * kGroupRows, shape.rows) - row, task.cols = shape.cols;
    task.x = in.row<float>(0), task.tokens = in.rows, task.x_stride = in.stride;
    switch (activations_for(p.weight.layout, exec)) {
        case Activations::kI8:
        case Activations::kI8Token:
            task.i8 = x.i8(), task.i8_stride = shape.cols / 32;
            break;
        case Activations::kBf16:
            task.x = x.bf16().row<float>(0), task.x_stride = x.bf16().stride;
            break;
        default:
            break;
    }
    task.out = p.out.row<float>(0) + row, task.out_stride = p.out.stride;
    task.bias = p.bias ? p.bias->row<float>(0) + row : nullptr;
    task.accumulate = p.accumulate;
    kernels(exec.isa).matmul_groups(task);
}

// Groups of several interleaved matrices, counted one after the other: use(p, b, e) for those of
// [begin, end) that are p's groups [b, e).
template <class Use>
void for_groups(std::span<const Matmul> problems, std::int64_t begin, std::int64_t end, Use use) {
    std::int64_t first = 0;
    for (const Matmul& p : problems) {
        if (p.weight.coded != nullptr) continue;
        const std::int64_t count = groups_of(p);
        const std::int64_t b = std::max(begin - first, std::int64_t{0});
        const std::int64_t e = std::min(end - first, count);
        if (b < e) use(p, b, e);
        first += count;
    }
}

// Tells threads that wait what comes after these matrices.
void fetch_next(const Exec& exec, std::span<const Matmul> problems, std::int64_t groups,
                std::int64_t grain) {
    std::vector<Readings> of_threads(static_cast<std::size_t>(exec.team->threads()));
    for (int t = 0; t < exec.team->threads(); ++t) {
        auto& parts = of_threads[static_cast<std::size_t>(t)].parts;
        std::size_t n = 0, left = ReadAhead::kMostBytes;
        for_groups(
            problems, exec.team->share(groups, grain, t), exec.team->share(groups, grain, t + 1),
            [&](const Matmul& p, std::int64_t b, std::int64_t e) {
                const std::size_t group = kGroupRows * p.weight.planes[0].row_bytes;
                const std::size_t bytes = std::min(left, static_cast<std::size_t>(e - b) * group);
                if (n == parts.size() || bytes == 0) return;
                parts[n++] = {p.weight.row(b * kGroupRows), bytes};
                left -= bytes;
            });
    }
    exec.ahead->pass(*exec.team, problems.front().weight.planes[0].data, of_threads);
}

// One hand-over for all the matrices.
void matmul_interleaved(const Exec& exec, MatmulInput& x, std::span<const Matmul> problems) {
    // A task's weights: enough to pay for the hand-over, and to stay in the second cache while many
    // tokens pass by.
    constexpr std::size_t kTaskBytes = std::size_t{128} << 10;
    constexpr std::int64_t kFewTokens = 4;  // up to here reading weights is most of the work
    std::int64_t groups = 0;
    std::size_t bytes = 0;
    for (const Matmul& p : problems) {
        if (p.weight.coded == nullptr) groups += groups_of(p), bytes += p.weight.bytes();
    }
    const auto wanted = static_cast<std::int64_t>(kTaskBytes * static_cast<std::size_t>(groups) /
                                                  std::max<std::size_t>(bytes, 1));
    const std::int64_t share = (groups / (4 * exec.team->threads()));
    const std::int64_t grain = (std::max<std::int64_t>(std::min(wanted, share), 1) + 3) & ~3;
    if (exec.ahead != nullptr && x.view().rows <= kFewTokens)
        fetch_next(exec, problems, groups, grain);
    exec.team->run(groups, grain, [&](std::int64_t begin, std::int64_t end) {
        for_groups(problems, begin, end, [&](const Matmul& p, std::int64_t b, std::int64_t e) {
            run_groups(exec, x, p, b, e, p.weight.row(b * kGroupRows));
        });
    });
}

// Those whose weights are coded: a strip is decoded, and multiplied while it is in the cache.
void matmul_coded(const Exec& exec, MatmulInput& x, std::span<const Matmul> problems) {
    const auto tasks_of = [](const Matmul& p) {
        const std::int64_t together = p.weight.coded->strips_at_once();
        return (p.weight.coded->chunks().strips() + together - 1) / together;
    };
    std::int64_t tasks = 0;
    for (const Matmul& p : problems) {
        if (p.weight.coded == nullptr) continue;
        require(p.weight.shape.rows == p.weight.coded->chunks().rows, "matmul",
                "coded weights are not multiplied in parts");
        tasks += tasks_of(p);
    }
    exec.team->run(tasks, 1, [&](std::int64_t task, std::int64_t) {
        thread_local std::vector<std::uint16_t> room;
        for (const Matmul& p : problems) {
            if (p.weight.coded == nullptr) continue;
            if (task >= tasks_of(p)) {
                task -= tasks_of(p);
                continue;
            }
            const ops::CodedMatrix& coded = *p.weight.coded;
            const std::int64_t together = coded.strips_at_once(), s = task * together;
            const std::int64_t count = std::min(together, coded.chunks().strips() - s);
            const std::size_t numbers =
                static_cast<std::size_t>(together) * coded.strip_bytes() / sizeof room[0];
            if (room.size() < numbers) room.resize(numbers);
            if (!coded.decode_groups(s, count, room.data()))
                throw Error(Exit::kFailure, "matmul", "coded weights were damaged in memory");
            const std::int64_t row = s * coded.chunks().strip_rows();
            const std::int64_t end =
                std::min(row + count * coded.chunks().strip_rows(), p.weight.shape.rows);
            run_groups(exec, x, p, row / kGroupRows, (end + kGroupRows - 1) / kGroupRows,
                       reinterpret_cast<const std::byte*>(room.data()));
            return;
        }
    });
}

// Weights and input in bit planes.
void matmul_planes(const Exec& exec, const MatmulInput& x, int x_bits, const Matmul& p) {
    using L = Layout<LayoutId::k_bipolar>;
    const Shape2 shape = p.weight.shape;
    const auto& table = kernels(exec.isa);
    exec.team->run(
        shape.rows, grain_rows(shape.rows, shape.cols), [&](std::int64_t begin, std::int64_t end) {
            cpu::MatmulPlanes task{};
            task.words = p.weight.row(begin, L::kPlanesOfBits);
            task.scales = p.weight.row(begin, L::kScales);
            task.word_bytes = p.weight.planes[L::kPlanesOfBits].row_bytes;
            task.scale_bytes = p.weight.planes[L::kScales].row_bytes;
            task.bits = p.weight.params.bits, task.x_bits = x_bits;
            task.rows = end - begin, task.cols = shape.cols, task.group = p.weight.params.group;
            task.x = x.planes(), task.x_scales = x.plane_scales(), task.tokens = x.view().rows;
            task.out = p.out.row<float>(0) + begin, task.out_stride = p.out.stride;
            task.bias = p.bias ? p.bias->row<float>(0) + begin : nullptr;
            task.accumulate = p.accumulate;
            table.matmul_planes(task);
        });
}

// Block `b` of a stored row.
template <LayoutId id>
void pack_block(const PackedRow& from, std::int64_t b, int row,
                typename Interleaved<id>::Block& block) {
    using I = Interleaved<id>;
    if constexpr (kOfPlanes<id>) {
        I::pack(from, b * I::kElements, row, block);
    } else {
        I::pack(static_cast<const typename I::Stored*>(from.planes[0])[b], row, block);
    }
}

// `rows` rows of a group. Of floats all rows a column at a time: what is written lies side by side.
template <LayoutId id, class Block>
void interleave_rows(const PackedView& stored, std::int64_t row, std::int64_t rows, Block* group) {
    using I = Interleaved<id>;
    const std::int64_t blocks = stored.shape.cols / I::kElements;
    if constexpr (I::kElements == 1) {
        const typename I::Stored* from[kGroupRows] = {};
        for (std::int64_t r = 0; r < rows; ++r)
            from[r] = reinterpret_cast<const typename I::Stored*>(stored.row(row + r));
        for (std::int64_t b = 0; b < blocks; ++b)
            for (std::int64_t r = 0; r < rows; ++r) group[b].rows[r] = from[r][b];
    } else {
        for (std::int64_t r = 0; r < rows; ++r) {
            const PackedRow from = stored.packed_row(row + r);
            for (std::int64_t b = 0; b < blocks; ++b)
                pack_block<id>(from, b, static_cast<int>(r), group[b]);
        }
    }
}

template <LayoutId id>
void weave(const Exec& exec, const PackedView& stored, std::byte* out) {
    const Shape2 shape = stored.shape;
    const std::size_t bytes = SparseGroup::of(stored.params, shape.cols).bytes();
    exec.team->run(
        (shape.rows + kGroupRows - 1) / kGroupRows, 1, [&](std::int64_t begin, std::int64_t end) {
            PackedRow rows[kGroupRows];
            for (std::int64_t g = begin; g < end; ++g) {
                const std::int64_t first = g * kGroupRows;
                const auto count =
                    static_cast<int>(std::min<std::int64_t>(kGroupRows, shape.rows - first));
                for (int r = 0; r < count; ++r) rows[r] = stored.packed_row(first + r);
                std::byte* group = out + static_cast<std::size_t>(g) * bytes;
                std::memset(group, 0, bytes);
                Interleaved<id>::weave(rows, count, shape.cols, group);
            }
        });
}

// Blocks of a stored matrix to lanes of interleaved ones, group by group; rows that pad the last
// group are zero.
template <LayoutId id>
void interleave(const Exec& exec, const PackedView& stored, std::byte* out) {
    using I = Interleaved<id>;
    const std::int64_t blocks = stored.shape.cols / I::kElements;
    exec.team->run((stored.shape.rows + kGroupRows - 1) / kGroupRows, 1,
                   [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t g = begin; g < end; ++g) {
                           auto* group = reinterpret_cast<typename I::Block*>(out) + g * blocks;
                           const std::int64_t row = g * kGroupRows;
                           const std::int64_t rows =
                               std::min<std::int64_t>(kGroupRows, stored.shape.rows - row);
                           if (rows < kGroupRows)
                               std::memset(group, 0,
                                           sizeof(*group) * static_cast<std::size_t>(blocks));
                           interleave_rows<id>(stored, row, rows, group);
                       }
                   });
}

// Rows of coded weights.
void decode_coded(const Exec& exec, const PackedView& weight, RowRange range, View out) {
    const std::int64_t cols = weight.shape.cols;
    std::vector<std::uint16_t> numbers(static_cast<std::size_t>(range.count * cols));
    weight.coded->decode_rows({weight.coded_first + range.first, range.count}, numbers.data());
    for (std::int64_t r = 0; r < range.count; ++r) {
        const PackedRow row{{&numbers[static_cast<std::size_t>(r * cols)]}, weight.params};
        if (is_ref(exec)) {
            unpack_columns(LayoutId::k_bf16, row, 0, cols, out.row<double>(r));
        } else {
            kernels(exec.isa).decode_columns(LayoutId::k_bf16, row, 0, cols, out.row<float>(r));
        }
    }
}

template <class Real>
void decode_interleaved(const PackedView& weight, std::int64_t r, Real* out) {
    with_interleaved(weight.layout, [&](auto stored) {
        constexpr LayoutId kId = decltype(stored)::value;
        using I = Interleaved<kId>;
        const auto lane = static_cast<int>(r % kGroupRows);
        if constexpr (kWoven<kId>)
            I::unpack_row(weight.row(r - lane), lane, weight.params, weight.shape.cols, out);
        else {
            const auto* blocks = reinterpret_cast<const typename I::Block*>(weight.row(r - lane));
            for (std::int64_t k = 0; k < weight.shape.cols; k += I::kElements) {
                if constexpr (kOfPlanes<kId>)
                    I::unpack(blocks[k / I::kElements], lane, weight.params, out + k);
                else
                    I::unpack(blocks[k / I::kElements], lane, out + k);
            }
        }
    });
}

}  // namespace

MatmulInput::MatmulInput(const Exec& exec, View x) : exec_(exec), x_(x), scope_(*exec.workspace) {
    if (is_cuda(exec)) cuda_ = std::make_unique<on_cuda::InputForms>();
    if (is_dense(exec)) dense_ = dense::operand(exec, x);
}
MatmulInput::~MatmulInput() = default;

View MatmulInput::dense() const {
    require(is_dense(exec_), "MatmulInput", "exec does not ask for dense products");
    return dense_;
}

void MatmulInput::prepare(Activations kind) {
    const auto for_tokens = [&](auto fn) { for_rows(exec_, x_.rows, x_.cols, fn); };
    if ((kind == Activations::kI8 || kind == Activations::kI8Token) && i8_ == nullptr) {
        const std::int64_t blocks = x_.cols / 32;
        auto* out = reinterpret_cast<cpu::I8Block*>(exec_.workspace->take(
            static_cast<std::size_t>(x_.rows * blocks) * sizeof(cpu::I8Block)));
        const auto& table = kernels(exec_.isa);
        auto* quantise = kind == Activations::kI8 ? table.quantise_i8 : table.quantise_i8_token;
        for_tokens([&](std::int64_t t) { quantise(x_.row<float>(t), x_.cols, out + t * blocks); });
        i8_ = out;
    }
    const int bits = plane_bits(kind);
    if (bits != 0 && planes_ == nullptr) {
        const std::int64_t words = bits * plane_words(x_.cols);
        auto* planes = reinterpret_cast<std::uint32_t*>(exec_.workspace->take(
            static_cast<std::size_t>(x_.rows * words) * sizeof(std::uint32_t)));
        auto* scales = exec_.workspace->take_view(DType::kF32, 1, x_.rows).row<float>(0);
        const auto& table = kernels(exec_.isa);
        for_tokens([&](std::int64_t t) {
            table.encode_planes({x_.row<float>(t), x_.cols, bits, planes + t * words, scales + t});
        });
        planes_ = planes, plane_scales_ = scales;
    }
    if (kind == Activations::kBf16 && bf16_.data == nullptr) {
        const View out = exec_.workspace->take_view(DType::kF32, x_.rows, x_.cols);
        for_tokens([&](std::int64_t t) {
            for (std::int64_t k = 0; k < x_.cols; ++k)
                out.row<float>(t)[k] = bf16_to_f32(f32_to_bf16(x_.row<float>(t)[k]));
        });
        bf16_ = out;
    }
}

void matmul(const Exec& exec, MatmulInput& x, const Matmul& problem) {
    matmul(exec, x, std::span(&problem, 1));
}

void matmul(const Exec& exec, MatmulInput& x, std::span<const Matmul> problems) {
    const Timed timed(exec, problems);
    const View in = x.view();
    bool interleaved = !is_ref(exec);
    for (const Matmul& p : problems) {
        require_view(exec, in, in.rows, p.weight.shape.cols, "matmul");
        require_view(exec, p.out, in.rows, p.weight.shape.rows, "matmul");
        if (p.bias) require_view(exec, *p.bias, 1, p.weight.shape.rows, "matmul");
        if (is_dense(exec)) {
            matmul_dense(exec, x, p);
            continue;
        }
        if (is_cuda(exec)) {
            on_cuda::matmul(exec, in, x.cuda(), p);
            continue;
        }
        interleaved = interleaved && (p.weight.coded || is_interleaved(p.weight.layout));
        if (!is_ref(exec)) x.prepare(activations_for(p.weight.layout, exec));
    }
    if (is_cuda(exec) || is_dense(exec)) return;
    const auto coded = [](const Matmul& p) { return p.weight.coded != nullptr; };
    if (interleaved) {
        if (!std::all_of(problems.begin(), problems.end(), coded))
            matmul_interleaved(exec, x, problems);
        return matmul_coded(exec, x, problems);
    }
    for (const Matmul& p : problems) {
        if (exec.dry && is_ref(exec)) continue;
        if (is_ref(exec)) {
            matmul_ref(exec, in, p);
        } else if (coded(p)) {
            matmul_coded(exec, x, std::span(&p, 1));
        } else if (is_interleaved(p.weight.layout)) {
            matmul_interleaved(exec, x, std::span(&p, 1));
        } else if (const int bits = plane_bits(activations_for(p.weight.layout, exec))) {
            matmul_planes(exec, x, bits, p);
        } else {
            matmul_stored(exec, in, p);
        }
    }
}

std::size_t matmul_input_bytes(const Exec& exec, std::int64_t tokens, std::int64_t in) {
    if (is_dense(exec)) return dense::operand_bytes(exec, tokens, in);
    if (is_cuda(exec)) return on_cuda::matmul_input_bytes(exec, tokens, in);
    if (is_ref(exec) || exec.activations == Activations::kF32) return 0;
    const auto elements = static_cast<std::size_t>(tokens * in);
    const int planes = plane_bits(exec.activations);
    const bool i8 =
        exec.activations == Activations::kI8 || exec.activations == Activations::kI8Token ||
        ((exec.activations == Activations::kAuto || planes != 0) && multiplies_bytes(exec.isa));
    const auto aligned = [](std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; };
    std::size_t bytes = exec.activations == Activations::kBf16 ? elements * sizeof(float)
                        : i8 ? static_cast<std::size_t>(tokens * (in / 32)) * sizeof(cpu::I8Block)
                             : 0;
    bytes = aligned(bytes);
    if (planes != 0) {  // matrices of other layouts may share the input
        const auto words = static_cast<std::size_t>(tokens * planes * plane_words(in));
        bytes += aligned(words * sizeof(std::uint32_t)) +
                 aligned(static_cast<std::size_t>(tokens) * sizeof(float));
    }
    return bytes;
}

std::size_t matmul_bytes(const Exec& exec, Shape2 weight) {
    return is_dense(exec) ? dense::panel_bytes(exec, weight) : 0;
}

template <LayoutId id>
static bool is_twin_of(LayoutId stored, const LayoutParams& params) {
    if (Interleaved<id>::kStored != stored) return false;
    if constexpr (kOfPlanes<id>)
        return Interleaved<id>::fits(params);
    else
        return true;
}

std::optional<LayoutId> resident_layout(LayoutId stored, const LayoutParams& params) {
#define THIMBLE_INTERLEAVED(of, twin) \
    if (is_twin_of<LayoutId::k_##twin##_x16>(stored, params)) return LayoutId::k_##twin##_x16;
#include "kernels/layout/interleaved.def"
#undef THIMBLE_INTERLEAVED
    return std::nullopt;
}

static bool is_woven(LayoutId layout) {
    return is_interleaved(layout) &&
           with_interleaved(layout, [](auto id) { return kWoven<decltype(id)::value>; });
}

std::size_t packed_bytes(LayoutId layout, Shape2 shape, const LayoutParams& params) {
    const LayoutInfo& info = layout_info(layout);
    const std::int64_t row_blocks = (shape.rows + info.block_rows - 1) / info.block_rows;
    if (is_woven(layout)) {
        require(params.slots > 0, "packed_bytes", "rows of any number of weights");
        return static_cast<std::size_t>(row_blocks) * SparseGroup::of(params, shape.cols).bytes();
    }
    return static_cast<std::size_t>(row_blocks * (shape.cols / info.block_elements)) *
           info.block_bytes;
}

PackedView repack(const Exec& exec, const PackedView& stored, LayoutId layout, std::byte* out) {
    const Timed timed(exec, "repack");
    require(resident_layout(stored.layout, stored.params) == layout, "repack",
            "there is no such resident layout");
    PackedView view{layout, stored.shape, {}, 1, stored.params};
    with_interleaved(layout, [&](auto id) {
        using I = Interleaved<decltype(id)::value>;
        if constexpr (kWoven<decltype(id)::value>)
            weave<decltype(id)::value>(exec, stored, out);
        else
            interleave<decltype(id)::value>(exec, stored, out);
        if constexpr (requires { I::set_values(PackedRow{}, view.params); })
            I::set_values(stored.packed_row(0), view.params);
    });
    const std::size_t bytes = packed_bytes(layout, stored.shape, stored.params);
    const std::size_t group = packed_bytes(layout, {kGroupRows, stored.shape.cols}, stored.params);
    view.planes[0] = {out, group / kGroupRows, bytes};
    return view;
}

void decode_rows(const Exec& exec, const PackedView& weight, RowRange range, View out) {
    require_view(exec, out, range.count, weight.shape.cols, "decode_rows");
    require(range.first >= 0 && range.count >= 0 && range.first + range.count <= weight.shape.rows,
            "decode_rows", "the rows are outside the matrix");
    if (is_cuda(exec)) return on_cuda::decode_rows(exec, weight, range, out);
    if (weight.coded != nullptr) return decode_coded(exec, weight, range, out);
    for (std::int64_t r = 0; r < range.count; ++r) {
        if (is_interleaved(weight.layout)) {
            if (is_ref(exec)) {
                decode_interleaved(weight, range.first + r, out.row<double>(r));
            } else {
                decode_interleaved(weight, range.first + r, out.row<float>(r));
            }
            continue;
        }
        const PackedRow row = weight.packed_row(range.first + r);
        const std::int64_t cols = weight.shape.cols;
        if (is_ref(exec)) {
            unpack_columns(weight.layout, row, 0, cols, out.row<double>(r));
        } else {
            kernels(exec.isa).decode_columns(weight.layout, row, 0, cols, out.row<float>(r));
        }
    }
}

}  // namespace thimble::ops
