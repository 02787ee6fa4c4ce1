// SPDX-License-Identifier: Apache-2.0
#include "model/adapted_store.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "format/weight_format.h"

namespace thimble {
namespace {

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

std::size_t row_scale_bytes(const AdapterMatrix& m, const Exec& exec) {
    return aligned(static_cast<std::size_t>(m.out()) * size_of(exec.dtype()));
}

double number(const std::string& text) {
    double value = 0;
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && at == end && std::isfinite(value)) return value;
    throw Error(Exit::kUsage, "--lora-scale", "'" + escaped(text) + "' is not a number");
}

PackedView packed(const float* values, Shape2 shape) {
    return block_form(LayoutId::k_f32, shape)
        .view(shape, reinterpret_cast<const std::byte*>(values));
}

// Another store's lease, held in a place of its own.
struct Held {
    Held(WeightStore& store, UnitId unit) : lease(store.acquire(unit)) {}
    Lease lease;
};

class AdaptedStore final : public WeightStore {
  public:
    AdaptedStore(std::unique_ptr<WeightStore> base, const ModelSource& source, const Exec& exec,
                 const std::vector<AdapterUse>& adapters)
        : base_(std::move(base)),
          exec_(exec),
          specs_(units_of(source)),
          units_(specs_.size()),
          memory_(unrounded_bytes(adapters, exec), Purpose::kWeights) {
        for (std::size_t u = 0; u < specs_.size(); ++u) {
            units_[u].terms.resize(specs_[u].matrices.size());
            units_[u].weights.matrices.resize(specs_[u].matrices.size());
            units_[u].weights.vectors.resize(specs_[u].vectors.size());
            for (std::size_t i = 0; u > 0 && i < specs_[u].matrices.size(); ++i)
                places_[specs_[u].matrices[i].weight] = {u, i};
        }
        std::byte* at = memory_.data();
        for (const AdapterUse& use : adapters) {
            const Adapter adapter = use.file->read(at);
            at += use.file->value_bytes();
            for (const AdapterMatrix& m : adapter.matrices) at = add(use, m, at);
        }
        scale_rows();
        for (const AdapterUse& use : adapters) term_bytes_ += use.file->value_bytes();
    }

    static std::size_t unrounded_bytes(const std::vector<AdapterUse>& adapters, const Exec& exec) {
        std::size_t bytes = 0;
        for (const AdapterUse& use : adapters) {
            bytes += use.file->value_bytes();
            if (!use.file->adapter().settings.dora) continue;
            for (const AdapterMatrix& m : use.file->adapter().matrices)
                bytes += row_scale_bytes(m, exec);
        }
        return bytes;
    }

    Lease acquire(UnitId id) override {
        held_.emplace(*base_, id);
        Unit& unit = units_[index_of(id, specs_)];
        for (std::size_t i = 0; i < unit.terms.size(); ++i) {
            Linear& linear = unit.weights.matrices[i];
            linear = held_->lease.matrix(i);
            linear.low_rank = unit.terms[i];
            const auto scale = unit.row_scales.find(i);
            if (scale != unit.row_scales.end()) linear.row_scale = scale->second.view;
        }
        for (std::size_t i = 0; i < unit.weights.vectors.size(); ++i)
            unit.weights.vectors[i] = held_->lease.vector(i);
        return {*this, id, unit.weights};
    }
    std::uint64_t bytes_per_token() const noexcept override {
        return base_->bytes_per_token() + term_bytes_;
    }
    std::uint64_t streamed_bytes() const noexcept override { return base_->streamed_bytes(); }

  private:
    struct RowScale {
        AdapterMatrix matrix;
        double scale = 1;
        View view;  // [1, out] in exec.dtype()
    };
    struct Unit {
        UnitWeights weights;                      // while it is leased
        std::vector<std::vector<LowRank>> terms;  // of each matrix
        std::map<std::size_t, RowScale> row_scales;
    };

    void release(UnitId) noexcept override { held_.reset(); }

    // Returns where in memory the next may lie.
    std::byte* add(const AdapterUse& use, const AdapterMatrix& m, std::byte* at) {
        const auto [u, i] = places_.at(m.tensor);
        units_[u].terms[i].push_back(
            {packed(m.a, {m.rank, m.in()}), packed(m.b, {m.out(), m.rank}), use.scale_of(m)});
        if (m.lengths == nullptr) return at;
        const View view{at, exec_.dtype(), 1, m.out(), m.out()};
        units_[u].row_scales.emplace(i, RowScale{m, use.scale_of(m), view});
        return at + row_scale_bytes(m, exec_);
    }

