// SPDX-License-Identifier: Apache-2.0
// Quantised Hugging Face checkpoints: `quantization_config` in config.json names a method, and the
// method knows which tensors form one matrix. Codes, scales and zero points are kept as they are.
// One leaf file in imports/ plus one line in imports.def makes a new method.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>

#include "core/registry.h"
#include "model/packed_tensor.h"

namespace thimble {

// The object `quantization_config`. Errors are kBadData and name the file and the key.
class ImportConfig {
  public:
    ImportConfig(const ModelFile& file, const Json& object);
    [[nodiscard]] const ModelFile& file() const noexcept { return file_; }
    [[nodiscard]] const Json* find(std::string_view key) const;  // null when absent or null
    [[nodiscard]] std::int64_t get_int(std::string_view key) const;
    [[nodiscard]] std::optional<std::int64_t> find_int(std::string_view key) const;
    [[nodiscard]] bool find_bool(std::string_view key, bool otherwise) const;
    [[nodiscard]] std::string find_string(std::string_view key, std::string_view otherwise) const;
    // Keys that change nothing in what is stored are listed too: any other is refused.
    void expect_keys(std::initializer_list<std::string_view> known) const;
    [[noreturn]] void fail(std::string_view key, const std::string& what) const;
    [[noreturn]] void fail_tensor(const std::string& tensor, const std::string& what) const;

    // The tensor, if it is there: of this type and shape, else kBadData.
    [[nodiscard]] const TensorEntry* find_tensor(const std::string& name,
                                                 std::initializer_list<TensorType> types,
                                                 const std::vector<std::uint64_t>& dims) const;
    [[nodiscard]] const TensorEntry& get_tensor(const std::string& name,
                                                std::initializer_list<TensorType> types,
                                                const std::vector<std::uint64_t>& dims) const;

  private:
    const ModelFile& file_;
    const Json& object_;
};

// One open checkpoint; `file` and its config outlive it.
class Importer {
  public:
    virtual ~Importer() = default;
    // The matrix [shape] of a module ("model.layers.0.mlp.up_proj"); null when the module's weight
    // is an ordinary tensor.
    [[nodiscard]] virtual std::shared_ptr<const PackedTensor> find(const std::string& module,
                                                                   Shape2 shape) const = 0;
};

class ImportMethod {
  public:
    virtual ~ImportMethod() = default;
    [[nodiscard]] virtual std::string_view name() const = 0;  // its `quant_method`
    [[nodiscard]] virtual std::unique_ptr<Importer> open(const ImportConfig& config) const = 0;
};

[[nodiscard]] const Registry<ImportMethod>& import_methods();

// Null when the checkpoint says nothing of quantisation.
[[nodiscard]] std::unique_ptr<Importer> open_importer(const ModelFile& file);

// Parts that methods share.

// Rows `rows` of the transpose of a stored matrix [k, n] of elements of `size` bytes (2 or 4):
// out[r][j] = stored[j][rows.first + r].
void read_transposed(const ModelFile& file, const TensorEntry& entry, std::size_t size,
                     RowRange rows, std::byte* out);
// The group of each input, [in] i32, as the plane `groups`; added to `entries`. Empty when there is
// no such tensor, or when it only counts `groups` equal groups up, which is what its absence says.
[[nodiscard]] std::vector<std::int16_t> read_group_index(const ImportConfig& config,
                                                         const std::string& tensor,
                                                         std::uint64_t in, std::uint64_t groups,
                                                         std::vector<const TensorEntry*>& entries);
[[nodiscard]] DType scale_dtype(TensorType type);
// A plane of an affine matrix.
[[nodiscard]] PlaneInfo plane_info(std::string name, DType dtype, std::vector<std::uint64_t> dims);
// The form of these planes, or kBadData naming the module.
[[nodiscard]] PackedForm imported_form(const ImportConfig& config, const std::string& module,
                                       LayoutId layout, Shape2 shape,
                                       const std::vector<PlaneInfo>& planes);

}  // namespace thimble
