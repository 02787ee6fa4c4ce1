// SPDX-License-Identifier: Apache-2.0
// Vectors as they are compared, piece by piece: of length one for cosine, projected onto principal
// components where there are some, and of length one again.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "compress/principal.h"
#include "io/vector_file.h"

namespace thimble {

enum class Similarity : std::uint8_t { kCosine, kDot };

// Rows of a file that are left out, or that alone are read; rising.
struct RowChoice {
    std::vector<std::int64_t> rows;
    bool only = false;
};

using VectorProgress = std::function<bool(std::int64_t done, std::int64_t total)>;

// Rows done, over all passes; once it was told to stop, passes end at once.
class VectorPasses {
  public:
    VectorPasses(std::int64_t total, VectorProgress progress)
        : total_(total), progress_(std::move(progress)) {}
    void add(std::int64_t rows) {
        done_ += rows;
        stopped_ = stopped_ || !progress_(done_, total_);
    }
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }

  private:
    std::int64_t total_, done_ = 0;
    VectorProgress progress_;
    bool stopped_ = false;
};

// Vectors of length one, but for zeros, which stay. x: [rows, stride] of which `dims` count.
// Returns the sum of what the lengths were.
double normalise(float* x, std::int64_t rows, std::int64_t stride, std::int64_t dims) noexcept;

struct SpaceSetting {
    const VectorFile* file = nullptr;
    Similarity similarity = Similarity::kCosine;
    RowChoice rows = {};
    std::int64_t most_rows = 0;  // of a piece
};

class VectorSpace {
  public:
    VectorSpace(SpaceSetting setting, VectorPasses& passes, Team& team, Isa isa);

    // fn(x, rows) for each piece; x: [n, dims], rows: their numbers.
    using Take = std::function<void(std::span<float> x, std::span<const std::int64_t> rows)>;
    void each(const Take& fn);

    // The same for each of `kept` numbers of directions, rising, 0 for no projection: fn(i, z,
    // rows), z: [n, padded_dims(kept[i] or dims)], padded with zeros. Queries are not centred where
    // products are compared: q (mean + basis^T z) ranks as (basis q) z does.
    // differs for products: the paper centres queries always, which changes their ranks.
    struct Projection {
        const PrincipalComponents* components = nullptr;
        std::span<const std::int64_t> kept;
        bool queries = false;
    };
    using TakeProjected =
        std::function<void(std::size_t i, std::span<float> z, std::span<const std::int64_t> rows)>;
    void each(const Projection& projection, const TakeProjected& fn);
    // Mean length of projected vectors before they were made of length one, by kept[i].
    [[nodiscard]] double mean_length(std::size_t i) const noexcept {
        return seen_ > 0 ? lengths_[i] / static_cast<double>(seen_) : 0;
    }

    // Rows of a piece whose numbers take some MiB.
    [[nodiscard]] static std::int64_t usual_rows(const VectorFile& file) noexcept;
    // What passes hold; most_kept 0: without a projection.
    [[nodiscard]] static std::uint64_t bytes(std::int64_t dims, std::int64_t most_rows,
                                             std::int64_t most_kept, bool plain);

  private:
    void read(const Take& fn);

    SpaceSetting setting_;
    VectorPasses& passes_;
    Team& team_;
    Isa isa_;
    Buffer x_, full_, z_;
    std::vector<double> lengths_;
    std::int64_t seen_ = 0;
};

}  // namespace thimble
