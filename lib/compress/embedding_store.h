// SPDX-License-Identifier: Apache-2.0
// A file of stored embedding vectors. It is a safetensors file:
//
//   codes      [rows, dims] F32, F16, F8_E4M3 or F8_E5M2, as the format's name says; U8 for int8;
//              [rows, bytes of a vector] U8 for e2m1 and binary (kernels/layout/vector_code.h)
//   offset, step  [dims] F32, of int8: the number is offset + step * code
//   magnitude  [1] F32, of binary: the number is +-magnitude
//   mean [source_dims], basis [dims, source_dims], variances [dims]  F32, where vectors were
//              projected: the number is basis (x - mean)
//   length     [1] F32, of projections compared by cosine: their mean length before it was made one
//
// "__metadata__" has the key thimble.embeddings, a JSON object:
//   version       1
//   format        f32, f16, e4m3, e5m2, int8, e2m1, binary
//   rows, dims    of the codes; source_dims: of the vectors they were made from
//   similarity    cosine: vectors were made of length one, before and after a projection; dot
//   prescale      n: casts are of 2^n times the number
// and thimble.steps, how the file came to be (io/provenance.h).
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "compress/principal.h"
#include "compress/vector_coder.h"
#include "compress/vector_space.h"
#include "io/file.h"
#include "io/json.h"

namespace thimble {

inline constexpr std::string_view kEmbeddingsKey = "thimble.embeddings";

struct StoreFacts {
    VectorCode code = VectorCode::kE4m3;
    std::int64_t rows = 0, dims = 0, source_dims = 0;
    Similarity similarity = Similarity::kCosine;
    int prescale = 0;
    bool projected = false;
    [[nodiscard]] bool has_length() const noexcept {
        return projected && similarity == Similarity::kCosine;
    }
};

// The tensors in the order of the file.
[[nodiscard]] std::vector<TensorSpec> store_specs(const StoreFacts& facts);
[[nodiscard]] std::string store_description(const StoreFacts& facts);

// Everything but the codes.
struct StoreParts {
    CodeParameters parameters;
    const PrincipalComponents* components = nullptr;
    float length = 1;
};
// The bytes of a tensor other than codes.
[[nodiscard]] std::span<const std::byte> part_bytes(const StoreParts& parts,
                                                    std::string_view tensor);

class EmbeddingStore {
  public:
    // Error(kUsage) of a file that is no such store, Error(kBadData) of a damaged one.
    explicit EmbeddingStore(const std::string& path);

    [[nodiscard]] const StoreFacts& facts() const noexcept { return facts_; }
    // Reads all but the codes; components only where the vectors were projected.
    struct Loaded {
        CodeParameters parameters;
        std::unique_ptr<PrincipalComponents> components;
        float length = 1;
    };
    [[nodiscard]] Loaded load() const;
    // Codes of `count` vectors from the first-th on.
    void read(std::int64_t first, std::int64_t count, std::span<std::byte> out) const;
    [[nodiscard]] const std::string& path() const noexcept { return file_.path(); }

  private:
    void describe(const Json& metadata);
    [[nodiscard]] const TensorEntry& entry(std::string_view name) const;
    void read_floats(std::string_view tensor, std::span<float> out) const;

    File file_;
    StoreFacts facts_;
    std::vector<TensorEntry> tensors_;
};

}  // namespace thimble