    void scale_rows() {
        for (std::size_t u = 1; u < units_.size(); ++u) {
            if (units_[u].row_scales.empty()) continue;
            const bool head = u + 1 == units_.size();
            const Held held(*base_,
                            head ? UnitId{UnitKind::kHead, 0}
                                 : UnitId{UnitKind::kLayer, static_cast<std::int64_t>(u) - 1});
            for (auto& [i, rows] : units_[u].row_scales) {
                if (held.lease.matrix(i).stack != nullptr || held.lease.matrix(i).factors) {
                    throw Error(Exit::kUsage, "--lora",
                                "rows of a matrix in blocks (bitstack) or factors (low-rank) have "
                                "no one length",
                                "use a LoRA adapter without DoRA");
                }
                scale_rows(held.lease.matrix(i).weight, rows);
            }
        }
    }

    // m / |W_r + scale * B_r A| of every row.
    void scale_rows(const PackedView& weight, RowScale& rows) const {
        Exec in_double = exec_;
        in_double.device = Device::kRef;
        const std::int64_t cols = weight.shape.cols;
        exec_.team->run(weight.shape.rows, 16, [&](std::int64_t begin, std::int64_t end) {
            std::vector<double> row(static_cast<std::size_t>(cols));
            for (std::int64_t r = begin; r < end; ++r) {
                ops::decode_rows(in_double, weight, {r, 1},
                                 {row.data(), DType::kF64, 1, cols, cols});
                add_terms(rows.matrix, rows.scale, r, row);
                const double scale = row_scale(rows.matrix, r, row);
                if (rows.view.dtype == DType::kF64) {
                    rows.view.row<double>(0)[r] = scale;
                } else {
                    rows.view.row<float>(0)[r] = static_cast<float>(scale);
                }
            }
        });
    }

    std::unique_ptr<WeightStore> base_;
    Exec exec_;
    std::vector<UnitSpec> specs_;
    std::vector<Unit> units_;
    std::map<const SourceTensor*, std::pair<std::size_t, std::size_t>> places_;  // unit, matrix
    Buffer memory_;  // values and row scales
    std::uint64_t term_bytes_ = 0;
    std::optional<Held> held_;
};

}  // namespace

void AdapterOptions::visit(OptionVisitor& v) {
    v.option({.name = "lora",
              .help = "low-rank adapter that changes the weights: PEFT directory or GGUF adapter; "
                      "several are added",
              .value = "PATH",
              .is_input = true},
             lora);
    v.option({.name = "lora-scale",
              .help = "factor of the adapter: one for all, or one for each in their order",
              .value = "N"},
             lora_scale);
}

std::vector<AdapterUse> open_adapters(const AdapterOptions& options, const ModelSource& source) {
    const std::size_t scales = options.lora_scale.size();
    if (scales > 1 && scales != options.lora.size()) {
        throw Error(Exit::kUsage, "--lora-scale",
                    std::to_string(scales) + " scales for " + std::to_string(options.lora.size()) +
                        " adapters",
                    "give one for all, or one for each");
    }
    if (scales > 0 && options.lora.empty())
        throw Error(Exit::kUsage, "--lora-scale", "there is no adapter", "give --lora PATH");
    std::vector<AdapterUse> uses;
    std::map<const SourceTensor*, bool> adapted;  // by DoRA
    for (const std::string& path : options.lora) {
        AdapterUse use;
        use.file = std::make_shared<const AdapterFile>(path, source);
        if (scales > 0) use.scale = number(options.lora_scale[scales == 1 ? 0 : uses.size()]);
        const Adapter& adapter = use.file->adapter();
        for (const AdapterMatrix& m : adapter.matrices) {
            const auto [at, first] = adapted.emplace(m.tensor, adapter.settings.dora);
            if (first || (!at->second && !adapter.settings.dora)) continue;
            throw Error(Exit::kUsage, "--lora",
                        "'" + escaped(path, 256) + "' and another adapter both change '" +
                            m.tensor->name + "', and one of them is DoRA",
                        "merge one into the model first: quantize --lora");
        }
        uses.push_back(std::move(use));
    }
    return uses;
}

std::uint64_t adapter_bytes(const std::vector<AdapterUse>& adapters, const Exec& exec) {
    return Buffer::charged_bytes(AdaptedStore::unrounded_bytes(adapters, exec));
}

std::size_t adapter_workspace_bytes(const std::vector<AdapterUse>& adapters, const Exec& exec,
                                    std::int64_t tokens) {
    std::int64_t rank = 0, widest = 0;
    bool dora = false;
    for (const AdapterUse& use : adapters) {
        dora = dora || use.file->adapter().settings.dora;
        for (const AdapterMatrix& m : use.file->adapter().matrices) {
            rank = std::max(rank, m.rank);
            widest = std::max(widest, m.out());
        }
    }
    return adapters.empty() ? 0 : low_rank_bytes(exec, tokens, rank, widest, dora);
}

std::unique_ptr<WeightStore> make_adapted_store(std::unique_ptr<WeightStore> base,
                                                const ModelSource& source, const Exec& exec,
                                                const std::vector<AdapterUse>& adapters) {
    if (adapters.empty()) return base;
    return std::make_unique<AdaptedStore>(std::move(base), source, exec, adapters);
}

}  // namespace thimble
