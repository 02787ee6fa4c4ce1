// SPDX-License-Identifier: Apache-2.0
#include "quant/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/error.h"
#include "format/weight_format.h"
#include "io/file.h"
#include "io/sha256.h"
#include "tensor/buffer.h"

namespace thimble {
namespace {

constexpr std::uint64_t kPieceBytes = std::uint64_t{4} << 20;

bool is_integer(TensorType type) {
    switch (type) {
        case TensorType::kI8:
        case TensorType::kI16:
        case TensorType::kI32:
        case TensorType::kI64:
        case TensorType::kU8:
        case TensorType::kBool:
            return true;
        default:
            return false;
    }
}

std::uint64_t row_bytes(const TensorEntry& tensor) {
    return tensor.rows() == 0 ? 0 : tensor.bytes / tensor.rows();
}

// Whole rows of about kPieceBytes.
std::uint64_t piece_bytes(const TensorEntry& tensor) {
    const std::uint64_t row = std::max<std::uint64_t>(row_bytes(tensor), 1);
    return std::max<std::uint64_t>(kPieceBytes / row, 1) * row;
}

std::uint64_t greatest_piece(const ModelFile& file) {
    std::uint64_t most = kPieceBytes;
    for (const TensorEntry& tensor : file.tensors())
        most = std::max(most, std::min(piece_bytes(tensor), tensor.bytes));
    return most;
}

// Throws as WeightFormat::verify does.
void check_doubles(std::span<const std::byte> bytes, std::int64_t first_row, std::int64_t cols) {
    for (std::size_t i = 0; i < bytes.size() / sizeof(double); ++i) {
        double value = 0;
        std::memcpy(&value, bytes.data() + i * sizeof(double), sizeof(double));
        if (std::isfinite(value)) continue;
        const auto at = static_cast<std::int64_t>(i);
        throw Error(Exit::kBadData,
                    "row " + std::to_string(first_row + at / cols) + ", column " +
                        std::to_string(at % cols),
                    "NaN or infinite value");
    }
}

void check_rows(const TensorEntry& tensor, std::uint64_t offset, std::span<const std::byte> bytes) {
    const std::uint64_t row = row_bytes(tensor);
    if (row == 0) return;
    const auto first = static_cast<std::int64_t>(offset / row);
    const auto count = static_cast<std::int64_t>(bytes.size() / row);
    const auto cols = static_cast<std::int64_t>(tensor.row_elements());
    if (tensor.type == TensorType::kF64) return check_doubles(bytes, first, cols);
    const auto layout = layout_of(tensor.type);
    if (!layout) return;
    PackedView view;
    view.layout = *layout;
    view.shape = {count, cols};
    view.n_planes = 1;
    view.planes[0] = {bytes.data(), row, bytes.size()};
    format_of(*layout).verify(view, {0, count}, first);
}

}  // namespace

// One file from its first byte to its last.
class ModelVerifier::Walk {
  public:
    Walk(std::vector<TensorVerdict*> tensors, const std::string& path, Buffer& buffer, Team& team)
        : file_(path), tensors_(std::move(tensors)), buffer_(buffer), team_(team) {}

    // Calls between(bytes read) after each piece.
    template <class Between>
    bool run(FileVerdict& verdict, Between&& between) {
        bool listed_order = true;
        for (std::size_t i = 1; i < tensors_.size(); ++i)
            listed_order = listed_order && tensors_[i - 1]->tensor < tensors_[i]->tensor;
        for (TensorVerdict* tensor : tensors_) {
            const TensorEntry& entry = *tensor->tensor;
            if (!pass(entry.offset, nullptr, between)) return false;
            tensor_hash_.emplace();
            if (!pass(entry.offset + entry.bytes, tensor, between)) return false;
            tensor->sha256 = tensor_hash_->finish();
        }
        if (!pass(file_.bytes(), nullptr, between)) return false;
        verdict = {file_.path(), file_hash_.finish(), ""};
        if (listed_order) verdict.tensors_sha256 = all_hash_.finish();
        return true;
    }

  private:
    // Bytes from where the last pass ended; of `tensor`, or of none.
    template <class Between>
    bool pass(std::uint64_t end, TensorVerdict* tensor, Between&& between) {
        const std::uint64_t most = tensor ? piece_bytes(*tensor->tensor) : kPieceBytes;
        while (at_ < end) {
            const std::span<std::byte> piece =
                buffer_.span<std::byte>().first(std::min(most, end - at_));
            file_.read(at_, piece);
            digest(piece, tensor);
            at_ += piece.size();
            if (!between(piece.size())) return false;
        }
        return true;
    }

    // The sums and the check, each on whichever thread is free.
    void digest(std::span<const std::byte> piece, TensorVerdict* tensor) {
        team_.run(tensor ? 4 : 1, 1, [&](std::int64_t task, std::int64_t) {
            if (task == 0) file_hash_.update(piece);
            if (task == 1) tensor_hash_->update(piece);
            if (task == 2) all_hash_.update(piece);
            if (task == 3) check(piece, *tensor);
        });
    }

    void check(std::span<const std::byte> piece, TensorVerdict& tensor) const {
        if (!tensor.problem.empty()) return;  // the first one is enough
        try {
            check_rows(*tensor.tensor, at_ - tensor.tensor->offset, piece);
        } catch (const Error& e) {
            if (e.exit() != Exit::kBadData) throw;
            tensor.problem = e.where() + ": " + e.problem();
        }
    }

    File file_;
    std::vector<TensorVerdict*> tensors_;
    Buffer& buffer_;
    Team& team_;
    Sha256 file_hash_, all_hash_;
    std::optional<Sha256> tensor_hash_;  // of the tensor at hand
    std::uint64_t at_ = 0;
};

ModelVerifier::ModelVerifier(const ModelFile& file) : file_(file) {
    for (const TensorEntry& tensor : file.tensors()) {
        const bool known = tensor.type == TensorType::kF64 || layout_of(tensor.type).has_value();
        tensors_.push_back({&tensor, "", known || is_integer(tensor.type), ""});
    }
}

std::uint64_t ModelVerifier::buffer_bytes() const {
    return Buffer::charged_bytes(greatest_piece(file_));
}

bool ModelVerifier::run(Team& team,
                        const std::function<bool(std::uint64_t, std::uint64_t)>& progress) {
    Buffer buffer(greatest_piece(file_), Purpose::kIo);
    const std::vector<std::string> paths = file_.files();
    std::uint64_t done = 0;
    for (std::size_t shard = 0; shard < paths.size(); ++shard) {
        std::vector<TensorVerdict*> own;
        for (TensorVerdict& tensor : tensors_) {
            if (tensor.tensor->shard == static_cast<int>(shard)) own.push_back(&tensor);
        }
        std::sort(own.begin(), own.end(), [](const TensorVerdict* a, const TensorVerdict* b) {
            return a->tensor->offset < b->tensor->offset;
        });
        Walk walk(own, paths[shard], buffer, team);
        const bool whole = walk.run(files_.emplace_back(), [&](std::uint64_t bytes) {
            return progress(done += bytes, file_.file_bytes());
        });
        if (!whole) return false;
    }
    return true;
}

}  // namespace thimble
