// SPDX-License-Identifier: Apache-2.0
#include "tensor/dtype.h"

namespace thimble {

std::string_view name(DType t) noexcept {
    switch (t) {
        case DType::kF64:
            return "f64";
        case DType::kF32:
            return "f32";
        case DType::kF16:
            return "f16";
        case DType::kBF16:
            return "bf16";
        case DType::kI64:
            return "i64";
        case DType::kI32:
            return "i32";
        case DType::kI16:
            return "i16";
        case DType::kI8:
            return "i8";
        case DType::kU8:
            return "u8";
    }
    return "?";
}

}  // namespace thimble
