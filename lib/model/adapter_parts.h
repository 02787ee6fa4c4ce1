// SPDX-License-Identifier: Apache-2.0
// What the parsers and writers of adapter files share.
#pragma once

#include <functional>
#include <map>

#include "core/error.h"
#include "io/tensor_writer.h"
#include "model/adapter.h"

namespace thimble {

struct AdapterFile::Parts {
    // Where the values of a matrix lie.
    struct Stored {
        const TensorEntry *a = nullptr, *b = nullptr, *lengths = nullptr;
    };
    std::string path;
    std::vector<std::string> beside;  // files besides the tensors'
    std::unique_ptr<ModelFile> file;
    Adapter adapter;
    std::vector<Stored> stored;  // of each matrix
    bool hf_rows = false;        // rows of B and lengths as Hugging Face orders them
    std::int64_t head_dim = 0;   // of the model

    [[nodiscard]] Error error(const std::string& what, const std::string& hint = {}) const;
};
using AdapterParts = AdapterFile::Parts;

[[nodiscard]] AdapterParts open_peft(const std::string& directory, const ModelSource& source);
[[nodiscard]] AdapterParts parse_peft(std::unique_ptr<ModelFile> file, const Json& config,
                                      const std::string& config_path, const ModelSource& source);
[[nodiscard]] AdapterParts parse_gguf_adapter(std::unique_ptr<ModelFile> file,
                                              const ModelSource& source);

// Pairs up the tensors of an adapter file.
class AdapterTable {
  public:
    enum class Role : std::uint8_t { kA, kB, kLengths };
    // W (null: there is none of that name, which either container has) must be a matrix of a layer
    // or a head of its own.
    void add(const AdapterParts& parts, const ModelSource& source, std::string_view name,
             const SourceTensor* matrix, Role role, const TensorEntry& entry);
    // Checks the pairs and their shapes and moves them into `parts`, in the source's order.
    void finish(const ModelSource& source, AdapterParts& parts,
                const std::function<double(const SourceTensor&, std::int64_t rank)>& alpha_of);

  private:
    std::map<const SourceTensor*, AdapterParts::Stored> stored_;
};

// Writes a matrix of floats as plain floats of some type: row r of the tensor is values' row
// row_of(r) (empty: r), times `factor`.
struct FloatMatrix {
    const float* values = nullptr;
    Shape2 shape;
    std::function<std::int64_t(std::int64_t)> row_of = {};
    double factor = 1;
};
void write_floats(TensorWriter& writer, std::size_t tensor, const FloatMatrix& matrix,
                  TensorType type);

}  // namespace thimble
