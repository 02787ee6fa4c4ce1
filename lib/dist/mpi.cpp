// SPDX-License-Identifier: Apache-2.0
// Ranks by MPI, called from one thread. Its failures end the job, which MPI sees to itself.
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <cstdint>

#include "core/error.h"
#include "dist/communicator.h"
#include "dist/scratch.h"
#include "tensor/buffer.h"

namespace thimble::dist {
namespace {

class Mpi final : public Communicator {
  public:
    Mpi() {
        int provided = 0;
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank_);
        MPI_Comm_size(MPI_COMM_WORLD, &size_);
        find_cores();
        if (size_ > 1) scratch_ = Buffer(scratch_bytes(size_), Purpose::kGradients);
        counts_.resize(static_cast<std::size_t>(size_));
        begins_.resize(counts_.size());
        mine_.resize(counts_.size());
        places_.resize(counts_.size());
    }
    ~Mpi() override { MPI_Finalize(); }
    Mpi(const Mpi&) = delete;
    Mpi& operator=(const Mpi&) = delete;

    void sum(std::span<float> values) override { sum_chunks(values, MPI_FLOAT); }
    void sum(std::span<double> values) override { sum_chunks(values, MPI_DOUBLE); }

    void broadcast(std::span<std::byte> bytes) override {
        for (std::size_t begin = 0; begin < bytes.size(); begin += kChunkBytes) {
            MPI_Bcast(bytes.data() + begin,
                      static_cast<int>(std::min(kChunkBytes, bytes.size() - begin)), MPI_BYTE, 0,
                      MPI_COMM_WORLD);
        }
    }
    [[nodiscard]] std::vector<std::byte> gather(std::span<const std::byte> bytes) override {
        std::vector<std::byte> all(bytes.size() * static_cast<std::size_t>(size_));
        const auto count = static_cast<int>(bytes.size());
        MPI_Allgather(bytes.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD);
        return all;
    }
    void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }
    [[noreturn]] void abort(int code) override {
        MPI_Abort(MPI_COMM_WORLD, code);
        Communicator::abort(code);
    }

  private:
    // Whether the ranks of this host share their cores.
    void find_cores() {
        MPI_Comm host = MPI_COMM_NULL;
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host);
        int ranks = 1;
        MPI_Comm_size(host, &ranks);
        cpu_set_t mine, all;
        CPU_ZERO(&mine);
        sched_getaffinity(0, sizeof(mine), &mine);
        MPI_Allreduce(&mine, &all, sizeof(mine), MPI_BYTE, MPI_BOR, host);
        ranks_on_cores_ = CPU_COUNT(&mine) < CPU_COUNT(&all) ? 1 : ranks;
        MPI_Comm_free(&host);
    }

    template <class T>
    void sum_chunks(std::span<T> values, MPI_Datatype type) {
        if (size_ == 1) return;
        constexpr std::size_t kChunk = kChunkBytes / sizeof(T);
        for (std::size_t begin = 0; begin < values.size(); begin += kChunk)
            sum_chunk(values.subspan(begin, std::min(kChunk, values.size() - begin)), type);
    }

    // Each rank adds up its share of the chunk, then tells the others.
    template <class T>
    void sum_chunk(std::span<T> values, MPI_Datatype type) {
        const auto count = static_cast<std::int64_t>(values.size());
        for (int r = 0; r < size_; ++r) {
            const auto at = static_cast<std::size_t>(r);
            begins_[at] = static_cast<int>(count * r / size_);
            counts_[at] = static_cast<int>(count * (r + 1) / size_) - begins_[at];
        }
        const int share = counts_[static_cast<std::size_t>(rank_)];
        for (int r = 0; r < size_; ++r) {
            mine_[static_cast<std::size_t>(r)] = share;
            places_[static_cast<std::size_t>(r)] = r * share;
        }
        T* const theirs = scratch_.as<T>();
        MPI_Alltoallv(values.data(), counts_.data(), begins_.data(), type, theirs, mine_.data(),
                      places_.data(), type, MPI_COMM_WORLD);
        T* const sums = values.data() + begins_[static_cast<std::size_t>(rank_)];
        for (int i = 0; i < share; ++i) {
            double sum = 0;
            for (int r = 0; r < size_; ++r)
                sum += static_cast<double>(theirs[std::int64_t{r} * share + i]);
            sums[i] = static_cast<T>(sum);
        }
        MPI_Allgatherv(MPI_IN_PLACE, 0, type, values.data(), counts_.data(), begins_.data(), type,
                       MPI_COMM_WORLD);
    }

    Buffer scratch_;
    // Of a chunk's shares: how long, from where; of the values that this rank gets.
    std::vector<int> counts_, begins_, mine_, places_;
};

}  // namespace

std::unique_ptr<Communicator> join() {
    const int launched = launched_ranks();
    if (launched == 0) return std::make_unique<Communicator>();
    auto ranks = std::make_unique<Mpi>();
    if (ranks->size() == 1 && launched > 1) {
        throw Error(Exit::kUsage, "MPI",
                    "the launcher started " + std::to_string(launched) +
                        " processes that do not find each other: each would do the whole job",
                    "the mpirun of this build's MPI, or srun --mpi=pmix");
    }
    return ranks;
}

}  // namespace thimble::dist
