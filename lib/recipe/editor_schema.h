// SPDX-License-Identifier: Apache-2.0
// A JSON Schema of whole recipes for editors, made of what the tools say of their options: `with`
// is completed and checked by the step's `uses`.
#pragma once

#include "recipe/toolbox.h"

namespace thimble::recipe {

[[nodiscard]] Json editor_schema(Toolbox& toolbox);

}  // namespace thimble::recipe
