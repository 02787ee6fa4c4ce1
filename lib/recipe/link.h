// SPDX-License-Identifier: Apache-2.0
// References between steps: who needs whom, the order, and the values that stand for them.
#pragma once

#include <string>
#include <vector>

#include "recipe/recipe.h"

namespace thimble::recipe {

// `needs[i]`: the ids that step i names itself. Puts the steps in order and replaces references.
// Error(kUsage) for an unknown step or option and for steps that wait for each other.
void link_steps(Recipe& recipe, const std::vector<std::vector<std::string>>& needs);

}  // namespace thimble::recipe
