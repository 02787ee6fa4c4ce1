// SPDX-License-Identifier: Apache-2.0
// Processes that work on one job together, called ranks and counted from 0. All of them must make
// the same calls in the same order; each call returns when the others have made it, too. One thread
// of a process makes them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace thimble::dist {

// As it stands, a process alone, for which all of this is nothing. MPI's derives from it.
class Communicator {
  public:
    Communicator() = default;
    virtual ~Communicator() = default;
    Communicator(const Communicator&) = delete;
    Communicator& operator=(const Communicator&) = delete;

    [[nodiscard]] int rank() const noexcept { return rank_; }
    [[nodiscard]] int size() const noexcept { return size_; }
    // Ranks that may run on the same cores as this one, itself among them; 1 when the launcher has
    // bound each to its own.
    [[nodiscard]] int ranks_on_cores() const noexcept { return ranks_on_cores_; }

    // Each element becomes the sum of all ranks' values of it, added in double and in the order of
    // ranks: every rank has the same bytes then, and has them again in another run.
    virtual void sum(std::span<float> values) { (void)values; }
    virtual void sum(std::span<double> values) { (void)values; }
    // The first rank's bytes for all.
    virtual void broadcast(std::span<std::byte> bytes) { (void)bytes; }
    // Every rank's bytes in the order of ranks; all give as many.
    [[nodiscard]] virtual std::vector<std::byte> gather(std::span<const std::byte> bytes) {
        return {bytes.begin(), bytes.end()};
    }
    virtual void barrier() {}
    // Ends all ranks at once; the launcher's exit status is `code`.
    [[noreturn]] virtual void abort(int code);

    // What the ledger is charged for sums between ranks.
    [[nodiscard]] static std::size_t charged_bytes(int size) noexcept;

  protected:
    int rank_ = 0, size_ = 1, ranks_on_cores_ = 1;
};

// Of a process alone.
[[nodiscard]] Communicator* alone();

// Ranks that a launcher (mpirun, srun) started, this one among them, by what it left in the
// environment; 0: there was no launcher.
[[nodiscard]] int launched_ranks();
// The ranks of a launcher, through MPI; where there was none, a process alone, and MPI stays
// untouched. Error(kUsage) when several were started that could not find each other, each of which
// would do the whole job again.
[[nodiscard]] std::unique_ptr<Communicator> join();
// default_threads(), shared between ranks that run on the same cores.
[[nodiscard]] int default_threads_of(const Communicator& ranks);

}  // namespace thimble::dist
